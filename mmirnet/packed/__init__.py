"""Packed files: a network as data, its binary weights as bits.

Reading one needs numpy and safetensors. What makes or simulates one needs torch, and
is imported when it is first used: `pack`, `quantise`, `write`, `unpack`, `Simulation`.
"""

from importlib import import_module
from typing import Any

from ..errors import PackedFileError
from .format import Packed, read

__all__ = [
    'Packed',
    'PackedFileError',
    'Simulation',
    'pack',
    'quantise',
    'read',
    'unpack',
    'write',
]

_TORCH = {
    'Simulation': 'simulation',
    'pack': 'packing',
    'quantise': 'quantising',
    'unpack': 'simulation',
    'write': 'packing',
}


def __getattr__(name: str) -> Any:
    if name in _TORCH:
        return getattr(import_module(f'{__name__}.{_TORCH[name]}'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
