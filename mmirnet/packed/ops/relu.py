"""``relu``: y = max(x, 0)."""

from math import inf

from .lowering import Clamp
from .operation import Operation, register, same_shape


def _simulate(fields, x):
    import torch.nn.functional as F

    return F.relu(x)


def _to_onnx(graph, fields, arrays):
    (source,), output = fields['src'], fields['dst']
    graph.node('Relu', [source], output)
    graph.follow(source, output)


register(
    Operation(
        name='relu',
        shape=same_shape,
        simulate=_simulate,
        to_onnx=_to_onnx,
        lower=lambda fields, inputs, tensors: Clamp(0.0, inf),
    )
)
