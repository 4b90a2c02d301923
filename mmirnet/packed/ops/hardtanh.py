"""``hardtanh``: y = min(max(x, -1), 1)."""

from .clamp import add_clip
from .lowering import Clamp
from .operation import Operation, register, same_shape


def _simulate(fields, x):
    import torch.nn.functional as F

    return F.hardtanh(x)


register(
    Operation(
        name='hardtanh',
        shape=same_shape,
        simulate=_simulate,
        to_onnx=lambda graph, fields, arrays: add_clip(graph, fields, -1, 1),
        lower=lambda fields, inputs, tensors: Clamp(-1.0, 1.0),
    )
)
