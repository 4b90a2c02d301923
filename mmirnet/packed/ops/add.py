"""``add``: the sum of two values of one shape."""

from .lowering import Sum
from .operation import Operation, register, same_shape


def _to_onnx(graph, fields, arrays):
    sources, output = fields['src'], fields['dst']
    if len({name in graph.flat for name in sources}) > 1:
        sources = [graph.features(name) for name in sources]
        graph.flat.add(output)
    graph.node('Add', sources, output)
    graph.follow(sources[0], output)


register(
    Operation(
        name='add',
        operands=2,
        shape=same_shape,
        simulate=lambda fields, x, y: x + y,
        to_onnx=_to_onnx,
        lower=lambda fields, inputs, tensors: Sum(),
    )
)
