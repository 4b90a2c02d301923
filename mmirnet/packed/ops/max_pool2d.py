"""``max_pool2d``: the largest value of each window; the padding counts for nothing."""

from math import inf

from .lowering import Kernel
from .operation import Operation, register
from .windows import geometry, onnx_attributes, pad_image, pooled_shape

_MAX_KERNEL = 64


def _simulate(fields, x):
    import torch.nn.functional as F

    window = geometry(fields)
    x, padding = pad_image(x, window, -inf)
    if any(2 * p > k for p, k in zip(padding, window.kernel, strict=True)):
        x, padding = F.pad(x, [p for p in padding[::-1] for _ in '12'], value=-inf), 0
    return F.max_pool2d(x, window.kernel, window.stride, padding)


def _to_onnx(graph, fields, arrays):
    source = graph.maps(fields['src'][0])
    attributes = onnx_attributes(geometry(fields))
    graph.node('MaxPool', [source], fields['dst'], **attributes)


register(
    Operation(
        name='max_pool2d',
        attributes=('kernel', 'stride', 'padding'),
        shape=lambda fields, inputs, tensors: pooled_shape(
            fields, *inputs, most=_MAX_KERNEL
        ),
        simulate=_simulate,
        to_onnx=_to_onnx,
        lower=lambda fields, inputs, tensors: Kernel(
            'max_pool', geometry(fields), fuses=True
        ),
    )
)
