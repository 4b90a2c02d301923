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


def _simulate(fields, x, weight, bias=None):
    import torch.nn.functional as F

    return F.linear(x.flatten(1), weight, bias)


def add_gemm(graph, fields, source, arrays):
    """Adds the node of a linear layer, also of a binary one."""
    output = fields['dst']
    operands = [source, graph.constant(f'{output}.weight', arrays['weight'])]
    if 'bias' in arrays:
        operands.append(graph.constant(f'{output}.bias', arrays['bias']))
    graph.node('Gemm', operands, output, transB=1)
    graph.flat.add(output)


def _to_onnx(graph, fields, arrays):
    add_gemm(graph, fields, graph.features(fields['src'][0]), arrays)


register(
    Operation(
        name='linear',
        tensors=('weight',),
        optional=('bias',),
        shape=_shape,
        simulate=_simulate,
        to_onnx=_to_onnx,
        lower=lambda fields, inputs, tensors: Product(Geometry(inputs[0][1:])),
        copied=lambda fields: [],  # it reads the image as it comes
    )
)
