"""Packed files: a network as data, its binary weights as bits.

Reading one needs numpy and safetensors. What makes or simulates one needs torch, and
is imported when it is first used: `pack`, `write`, `unpack` and `Simulation`.
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
    'read',
    'unpack',
    'write',
]

_TORCH = {'pack': 'packing', 'write': 'packing'} | dict.fromkeys(
    ('Simulation', 'unpack'), 'simulation'
)


def __getattr__(name: str) -> Any:
    if name in _TORCH:
        return getattr(import_module(f'{__name__}.{_TORCH[name]}'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
