"""``vector``: (C, H, W) as C * H * W channels of one pixel."""

from math import prod

from .flatten import to_onnx
from .lowering import Alias, Kernel
from .operation import Operation, register


def _lower(fields, inputs, tensors):
    return Alias() if inputs[0][1:] == (1, 1) else Kernel('vector')


register(
    Operation(
        name='vector',
        shape=lambda fields, inputs, tensors: (prod(inputs[0]), 1, 1),
        simulate=lambda fields, x: x,
        to_onnx=to_onnx,
        lower=_lower,
    )
)
