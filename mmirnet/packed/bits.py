"""Signs as bits, 64 in a word, and back."""

from math import prod

import numpy as np


def unpack_signs(signs: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Bits of every filter, of shape ``(out, *shape)``, as uint8 0 and 1.

    Args:
        signs: uint64 of shape (out, words), as in a packed file.
        shape: Of one filter, in the order of its bits.
    """
    octets = np.ascontiguousarray(signs, '<u8').view(np.uint8)
    bits = np.unpackbits(octets, axis=-1, bitorder='little')
    return bits[:, : prod(shape)].reshape(-1, *shape)


def pack_bits(bits: np.ndarray) -> np.ndarray:
    """The last axis of 0 and 1 in words of 64, the first in bit 0."""
    tail = -bits.shape[-1] % 64
    bits = np.pad(bits, [(0, 0)] * (bits.ndim - 1) + [(0, tail)])
    return np.packbits(bits, axis=-1, bitorder='little').view('<u8')


def scaled_signs(bits: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    """Bits of filters as float32 -s and +s, with s = 2**exponent of each filter.

    Args:
        bits: 0 and 1, of shape (out, ...).
        exponent: Integers of shape (out,).
    """
    scale = np.exp2(exponent.astype(np.float32))
    return (bits.astype(np.float32) * 2 - 1) * scale.reshape(-1, *[1] * (bits.ndim - 1))
