"""What a network says of images, ready to be read. Needs numpy alone."""

import glob
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, DataError, MissingPackageError
from ..images import SUFFIXES
from ..packed.preparation import load_image, normalise
from .session import Session

#: Told of a file that cannot be classified, and why.
Failed = Callable[[str, Exception], None]
# How long a list of images is worked at before it says how far it is.
_SECONDS = 10.0


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


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities of classes that do not exclude each other.

    Args:
        logits: (N, classes).

    Returns:
        float64 of the same shape.

    Example:
        >>> sigmoid(np.array([[0.0, 1000.0, -1000.0]]))
        array([[0.5, 1. , 0. ]])
    """
    decay = np.exp(-np.abs(logits.astype(np.float64)))
    return np.where(logits >= 0, 1.0, decay) / (1 + decay)


_SCORES = {'softmax': softmax, 'sigmoid': sigmoid}


def predicted(scores: np.ndarray, head: dict[str, Any]) -> list[int]:
    """The classes that a network predicts.

    Args:
        scores: Probabilities, (classes,).
        head: Of the packed network.

    Returns:
        One class after a softmax. After a sigmoid those of at least ``threshold``, or
        without one the ``topk`` best.

    Example:
        >>> head = {'scores': 'sigmoid', 'threshold': 0.5, 'topk': None}
        >>> predicted(np.array([0.7, 0.1, 0.5]), head)
        [0, 2]
    """
    if head['scores'] == 'sigmoid' and head['threshold'] is not None:
        return np.flatnonzero(scores >= head['threshold']).tolist()
    best = np.argsort(-scores, kind='stable')
    return best[: head['topk'] or 1].tolist()


def image_files(arguments: Iterable[str | os.PathLike]) -> list[str]:
    """The files that a command line means.

    Args:
        arguments: Files; folders, for all images in them and below; patterns such as
            ``photos/*.jpg``, with ``**`` for any folders.

    Returns:
        Files in the order of the arguments, and by name within one. What means no
        file stays as it is, for an error that names it.

    Raises:
        ConfigError: If an argument is empty, or if there are none.
    """
    found = []
    for argument in map(str, arguments):
        if not argument:
            raise ConfigError("'' names no image")
        if os.path.lexists(argument) or not glob.has_magic(argument):
            found += _meant(argument) or [argument]
        else:
            matched = sorted(glob.glob(argument, recursive=True))
            files = [file for path in matched for file in _meant(path)]
            # A pattern with ** matches folders and what is in them.
            found += {Path(file): file for file in files}.values() or [argument]
    if not found:
        raise ConfigError('no image is named')
    return found


def _meant(path: str) -> list[str]:
    """All images in a folder and below it, by name; what is no folder as it is."""
    folder = Path(path)
    if not folder.is_dir():
        return [path]
    return [str(p) for p in sorted(folder.rglob('*')) if _is_image(p, folder)]


def _is_image(path: Path, folder: Path) -> bool:
    """Whether a file in a folder is meant; a link to nothing is, to be named."""
    hidden = any(part.startswith('.') for part in path.relative_to(folder).parts)
    named = path.suffix.lower() in SUFFIXES and not hidden
    return named and (path.is_file() or not path.exists())


def each(
    paths: Sequence[str | os.PathLike],
    work: Callable[[str | os.PathLike], Any],
    failed: Failed | None = None,
) -> Iterator[tuple[str | os.PathLike, Any]]:
    """Goes through image files, one at a time, and says on stderr how far it is.

    Args:
        paths: The files.
        work: What to do with one.
        failed: Told of a file that cannot be read or prepared; without it the error
            is raised.

    Yields:
        Each file that could be read, and what came of it.
    """
    last = time.monotonic()
    for number, path in enumerate(paths):
        if time.monotonic() - last > _SECONDS:
            last = time.monotonic()
            print(f'{number:,} of {len(paths):,} images', file=sys.stderr)
        try:
            result = work(path)
        except MissingPackageError:  # which no file is to blame for
            raise
        except (OSError, DataError) as error:
            if failed is None:
                raise
            failed(str(path), error)
        else:
            yield path, result


def classify(
    session: Session,
    paths: Sequence[str | os.PathLike],
    failed: Failed | None = None,
) -> Iterator[tuple[str | os.PathLike, np.ndarray]]:
    """Probabilities of image files on the 1-bit runtime.

    Args:
        session: A packed network.
        paths: Image files, prepared as :func:`mmirnet.runtime.load_image` says.
        failed: See :func:`each`.

    Yields:
        Each file that could be read, and its probabilities, float64 (classes,).

    Raises:
        OSError: If a file is no image.
        DataError: If it does not fit the network.
    """
    scores = _SCORES[session.packed.head['scores']]

    def work(path: str | os.PathLike) -> np.ndarray:
        pixels = load_image(path, session.input)
        if pixels.dtype != np.uint8:
            pixels = normalise(pixels, session.input)
        return scores(session.predict(pixels[None]))[0]

    return each(paths, work, failed)


def check_topk(k: int) -> None:
    """Refuses a number of classes to name that is no number of them.

    Args:
        k: How many classes are wanted; more than there are means all.

    Raises:
        ConfigError: If it is 0 or negative.
    """
    if k < 1:
        raise ConfigError(f'--topk {k}: name 1 class or more')


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


def result(
    image: str | os.PathLike,
    scores: np.ndarray,
    classes: Sequence[str] | None,
    k: int,
    head: dict[str, Any],
) -> dict[str, Any]:
    """What is written of an image.

    Args:
        image: The file.
        scores: Probabilities, (classes,).
        classes: Their names, if known.
        k: How many are wanted.
        head: Of the network, see :mod:`mmirnet.packed.format`.

    Returns:
        ``image`` and ``top``, see :func:`top_k`; for a network that may predict
        any number of classes also ``predicted``, their labels.
    """
    entry = {'image': str(image), 'top': top_k(scores, classes, k)}
    if head['scores'] == 'sigmoid':
        entry['predicted'] = predicted(scores, head)
    return entry


def report(
    image: str | os.PathLike,
    top: list[dict[str, Any]],
    predicted: Sequence[int] | None = None,
) -> str:
    """An image's likeliest classes as lines of text, those predicted with a star.

    Example:
        >>> print(report('a.png', top_k(np.array([0.25, 0.75]), None, 2)))
        a.png
           75.00 %  class 1
           25.00 %  class 0
        >>> print(report('a.png', top_k(np.array([0.25, 0.75]), None, 2), [1]))
        a.png
           75.00 %  class 1 *
           25.00 %  class 0
    """
    lines = (
        f'  {100 * entry["score"]:6.2f} %  {entry["class"]}'
        + (' *' if entry['label'] in (predicted or ()) else '')
        for entry in top
    )
    return '\n'.join([str(image), *lines])


class Failures(list):
    """Files that could not be classified; names each on stderr as it comes."""

    def __call__(self, path: str, error: Exception) -> None:
        """Takes note of a file."""
        self.append(path)
        print(f'error: {error}', file=sys.stderr)

    def summary(self, total: int) -> str:
        """One line for the end."""
        return f'error: {len(self):,} of {total:,} images could not be classified'
