"""Packed checkpoints and the 1-bit engine.

Reading and running a packed file needs numpy and safetensors; packing,
unpacking and exporting import torch when they are called.
"""

from .engine import Engine, default_threads, instruction_sets, load
from .format import Packed, PackedFileError, read

__all__ = [
    'Engine',
    'Packed',
    'PackedFileError',
    'default_threads',
    'instruction_sets',
    'load',
    'read',
]
