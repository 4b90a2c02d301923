"""The 1-bit runtime: runs packed files on xor and popcount, with numpy and no torch."""

from ..packed.preparation import load_image, normalise, read_image
from .session import Session, default_threads, instruction_sets, load

__all__ = [
    'Session',
    'default_threads',
    'instruction_sets',
    'load',
    'load_image',
    'normalise',
    'read_image',
]
