"""``affine``: y = affine[0] * x + affine[1] for each channel, with one rounding.

A BatchNorm in evaluation; ``affine`` is (2, channels).
"""

import numpy as np

from ..fields import need
from .lowering import Affine
from .operation import Operation, register


def _shape(fields, inputs, tensors):
    (shape,) = inputs
    affine = tensors['affine']
    need(
        affine.shape == (2, shape[0]),
        f'affine {affine.shape} does not fit {shape[0]} channels',
    )
    return shape


def simulate(fields, x, affine):
    """The affine in torch, as the BatchNorm that it was."""
    import torch
    import torch.nn.functional as F

    zero, one = torch.zeros_like(affine[0]), torch.ones_like(affine[0])
    # Added to 1 it is nothing, as 0 is, which torch 2.11 refuses.
    eps = torch.finfo(torch.float32).tiny
    return F.batch_norm(x, zero, one, affine[0], affine[1], False, 0.0, eps)


def to_onnx(graph, fields, arrays):
    """Adds the affine as the BatchNorm that it was."""
    (source,), output = fields['src'], fields['dst']
    shape = graph.shapes[source]
    ones = np.ones(shape[0], np.float32)
    values = [*arrays['affine'], 0 * ones, ones]
    names = [graph.constant(f'{output}.{i}', v) for i, v in enumerate(values)]
    # The features of flat maps are no channels of a BatchNorm.
    spread = source in graph.flat and shape[1:] != (1, 1)
    operand = graph.maps(source) if spread else source
    graph.node('BatchNormalization', [operand, *names], output, epsilon=0.0)
    if not spread:
        graph.follow(source, output)


register(
    Operation(
        name='affine',
        tensors=('affine',),
        shape=_shape,
        simulate=simulate,
        to_onnx=to_onnx,
        lower=lambda fields, inputs, tensors: Affine(*tensors['affine']),
    )
)
