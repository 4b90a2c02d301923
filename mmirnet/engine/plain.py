"""Conversion to plain data, which can be loaded from a checkpoint.

torch refuses to load unknown classes. Before a checkpoint is saved, the records of data
sets, hooks and config are converted to dicts, lists, numbers and strings. MMEngine's
log histories and numpy arrays of common dtypes are kept.
"""

import collections
import datetime
import enum
import os
from collections.abc import Mapping
from collections.abc import Set as AbstractSet

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

from ..errors import CheckpointError

_AS_THEY_ARE = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    bytearray,
    torch.dtype,
    torch.device,
    torch.Size,
    HistoryBuffer,
)
#: numpy dtypes that can be loaded, see `mmirnet.compat`.
_ARRAYS = ('f8', 'f4', 'i8', 'i4', 'u1', 'b1')


def plain(value: object, where: str) -> object:
    """Converts a value to data that can be loaded from a checkpoint.

    Args:
        value (object): The value.
        where (str): Its place, for messages.

    Returns:
        object: The value itself if it is plain, or else a copy: mappings become dicts,
        named tuples become tuples, paths and dates strings, members of enumerations
        their values, and numpy numbers Python numbers.

    Raises:
        CheckpointError: If a part of it cannot be converted; names its place.

    Example:
        >>> from pathlib import Path
        >>> plain({'root': Path('a'), 'size': (np.int64(3), None)}, 'metainfo')
        {'root': 'a', 'size': (3, None)}
    """
    if type(value) is bytes and not value:  # which torch does not load
        return bytearray()
    if type(value) in _AS_THEY_ARE or isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        return _mapping(value, where)
    if isinstance(value, list | tuple | collections.deque):
        items = [plain(v, f'{where}[{i}]') for i, v in enumerate(value)]
        if type(value) in (list, tuple) and _same(items, value):
            return value
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, AbstractSet):
        items = {plain(v, where) for v in value}
        return value if type(value) is set and items == value else items
    return _single(value, where)


def _mapping(value: Mapping, where: str) -> Mapping:
    keys = [plain(k, f'a key of {where}') for k in value]
    items = [
        plain(v, f'{where}[{k!r}]') for k, v in zip(keys, value.values(), strict=True)
    ]
    known = type(value) in (dict, collections.OrderedDict, collections.Counter)
    if known and _same(keys, value) and _same(items, value.values()):
        return value
    return dict(zip(keys, items, strict=True))


def _same(new: list, old) -> bool:
    return all(a is b for a, b in zip(new, old, strict=True))


def _single(value: object, where: str) -> object:
    """Converts a value that is neither plain nor a container."""
    if isinstance(value, enum.Enum):
        return plain(value.value, where)
    if isinstance(value, np.ndarray):
        known = type(value) is np.ndarray and value.dtype.str[1:] in _ARRAYS
        known &= value.size > 0  # torch cannot load empty arrays
        return value if known else plain(value.tolist(), where)
    if isinstance(value, np.generic):
        return plain(value.item(), where)
    if isinstance(value, range):
        return list(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, datetime.date | datetime.time | datetime.timedelta):
        return str(value)
    for base in (int, float, complex, str, bytes):  # subclasses of these
        if isinstance(value, base):
            return base(value)
    raise CheckpointError(
        f'{where} is a {type(value).__module__}.{type(value).__qualname__}, which a '
        'checkpoint cannot hold: make it a number, a string, or a list or dict of these'
    )
