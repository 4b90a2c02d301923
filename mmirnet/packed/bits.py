"""Signs as bits, 64 in a word, and back."""

from math import prod

import numpy as np


def unpack_signs(signs: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Unpacks the signs of filters to one byte per bit.

    Args:
        signs (np.ndarray): uint64 of shape (out, words), as in a packed file.
        shape (tuple[int, ...]): Shape of one filter, in the order of its bits.

    Returns:
        np.ndarray: 0 and 1, uint8 of shape ``(out, *shape)``.
    """
    octets = np.ascontiguousarray(signs, '<u8').view(np.uint8)
    bits = np.unpackbits(octets, axis=-1, bitorder='little')
    return bits[:, : prod(shape)].reshape(-1, *shape)


def pack_bits(bits: np.ndarray) -> np.ndarray:
    """Packs the last axis into words of 64 bits.

    Args:
        bits (np.ndarray): 0 and 1, of shape (..., n).

    Returns:
        np.ndarray: uint64 of shape (..., words). The first element is bit 0 of the
        first word, and the bits after the last element are 0.
    """
    tail = -bits.shape[-1] % 64
    bits = np.pad(bits, [(0, 0)] * (bits.ndim - 1) + [(0, tail)])
    return np.packbits(bits, axis=-1, bitorder='little').view('<u8')


def scaled_signs(bits: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    """Computes binary weights from bits and scales that are powers of two.

    Args:
        bits (np.ndarray): 0 and 1, of shape (out, ...).
        exponent (np.ndarray): log2 of the scale of each filter, (out,).

    Returns:
        np.ndarray: -2**exponent and +2**exponent, float32 with the shape of the bits.
    """
    scale = np.exp2(exponent.astype(np.float32))
    return (bits.astype(np.float32) * 2 - 1) * scale.reshape(-1, *[1] * (bits.ndim - 1))
