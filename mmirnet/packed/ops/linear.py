"""``linear``: a float linear layer.

Its ``weight`` is (out, features), with features in the order (C, H, W); its ``bias``
is (out,).
"""

from math import prod

from ..fields import need
from .lowering import Product
from .operation import Operation, register
from .windows import Geometry


def _shape(fields, inputs, tensors):
    (shape,) = inputs
    weight = tensors['weight']
    need(
        weight.ndim == 2 and weight.size > 0 and weight.shape[1] == prod(shape),
        f'weight {weight.shape} does not fit {prod(shape)} features',
    )
    return weight.shape[0], 1, 1


def simulate(fields, x, weight, bias=None):
    """The layer in torch, also of a binary one with what it computes with."""
    import torch.nn.functional as F

    return F.linear(x.flatten(1), weight, bias)


def add_gemm(graph, fields, role, source, weight, bias, output):
    """Adds the node of a linear layer, without bias where that is None."""
    operands = [source, graph.constant(f'{fields["dst"]}.{role}', weight)]
    if bias is not None:
        operands.append(graph.constant(f'{fields["dst"]}.bias', bias))
    graph.node('Gemm', operands, output, transB=1)


def _to_onnx(graph, fields, arrays):
    output, weight, bias = fields['dst'], arrays['weight'], arrays.get('bias')
    source = graph.features(fields['src'][0])
    add_gemm(graph, fields, 'weight', source, weight, bias, output)
    graph.flat.add(output)


register(
    Operation(
        name='linear',
        tensors=('weight',),
        optional=('bias',),
        shape=_shape,
        simulate=simulate,
        to_onnx=_to_onnx,
        lower=lambda fields, inputs, tensors: Product(Geometry(inputs[0][1:])),
        copied=lambda fields, tensors: [],  # it reads the image as it comes
    )
)
