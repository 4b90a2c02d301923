"""``flatten``: features of maps. The shape stays, and says how they are ordered."""

from .lowering import Alias
from .operation import Operation, register


def to_onnx(graph, fields, arrays):
    """Adds the node."""
    graph.node('Flatten', fields['src'], fields['dst'])
    graph.flat.add(fields['dst'])


register(
    Operation(
        name='flatten',
        shape=lambda fields, inputs, tensors: inputs[0],
        simulate=lambda fields, x: x,
        to_onnx=to_onnx,
        lower=lambda fields, inputs, tensors: Alias(),
    )
)
