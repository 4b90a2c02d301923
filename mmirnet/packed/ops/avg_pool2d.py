"""``avg_pool2d``: the mean of each window, with the padding or without it."""

from math import prod

from ..fields import boolean
from .lowering import Kernel
from .operation import Operation, register
from .windows import geometry, onnx_attributes, pooled_shape


def _shape(fields, inputs, tensors):
    boolean(fields, 'include_pad')
    return pooled_shape(fields, *inputs)


def _simulate(fields, x):
    import torch
    import torch.nn.functional as F

    window = geometry(fields)
    top, left, bottom, right = window.padding

    def sums(values):
        values = F.pad(values, (left, right, top, bottom))
        return F.avg_pool2d(values, window.kernel, window.stride, divisor_override=1)

    if fields['include_pad']:
        return sums(x) / prod(window.kernel)
    return sums(x) / sums(torch.ones_like(x[:1, :1]))


def _to_onnx(graph, fields, arrays):
    graph.node(
        'AveragePool',
        [graph.maps(fields['src'][0])],
        fields['dst'],
        **onnx_attributes(geometry(fields)),
        count_include_pad=int(fields['include_pad']),
    )


register(
    Operation(
        name='avg_pool2d',
        attributes=('kernel', 'stride', 'padding', 'include_pad'),
        shape=_shape,
        simulate=_simulate,
        to_onnx=_to_onnx,
        lower=lambda fields, inputs, tensors: Kernel(
            'average_pool', geometry(fields), (fields['include_pad'],)
        ),
    )
)
