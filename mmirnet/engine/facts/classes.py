"""Determines class names from a checkpoint, a data set or the command line."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from ...errors import ConfigError
from ..labels import listed
from .data_sets import parts

_log = logging.getLogger('mmirnet')


def checkpoint_classes(checkpoint: dict) -> list[str] | None:
    """Returns the class names that a checkpoint stores.

    Args:
        checkpoint (dict): The loaded checkpoint.

    Returns:
        list[str] | None: The names, if available.
    """
    meta = checkpoint.get('meta') or {}
    return texts((meta.get('dataset_meta') or meta).get('classes')) or texts(
        (meta.get('dataset_meta') or meta).get('CLASSES')  # MMClassification 0.x
    )


def dataset_classes(dataset: Dataset | None) -> list[str] | None:
    """Returns the class names of a data set.

    Args:
        dataset (Dataset | None): The data set.

    Returns:
        list[str] | None: The names, if available.
    """
    for part in () if dataset is None else (dataset, *parts(dataset)):
        metainfo = getattr(part, 'metainfo', None) or {}
        if names := texts(metainfo.get('classes') or getattr(part, 'classes', None)):
            return names
    return None


def class_names(
    model: nn.Module,
    dataset: Dataset | None,
    outputs: int,
    given: Sequence[str] | None = None,
) -> list[str] | None:
    """Determines the name of each output of a classifier.

    Given names come first, then those of the checkpoint, then those of the data set. If
    checkpoint and data set differ, a warning names the difference.

    Args:
        model (nn.Module): Output of :func:`build_model`.
        dataset (Dataset | None): The data set.
        outputs (int): Number of classes of the network.
        given (Sequence[str], optional): Names, or one text file with one name per line.

    Returns:
        list[str] | None: One name per output; outputs without a class are named by
        their number. None if no names are known.

    Raises:
        ConfigError: If there are more names than outputs.
    """
    if given:
        return given_classes(given, outputs)
    trained = (getattr(model, '_dataset_meta', None) or {}).get('classes')
    here = dataset_classes(dataset)
    if trained and here and (difference := class_difference(trained, here)):
        _log.warning(
            'the test set has other classes than the checkpoint: %s; the names are '
            "the checkpoint's, --classes gives others",
            difference,
        )
    names = trained or here
    if names is not None and len(names) > outputs:
        whose = 'checkpoint' if trained else 'data set'
        raise ConfigError(
            f'the {whose} has {len(names)} classes, the network has {outputs}: '
            f'name them with --classes'
        )
    if names is None:
        return None
    return names + [f'class {i}' for i in range(len(names), outputs)]


def given_classes(given: Sequence[str], outputs: int) -> list[str]:
    """Returns the class names of a command line.

    Args:
        given (Sequence[str]): The names, or one text file with one name per line.
        outputs (int): Number of classes of the network.

    Returns:
        list[str]: The names.

    Raises:
        ConfigError: If the number of names is wrong.

    Example:
        >>> given_classes(['cat', 'dog'], 2)
        ['cat', 'dog']
    """
    names = list(given)
    if len(given) == 1 and Path(given[0]).is_file():
        try:
            lines = Path(given[0]).read_text(encoding='utf-8-sig').splitlines()
        except UnicodeDecodeError as error:
            raise ConfigError(
                f'--classes {given[0]} is no text in UTF-8: {error.reason} in byte '
                f'{error.start}'
            ) from error
        names = [line.strip() for line in lines if line.strip()]
    elif len(given) == 1 < outputs:
        raise ConfigError(
            f'--classes {given[0]}: there is no such file, and the network has '
            f'{outputs} classes'
        )
    if len(names) != outputs:
        raise ConfigError(
            f'--classes names {len(names)} classes, the network has {outputs}'
        )
    return names


def class_difference(one: Sequence[str], other: Sequence[str]) -> str:
    """Describes the difference between two lists of classes; empty if they are equal.

    Args:
        one (Sequence[str]): Class names.
        other (Sequence[str]): Class names that should be the same.

    Returns:
        str: The description.

    Example:
        >>> class_difference(['cat', 'dog'], ['cat', 'cow'])
        "'dog' is missing, 'cow' is new"
        >>> class_difference(['cat', 'dog'], ['dog', 'cat'])
        "number 0 is 'dog', not 'cat'"
    """
    one, other = list(map(str, one)), list(map(str, other))
    missing = [name for name in one if name not in other]
    new = [name for name in other if name not in one]
    words = [
        f'{listed(names)} {"is" if len(names) == 1 else "are"} {what}'
        for names, what in ((missing, 'missing'), (new, 'new'))
        if names
    ]
    if not words:
        moved = [i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b]
        words = [f'number {i} is {other[i]!r}, not {one[i]!r}' for i in moved[:1]]
    return ', '.join(words)


def texts(names: Any) -> list[str] | None:
    """Names as plain strings, and None as None."""
    return [str(name) for name in names] if names is not None else None
