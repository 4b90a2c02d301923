"""``binary_conv2d_int8``: weights of one bit each, of an input of 8-bit integers.

A ``binary_conv2d`` whose input is real numbers, and becomes bytes as
:mod:`mmirnet.packed.ops.int8` says. ``signs`` are those of
:mod:`mmirnet.packed.ops.binary_conv2d`, ``scale`` and ``bias`` are (out,).
"""

from math import prod

import numpy as np

from ..bits import unpack_signs
from ..limits import MAX_BINARY_KERNEL
from . import conv2d_int8, int8
from .binary import check_words
from .lowering import ByteProduct
from .operation import Operation, register
from .windows import geometry, output_size


def _shape(fields, inputs, tensors):
    (shape,) = inputs
    int8.check_input(fields)
    window = geometry(fields, most=MAX_BINARY_KERNEL)
    int8.check_window(shape, window)
    check_words(tensors['signs'], prod(window.kernel) * shape[0])
    int8.check_scale(tensors, len(tensors['signs']))
    return (len(tensors['signs']), *output_size(shape, window))


def _arrays(fields, inputs, tensors):
    filters = *geometry(fields).kernel, inputs[0][0]
    bits = unpack_signs(tensors['signs'], filters).transpose(0, 3, 1, 2)
    found = {role: array for role, array in tensors.items() if role != 'signs'}
    return dict(weight_int8=2 * bits.astype(np.int8) - 1, **found)


register(
    Operation(
        name='binary_conv2d_int8',
        attributes=('kernel', 'stride', 'padding', *int8.ATTRIBUTES),
        options=('dilation',),
        tensors=('signs', 'scale'),
        optional=('bias',),
        version=int8.VERSION,
        shape=_shape,
        arrays=_arrays,
        simulate=conv2d_int8.simulate,
        to_onnx=conv2d_int8.to_onnx,
        lower=lambda fields, inputs, tensors: ByteProduct(
            geometry(fields), fields['input_scale'], fields['zero_point']
        ),
    )
)
