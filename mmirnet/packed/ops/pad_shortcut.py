"""``pad_shortcut``: every ``stride``-th pixel, with channels of zero around its own.

The shortcut without weights of a ResNet for CIFAR: ``before`` and ``after`` are the
numbers of channels of zero.
"""

import numpy as np

from ..fields import integer
from ..limits import MAX_CHANNELS, MAX_STRIDE
from .lowering import Kernel
from .operation import Operation, register


def _shape(fields, inputs, tensors):
    ((channels, height, width),) = inputs
    stride = integer(fields, 'stride', 1, MAX_STRIDE)
    before = integer(fields, 'before', 0, MAX_CHANNELS)
    after = integer(fields, 'after', 0, MAX_CHANNELS)
    return before + channels + after, -(-height // stride), -(-width // stride)


def _simulate(fields, x):
    import torch.nn.functional as F

    x = x[:, :, :: fields['stride'], :: fields['stride']]
    return F.pad(x, (0, 0, 0, 0, fields['before'], fields['after']))


def _to_onnx(graph, fields, arrays):
    output = fields['dst']
    cut = graph.node(
        'Slice',
        [
            graph.maps(fields['src'][0]),
            graph.constant('corner', np.array([0, 0])),
            graph.constant('end', np.array([2**31 - 1] * 2)),
            graph.constant('sides', np.array([2, 3])),
            graph.constant(f'{output}.step', np.array([fields['stride']] * 2)),
        ],
        f'{output}.cut',
    )
    pads = np.array([0, fields['before'], 0, 0, 0, fields['after'], 0, 0])
    graph.node('Pad', [cut, graph.constant(f'{output}.pads', pads)], output)


register(
    Operation(
        name='pad_shortcut',
        attributes=('stride', 'before', 'after'),
        shape=_shape,
        simulate=_simulate,
        to_onnx=_to_onnx,
        lower=lambda fields, inputs, tensors: Kernel(
            'shortcut', arguments=(fields['stride'], fields['before'])
        ),
    )
)
