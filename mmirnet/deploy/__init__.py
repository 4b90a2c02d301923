"""Packed checkpoints and the 1-bit engine.

Reading and running a packed file needs numpy and safetensors. What trains or
converts is imported when it is first used: `pack`, `write` and `unpack` need
torch.
"""

from typing import Any

from ..errors import PackedFileError
from .engine import Engine, default_threads, instruction_sets, load
from .format import Packed, read
from .preparation import load_image, read_image

__all__ = [
    'Engine',
    'Packed',
    'PackedFileError',
    'Simulation',
    'default_threads',
    'instruction_sets',
    'load',
    'load_image',
    'pack',
    'read',
    'read_image',
    'unpack',
    'write',
]


_TORCH = ('Simulation', 'pack', 'unpack', 'write')


def __getattr__(name: str) -> Any:
    if name in _TORCH:
        from . import packing

        return getattr(packing, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
