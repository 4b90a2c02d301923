"""``average_pool``: the mean of each channel over the whole image.

The runtime adds pixel after pixel, row after row, and divides once. torch has an order
of its own, which is that of the model that was packed. With ``in_order`` true the
simulation does as the runtime: where the mean becomes an integer, a last bit would
decide which.
"""

from functools import reduce

from ..fields import boolean
from .lowering import Kernel
from .operation import Operation, register
from .windows import Geometry


def _shape(fields, inputs, tensors):
    if 'in_order' in fields:
        boolean(fields, 'in_order')
    return inputs[0][0], 1, 1


def _simulate(fields, x):
    import torch
    import torch.nn.functional as F

    if fields.get('in_order'):
        pixels = x.flatten(2).unbind(2)
        return (reduce(torch.add, pixels) / len(pixels))[..., None, None]
    return F.adaptive_avg_pool2d(x, 1)


def _to_onnx(graph, fields, arrays):
    source = graph.maps(fields['src'][0])
    graph.node('GlobalAveragePool', [source], fields['dst'])


register(
    Operation(
        name='average_pool',
        options=('in_order',),
        shape=_shape,
        simulate=_simulate,
        to_onnx=_to_onnx,
        lower=lambda fields, inputs, tensors: Kernel(
            'average_pool', Geometry(inputs[0][1:]), (False,)
        ),
    )
)
