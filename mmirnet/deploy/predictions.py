"""What a network says of images, ready to be read. Needs numpy alone."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from .engine import Engine
from .images import read_image


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits.

    Args:
        logits: (N, classes).

    Returns:
        float64 of the same shape; rows sum to 1.

    Example:
        >>> softmax(np.array([[0.0, 0.0], [1000.0, 0.0]]))
        array([[0.5, 0.5],
               [1. , 0. ]])
    """
    logits = logits.astype(np.float64)
    scores = np.exp(logits - logits.max(1, keepdims=True))
    return scores / scores.sum(1, keepdims=True)


def classify(engine: Engine, paths: Sequence[str | os.PathLike]) -> np.ndarray:
    """Probabilities of image files on the 1-bit engine.

    Args:
        engine: A packed network.
        paths: Image files, prepared as :func:`mmirnet.deploy.read_image` says.

    Returns:
        float64 of shape (N, classes).

    Raises:
        OSError: If a file is no image.
    """
    spec = engine.input
    size = spec['height'], spec['width']
    # One at a time: files of any number fit into memory.
    images = (read_image(path, size, spec['channels']) for path in paths)
    return softmax(np.concatenate([engine.predict(image[None]) for image in images]))


def top_k(
    scores: np.ndarray, classes: Sequence[str] | None, k: int
) -> list[dict[str, Any]]:
    """The likeliest classes of an image.

    Args:
        scores: Probabilities, (classes,).
        classes: Their names, if known.
        k: How many are wanted.

    Returns:
        ``label``, ``class`` and ``score`` of each, the likeliest first.

    Example:
        >>> top_k(np.array([0.25, 0.75]), ['cat', 'dog'], 1)
        [{'label': 1, 'class': 'dog', 'score': 0.75}]
    """
    return [
        {
            'label': int(label),
            'class': classes[label] if classes else f'class {label}',
            'score': float(scores[label]),
        }
        for label in np.argsort(-scores, kind='stable')[:k]
    ]


def report(image: str | os.PathLike, top: list[dict[str, Any]]) -> str:
    """An image's likeliest classes as lines of text.

    Example:
        >>> print(report('a.png', top_k(np.array([0.25, 0.75]), None, 2)))
        a.png
           75.00 %  class 1
           25.00 %  class 0
    """
    lines = (f'  {100 * entry["score"]:6.2f} %  {entry["class"]}' for entry in top)
    return '\n'.join([str(image), *lines])
