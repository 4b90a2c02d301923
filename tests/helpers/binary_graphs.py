"""Packed networks of single operations, put together by hand."""

import numpy as np
import torch

from mmirnet.packed import Simulation, preparation
from mmirnet.packed.bits import pack_bits
from mmirnet.packed.format import Packed, check

DTYPES = {'u': 'U64', 'i': 'I8', 'f': 'F32'}


def op(name, kind, *src, **attributes):
    """One operation of a graph."""
    return dict(op=kind, src=list(src), dst=name, **attributes)


def packed_network(graph, tensors, shape):
    """A checked network of these operations, on images of a shape."""
    channels, height, width = shape
    spec = dict(channels=channels, height=height, width=width)
    spec |= dict(mean=[0.0] * channels, std=[1.0] * channels)
    spec |= preparation.default(*shape)
    dtypes = {name: DTYPES[array.dtype.kind] for name, array in tensors.items()}
    return check(Packed(spec, graph, tensors, dtypes=dtypes))


def simulated(packed, x):
    """What torch computes of a network."""
    with torch.no_grad():
        return Simulation(packed)(torch.from_numpy(x)).numpy()


def random_signs(rng, out, *window):
    """Words of random filters, whose window is (height, width, channels)."""
    return pack_bits(rng.integers(0, 2, (out, int(np.prod(window))), np.uint8))


def real(rng, *shape):
    """Numbers of both signs and of several orders of magnitude, some of them zero."""
    values = rng.normal(size=shape) * 4.0 ** rng.integers(-3, 3, shape)
    return np.where(rng.random(shape) < 0.1, 0, values).astype(np.float32)


def layer_tensors(rng, form, out, *window):
    """The tensors of a binary layer in one of its forms."""
    tensors = dict(signs=random_signs(rng, out, *window))
    if form == 'exponent':
        tensors['exponent'] = rng.integers(-3, 3, out).astype(np.int8)
    else:
        tensors['scale'] = real(rng, out)
    if form == 'terms':
        tensors['offset'] = real(rng, out)
        tensors['affine_input'] = rng.normal(size=2).astype(np.float32)
    return tensors
