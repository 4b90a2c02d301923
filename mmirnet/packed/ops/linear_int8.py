"""``linear_int8``: a linear layer of 8-bit integers.

Its numbers are those of :mod:`mmirnet.packed.ops.int8`. Its ``weight_int8`` is (out,
features), with features in the order (C, H, W); ``scale`` and ``bias`` are (out,).
"""

from math import prod

from ..fields import need
from . import int8
from .lowering import ByteProduct
from .operation import Operation, register
from .windows import Geometry


def _shape(fields, inputs, tensors):
    (shape,) = inputs
    weight = tensors['weight_int8']
    need(
        weight.ndim == 2 and weight.size > 0 and weight.shape[1] == prod(shape),
        f'weight {weight.shape} does not fit {prod(shape)} features',
    )
    int8.check_input(fields)
    int8.check_window(shape, Geometry(shape[1:]))
    int8.check_scale(tensors, len(weight))
    return len(weight), 1, 1


def _simulate(fields, x, weight_int8, scale, bias=None):
    q = int8.integers(fields, x.flatten(1)).double()
    return int8.rounded(q @ weight_int8.double().T, scale, 0 if bias is None else bias)


def _to_onnx(graph, fields, arrays):
    output = fields['dst']
    bytes_and_zero = int8.add_bytes(graph, fields, graph.features(fields['src'][0]))
    arrays = dict(arrays, weight_int8=arrays['weight_int8'].T)
    if 'bias' in arrays:
        arrays['rest'] = graph.constant(f'{output}.bias', arrays['bias'])
    int8.add_sums(graph, 'MatMulInteger', output, bytes_and_zero, arrays)
    graph.flat.add(output)


register(
    Operation(
        name='linear_int8',
        attributes=int8.ATTRIBUTES,
        tensors=('weight_int8', 'scale'),
        optional=('bias',),
        version=int8.VERSION,
        shape=_shape,
        simulate=_simulate,
        to_onnx=_to_onnx,
        lower=lambda fields, inputs, tensors: ByteProduct(
            Geometry(inputs[0][1:]), fields['input_scale'], fields['zero_point']
        ),
    )
)
