"""Checks of class names and labels."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import DataError


def class_name_problems(names: dict[str, Sequence[str]]) -> Iterator[Exception]:
    """Compares the class names of data sets and checkpoints.

    A label is a number. If two data sets give it different names, results of one class
    are counted for another.

    Args:
        names (dict[str, Sequence[str]]): Class names by their owner. All are compared
            with the first.

    Yields:
        Exception: A DataError if labels have different meanings. A warning if only the
        names differ or the last classes are missing.

    Example:
        >>> problems = class_name_problems({'train': 'abc', 'test': 'ac'})
        >>> print(next(problems))
        test has no class 'b', which train has: label 1 is 'c' in test and 'b' in tr...
    """
    for key, classes in names.items():
        if twice := {name for name in classes if list(classes).count(name) > 1}:
            yield DataError(f'{key} has the class {sorted(twice)[0]!r} twice')
    if not names:
        return
    (first, wanted), *others = names.items()
    wanted = list(wanted)
    for key, classes in others:
        if list(classes) != wanted:
            yield _difference(first, wanted, key, list(classes))


def _difference(
    first: str, wanted: list[str], key: str, classes: list[str]
) -> Exception:
    missing = [name for name in wanted if name not in classes]
    extra = [name for name in classes if name not in wanted]
    changes = []
    if missing:
        changes.append(f'has no class {listed(missing)}, which {first} has')
    if extra:
        changes.append(f'has a class {listed(extra)}, which {first} has not')
    change = ', and '.join(changes) or f'has the classes of {first} in another order'
    if classes == wanted[: len(classes)]:
        return UserWarning(f'{key} {change}')
    if wanted == classes[: len(wanted)]:
        return DataError(f'{key} {change}; give both the same classes')
    pairs = enumerate(zip(classes, wanted, strict=False))
    label = next(i for i, (one, other) in pairs if one != other)
    line = (
        f'{key} {change}: label {label} is {classes[label]!r} in {key} and '
        f'{wanted[label]!r} in {first}'
    )
    common = set(wanted) & set(classes)
    moved = any(wanted.index(name) != classes.index(name) for name in common)
    if common and not moved and len(classes) == len(wanted):
        return UserWarning(line)
    return DataError(
        f'{line}; give both the same classes in the same order (an empty folder for a '
        'class without images)'
    )


def listed(names: list[str], most: int = 3) -> str:
    """Formats some names and the number of further ones."""
    shown = ', '.join(map(repr, names[:most]))
    more = len(names) - most
    return f'{shown} and {more} more' if more > 0 else shown


def line_problems(
    path: str, lines: Sequence[str], outputs: int | None
) -> Iterator[Exception]:
    """Checks a list of files and labels.

    Args:
        path (str): Path of the list.
        lines (Sequence[str]): Its lines.
        outputs (int | None): Number of classes, if known.

    Yields:
        Exception: A DataError per kind of error, with the first line that has it.

    Example:
        >>> print(*line_problems('train.txt', ['a.png 1', 'b.png 2'], 2))
        train.txt, line 2: label 2 is not in 0 to 1; the labels count from 1, ...
    """
    if not lines:
        yield DataError(f'{path} is empty')
    labels, bad = {}, []
    for number, line in enumerate(lines, 1):
        _, _, text = line.strip().rpartition(' ')
        try:
            labels[number] = int(text)
        except ValueError:
            bad.append(number)
    if bad:
        line = lines[bad[0] - 1].strip()
        yield DataError(
            f'{path}, line {bad[0]}{_as_others(bad)}: needs FILE LABEL with a class '
            f'number from 0 on as label, got {line!r}'
        )
    wrong = [n for n, label in labels.items() if not _in_range(label, outputs)]
    if wrong:
        label = labels[wrong[0]]
        yield DataError(
            f'{path}, line {wrong[0]}{_as_others(wrong)}: '
            f'{_out_of_range(label, set(labels.values()), outputs)}'
        )


def label_problems(
    key: str, samples: Sequence[dict], outputs: int | None, several: bool | None
) -> Iterator[Exception]:
    """Checks the labels of a data set.

    Args:
        key (str): Name of the data set.
        samples (Sequence[dict]): Samples without images: ``gt_label`` and, for the
            message, ``img_path``.
        outputs (int | None): Number of classes, if known.
        several (bool | None): Whether a sample may have several labels, if known.

    Yields:
        Exception: A DataError per kind of error, with the first sample that has it.

    Example:
        >>> samples = [dict(gt_label=0), dict(gt_label=-1)]
        >>> print(*label_problems('train', samples, 2, False))
        train, sample 1: label -1 is not in 0 to 1; ...
    """
    faults: dict[str, list[int]] = {'type': [], 'several': [], 'range': []}
    numbers, one_hot = set(), []
    for i, sample in enumerate(samples):
        if 'gt_label' not in sample:
            continue
        label = sample['gt_label']
        values = [label] if type(label) is int else _values(label)
        if values is None:
            faults['type'].append(i)
        elif several is False and not _is_single(label):
            faults['several'].append(i)
        else:
            numbers.update(values)
            if outputs and len(values) == outputs > 2 and set(values) <= {0, 1}:
                one_hot.append(i)
            if not all(_in_range(value, outputs) for value in values):
                faults['range'].append(i)
    for fault, wrong in faults.items():
        if wrong:
            sample = samples[wrong[0]]
            place = sample.get('img_path') or f'sample {wrong[0]}'
            text = _fault_text(fault, sample['gt_label'], numbers, outputs)
            yield DataError(f'{key}, {place}{_as_others(wrong)}: {text}')
    if one_hot:
        label = samples[one_hot[0]]['gt_label']
        yield DataError(
            f'{key}: labels such as {label} are one-hot; gt_label takes class '
            'numbers, gt_score takes these'
        )


def _fault_text(fault: str, label: Any, numbers: set[int], outputs: int | None) -> str:
    """Describes what is wrong with a label; ``numbers`` are those of all samples."""
    if fault == 'range':
        outside = next(v for v in _values(label) if not _in_range(v, outputs))
        return _out_of_range(outside, numbers, outputs)
    if fault == 'type':
        return f'the label {label!r} is no class number (an integer from 0 on)'
    return (
        f'the label {label!r} is not a single number; the head for several labels is '
        'MultiLabelLinearClsHead'
    )


def _in_range(label: int, outputs: int | None) -> bool:
    return label >= 0 and (outputs is None or label < outputs)


def _out_of_range(label: int, numbers: set[int], outputs: int | None) -> str:
    line = f'label {label} is not in 0 to {outputs - 1 if outputs else "..."}'
    if min(numbers) == 1 and max(numbers) == outputs:
        return f'{line}; the labels count from 1, and have to count from 0'
    return f'{line}; classes count from 0 to model.head.num_classes - 1'


def _as_others(wrong: Sequence[int]) -> str:
    more = len(wrong) - 1
    return f' (and {more} other{"s" * (more > 1)})' if more else ''


def _is_single(label: Any) -> bool:
    return np.ndim(label) == 0 or (isinstance(label, Tensor) and label.numel() == 1)


def _values(label: Any) -> list[int] | None:
    """Returns the class numbers of a label, or None if it has anything else."""
    if isinstance(label, Tensor):
        label = label.numpy()
    if isinstance(label, (str, bytes, dict)):
        return None
    try:
        values = np.atleast_1d(np.asarray(label))
    except ValueError:  # ragged
        return None
    if values.ndim != 1 or (values.dtype.kind not in 'iub' and values.size):
        return None
    return values.tolist()
