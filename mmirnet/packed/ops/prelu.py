"""``prelu``: y = positive * x where x >= 0, else negative * x, for each channel.

``negative`` and ``positive`` are (channels,). Without ``positive`` what is not negative
stays as it is: a PReLU.
"""

import numpy as np

from ..fields import need
from .lowering import Slopes
from .operation import Operation, register


def _shape(fields, inputs, tensors):
    (shape,) = inputs
    for role, slopes in tensors.items():
        need(
            slopes.shape == shape[:1],
            f'{role} {slopes.shape} does not fit {shape[0]} channels',
        )
    return shape


def _arrays(fields, inputs, tensors):
    return dict(positive=np.ones(inputs[0][0], np.float32)) | tensors


def _simulate(fields, x, negative, positive):
    import torch

    each = -1, 1, 1
    return x * torch.where(x >= 0, positive.reshape(each), negative.reshape(each))


def _to_onnx(graph, fields, arrays):
    (source,), output = fields['src'], fields['dst']
    shape = graph.shapes[source]
    # The features of flat maps are no channels.
    spread = source in graph.flat and shape[1:] != (1, 1)
    operand = graph.maps(source) if spread else source
    each = (-1,) if source in graph.flat and not spread else (-1, 1, 1)
    slopes = [
        graph.constant(f'{output}.{role}', arrays[role].reshape(each))
        for role in ('positive', 'negative')
    ]
    zero = graph.constant('zero', np.float32(0))
    above = graph.node('GreaterOrEqual', [operand, zero], f'{output}.above')
    slope = graph.node('Where', [above, *slopes], f'{output}.slope')
    graph.node('Mul', [operand, slope], output)
    if not spread:
        graph.follow(source, output)


register(
    Operation(
        name='prelu',
        tensors=('negative',),
        optional=('positive',),
        shape=_shape,
        arrays=_arrays,
        simulate=_simulate,
        to_onnx=_to_onnx,
        lower=lambda fields, inputs, tensors: Slopes(
            **_arrays(fields, inputs, tensors)
        ),
    )
)
