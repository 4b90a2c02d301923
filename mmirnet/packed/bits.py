"""Signs as bits, 64 in a word, and back."""

from math import prod

import numpy as np

from .format import geometry


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


def signs_of(operation: dict, tensors: dict, shape: tuple) -> np.ndarray:
    """Bits (out, height, width, channels) of the filters of a binary layer.

    Args:
        operation: A binary convolution or linear layer.
        tensors: Its tensors.
        shape: (channels, height, width) of its input.
    """
    if operation['op'] == 'binary_linear':  # in the order of its features
        return unpack_signs(tensors['signs'], shape).transpose(0, 2, 3, 1)
    window = geometry(operation)
    filters = *window.kernel, shape[0] // window.groups
    return unpack_signs(tensors['signs'], filters)


def binary_weight(operation: dict, tensors: dict, shape: tuple) -> np.ndarray:
    """+-s of a binary layer as float32 (out, height, width, channels).

    Args:
        operation: A binary convolution or linear layer.
        tensors: Its tensors.
        shape: (channels, height, width) of its input.
    """
    bits = signs_of(operation, tensors, shape)
    scale = np.exp2(tensors['exponent'].astype(np.float32))
    return (bits.astype(np.float32) * 2 - 1) * scale[:, None, None, None]
