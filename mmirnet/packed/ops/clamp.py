"""``clamp``: y = min(max(x, low), high); a limit that is null is none."""

from math import inf

import numpy as np

from ..fields import need, number
from .lowering import Clamp
from .operation import Operation, register


def _shape(fields, inputs, tensors):
    limits = [
        number(fields, name) for name in ('low', 'high') if fields[name] is not None
    ]
    need(bool(limits), 'low and high are both null')
    need(limits == sorted(limits), f'low and high are in the wrong order: {limits}')
    return inputs[0]


def _simulate(fields, x):
    import torch

    return torch.clamp(x, fields['low'], fields['high'])


def add_clip(graph, fields, low, high):
    """Adds the node of a clamp; a limit may be None."""
    (source,), output = fields['src'], fields['dst']
    limits = [
        '' if limit is None else graph.constant(f'{output}.{i}', np.float32(limit))
        for i, limit in enumerate((low, high))
    ]
    graph.node('Clip', [source, *limits], output)
    graph.follow(source, output)


def _to_onnx(graph, fields, arrays):
    add_clip(graph, fields, fields['low'], fields['high'])


def _lower(fields, inputs, tensors):
    low, high = fields['low'], fields['high']
    return Clamp(-inf if low is None else low, inf if high is None else high)


register(
    Operation(
        name='clamp',
        attributes=('low', 'high'),
        shape=_shape,
        simulate=_simulate,
        to_onnx=_to_onnx,
        lower=_lower,
    )
)
