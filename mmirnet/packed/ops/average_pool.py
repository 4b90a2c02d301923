"""``average_pool``: the mean of each channel over the whole image."""

from .lowering import Kernel
from .operation import Operation, register
from .windows import Geometry


def _simulate(fields, x):
    import torch.nn.functional as F

    return F.adaptive_avg_pool2d(x, 1)


def _to_onnx(graph, fields, arrays):
    source = graph.maps(fields['src'][0])
    graph.node('GlobalAveragePool', [source], fields['dst'])


register(
    Operation(
        name='average_pool',
        shape=lambda fields, inputs, tensors: (inputs[0][0], 1, 1),
        simulate=_simulate,
        to_onnx=_to_onnx,
        lower=lambda fields, inputs, tensors: Kernel(
            'average_pool', Geometry(inputs[0][1:]), (False,)
        ),
    )
)
