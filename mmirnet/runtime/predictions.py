"""Classifies image files and formats the results. Needs only numpy."""

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

#: Called with a file that cannot be classified, and with the reason.
Failed = Callable[[str, Exception], None]
# Seconds between two lines about the progress.
_SECONDS = 10.0


def softmax(logits: np.ndarray) -> np.ndarray:
    """Computes the probabilities of classes that exclude each other.

    Args:
        logits (np.ndarray): (N, classes).

    Returns:
        np.ndarray: float64 of the same shape. Each row sums to 1.

    Example:
        >>> softmax(np.array([[0.0, 0.0], [1000.0, 0.0]]))
        array([[0.5, 0.5],
               [1. , 0. ]])
    """
    logits = logits.astype(np.float64)
    scores = np.exp(logits - logits.max(1, keepdims=True))
    return scores / scores.sum(1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Computes the probabilities of classes that do not exclude each other.

    Args:
        logits (np.ndarray): (N, classes).

    Returns:
        np.ndarray: float64 of the same shape.

    Example:
        >>> sigmoid(np.array([[0.0, 1000.0, -1000.0]]))
        array([[0.5, 1. , 0. ]])
    """
    decay = np.exp(-np.abs(logits.astype(np.float64)))
    return np.where(logits >= 0, 1.0, decay) / (1 + decay)


_SCORES = {'softmax': softmax, 'sigmoid': sigmoid}


def predicted(scores: np.ndarray, head: dict[str, Any]) -> list[int]:
    """Returns the classes that a network predicts for an image.

    Args:
        scores (np.ndarray): Probabilities, (classes,).
        head (dict[str, Any]): ``head`` of the packed network.

    Returns:
        list[int]: One class for softmax. For sigmoid, those with a score of at least
        ``threshold``, or without a threshold the ``topk`` best.

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
    """Returns the files that the arguments of a command line name.

    Args:
        arguments (Iterable[str | os.PathLike]): Files, folders of images and of such
            folders, and patterns such as ``photos/*.jpg``, in which ``**`` stands for
            any folders.

    Returns:
        list[str]: The files in the order of the arguments, and sorted by name for each
        of them. An argument without files is returned unchanged, so that a later error
        names it.

    Raises:
        ConfigError: If an argument is empty, or if there are no arguments.
    """
    found = []
    for argument in map(str, arguments):
        if not argument:
            raise ConfigError("'' names no image")
        if os.path.lexists(argument) or not glob.has_magic(argument):
            found += _images_in(argument) or [argument]
        else:
            matched = sorted(glob.glob(argument, recursive=True))
            files = [file for path in matched for file in _images_in(path)]
            # A pattern with ** matches folders and what is in them.
            found += {Path(file): file for file in files}.values() or [argument]
    if not found:
        raise ConfigError('no image is named')
    return found


def _images_in(path: str) -> list[str]:
    """Returns all images in and below a folder, by name, or the file itself."""
    folder = Path(path)
    if not folder.is_dir():
        return [path]
    return [str(p) for p in sorted(folder.rglob('*')) if _is_image(p, folder)]


def _is_image(path: Path, folder: Path) -> bool:
    """Whether a path is an image, or a broken link, which an error has to name."""
    hidden = any(part.startswith('.') for part in path.relative_to(folder).parts)
    named = path.suffix.lower() in SUFFIXES and not hidden
    return named and (path.is_file() or not path.exists())


def each(
    paths: Sequence[str | os.PathLike],
    work: Callable[[str | os.PathLike], Any],
    failed: Failed | None = None,
) -> Iterator[tuple[str | os.PathLike, Any]]:
    """Processes image files one by one, and prints the progress to stderr.

    Args:
        paths (Sequence[str | os.PathLike]): The files.
        work (Callable): Processes one file.
        failed (Callable, optional): Called with each file that cannot be read or
            prepared, and with the error. Without it, the error is raised.

    Yields:
        tuple: Each file that could be read, and the output of ``work``.
    """
    last = time.monotonic()
    for number, path in enumerate(paths):
        if time.monotonic() - last > _SECONDS:
            last = time.monotonic()
            print(f'{number:,} of {len(paths):,} images', file=sys.stderr)
        try:
            result = work(path)
        except MissingPackageError:  # the same for all files
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
    """Computes the probabilities of image files on the 1-bit runtime.

    Args:
        session (Session): The session.
        paths (Sequence[str | os.PathLike]): Image files, prepared by
            :func:`mmirnet.runtime.load_image`.
        failed (Callable, optional): See :func:`each`.

    Yields:
        tuple: Each file that could be read, and its probabilities, float64 (classes,).

    Raises:
        OSError: If a file is not an image.
        DataError: If a file does not fit the network.
    """
    scores = _SCORES[session.packed.head['scores']]

    def work(path: str | os.PathLike) -> np.ndarray:
        pixels = load_image(path, session.input)
        if pixels.dtype != np.uint8:
            pixels = normalise(pixels, session.input)
        return scores(session.predict(pixels[None]))[0]

    return each(paths, work, failed)


def check_topk(k: int) -> None:
    """Checks the number of classes to return.

    Args:
        k (int): The number. More than there are classes means all.

    Raises:
        ConfigError: If it is not positive.
    """
    if k < 1:
        raise ConfigError(f'--topk {k}: name 1 class or more')


def top_k(
    scores: np.ndarray, classes: Sequence[str] | None, k: int
) -> list[dict[str, Any]]:
    """Returns the most probable classes of an image.

    Args:
        scores (np.ndarray): Probabilities, (classes,).
        classes (Sequence[str] | None): Class names, if known.
        k (int): Number of classes to return.

    Returns:
        list[dict[str, Any]]: ``label``, ``class`` and ``score`` of each, the most
        probable first.

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
    """Creates the entry of an image in the results.

    Args:
        image (str | os.PathLike): The file.
        scores (np.ndarray): Probabilities, (classes,).
        classes (Sequence[str] | None): Class names, if known.
        k (int): Number of classes to return.
        head (dict[str, Any]): ``head`` of the network, see
            :mod:`mmirnet.packed.format`.

    Returns:
        dict[str, Any]: ``image``, and ``top`` as returned by :func:`top_k`. For a
        network that may predict any number of classes also ``predicted``, their labels.
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
    """Formats the most probable classes of an image; predicted ones get a star.

    Args:
        image (str | os.PathLike): The file.
        top (list[dict[str, Any]]): Output of :func:`top_k`.
        predicted (Sequence[int], optional): Labels of the predicted classes.

    Returns:
        str: A line for the file and one for each class.

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
    """The files that could not be classified; prints each error to stderr."""

    def __call__(self, path: str, error: Exception) -> None:
        """Adds a file and prints its error."""
        self.append(path)
        print(f'error: {error}', file=sys.stderr)

    def summary(self, total: int) -> str:
        """Returns the last line of the output."""
        return f'error: {len(self):,} of {total:,} images could not be classified'
