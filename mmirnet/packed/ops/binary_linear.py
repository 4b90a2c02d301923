"""``binary_linear``: a linear layer whose weights are one bit each.

The bits are in the order of its features, (C, H, W).
"""

from math import prod

from ..bits import scaled_signs, unpack_signs
from .binary import check_signs, with_bias
from .linear import add_gemm
from .lowering import Product
from .operation import Operation, register
from .windows import Geometry


def _shape(fields, inputs, tensors):
    check_signs(fields, prod(inputs[0]), tensors)
    return len(tensors['signs']), 1, 1


def _signs(fields, inputs, tensors):
    return unpack_signs(tensors['signs'], inputs[0]).transpose(0, 2, 3, 1)


def _arrays(fields, inputs, tensors):
    bits = unpack_signs(tensors['signs'], (prod(inputs[0]),))
    return with_bias(scaled_signs(bits, tensors['exponent']), tensors)


def _simulate(fields, x, weight, bias=None):
    import torch.nn.functional as F

    from ...binary.estimators import sign

    x = x.flatten(1)
    if not fields['binarize_input']:
        return F.linear(x, weight, bias)
    y = F.linear(sign(x), weight)
    return y if bias is None else y + bias


def _to_onnx(graph, fields, arrays):
    source = graph.features(fields['src'][0])
    if fields['binarize_input']:
        source = graph.signs(source, fields['dst'])
    add_gemm(graph, fields, source, arrays)


register(
    Operation(
        name='binary_linear',
        attributes=('binarize_input',),
        tensors=('signs', 'exponent'),
        optional=('bias',),
        shape=_shape,
        arrays=_arrays,
        signs=_signs,
        simulate=_simulate,
        to_onnx=_to_onnx,
        lower=lambda fields, inputs, tensors: Product(
            Geometry(inputs[0][1:]), fields['binarize_input']
        ),
        copied=lambda fields: fields['src'],
    )
)
