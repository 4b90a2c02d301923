"""``binary_linear``: a linear layer whose weights are one bit each.

The bits are in the order of its features, (C, H, W). The other tensors are those of
:mod:`mmirnet.packed.ops.binary`. With ``threshold`` or ``affine_input`` its input
has one pixel.
"""

from functools import partial
from math import prod

from ..bits import unpack_signs
from ..fields import need
from . import binary
from .linear import add_gemm, simulate
from .lowering import Product
from .operation import Operation, register
from .windows import Geometry


def _shape(fields, inputs, tensors):
    (shape,) = inputs
    binary.check_signs(fields, prod(shape), shape[0], tensors)
    for role in ('threshold', 'affine_input'):
        need(
            role not in tensors or shape[1:] == (1, 1),
            f'{role}: only for an input of one pixel, not of {shape[1]}x{shape[2]}',
        )
    return len(tensors['signs']), 1, 1


def _signs(fields, inputs, tensors):
    return unpack_signs(tensors['signs'], inputs[0]).transpose(0, 2, 3, 1)


def _arrays(fields, inputs, tensors):
    bits = unpack_signs(tensors['signs'], (prod(inputs[0]),))
    return binary.arrays(fields, bits, tensors)


def _simulate(fields, x, weight, **arrays):
    product = partial(simulate, fields)
    return binary.simulate(fields, x.flatten(1), product, weight, **arrays)


def _to_onnx(graph, fields, arrays):
    source = graph.features(fields['src'][0])
    shape = (prod(graph.shapes[fields['src'][0]]),)
    add_product = partial(add_gemm, graph, fields)
    product = partial(simulate, fields)
    binary.add_nodes(graph, fields, source, arrays, add_product, product, shape)
    graph.flat.add(fields['dst'])


register(
    Operation(
        name='binary_linear',
        attributes=('binarize_input',),
        tensors=('signs',),
        optional=binary.OPTIONAL,
        shape=_shape,
        arrays=_arrays,
        signs=_signs,
        simulate=_simulate,
        to_onnx=_to_onnx,
        lower=lambda fields, inputs, tensors: Product(
            Geometry(inputs[0][1:]),
            fields['binarize_input'],
            binary.threshold(tensors),
        ),
        copied=lambda fields, tensors: fields['src'],
    )
)
