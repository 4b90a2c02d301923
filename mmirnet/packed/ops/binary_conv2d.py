"""``binary_conv2d``: a convolution whose weights are one bit each.

The bit of window position (y, x) and input channel c has index
``(y * kernel + x) * channels + c``; with groups a window has channels / groups of them.
The other tensors are those of :mod:`mmirnet.packed.ops.binary`.
"""

from functools import partial

from ..bits import unpack_signs
from ..fields import need
from ..limits import MAX_BINARY_KERNEL
from . import binary
from .conv2d import add_conv
from .conv2d import simulate as convolve
from .lowering import Product
from .operation import Operation, register
from .windows import geometry, output_size


def _shape(fields, inputs, tensors):
    (shape,) = inputs
    window = geometry(fields, most=MAX_BINARY_KERNEL)
    need(
        shape[0] % window.groups == 0 and len(tensors['signs']) % window.groups == 0,
        f'{window.groups} groups do not divide the channels',
    )
    taps = window.kernel[0] * window.kernel[1]
    window_size = taps * (shape[0] // window.groups)
    binary.check_signs(fields, window_size, shape[0], tensors)
    need(
        'affine_input' not in tensors or window.square,
        'offset and affine_input (AdaBin): only with one group, no dilation, and one '
        'kernel size, stride and padding for both sides',
    )
    return (len(tensors['signs']), *output_size(shape, window))


def _signs(fields, inputs, tensors):
    window = geometry(fields)
    filters = *window.kernel, inputs[0][0] // window.groups
    return unpack_signs(tensors['signs'], filters)


def _arrays(fields, inputs, tensors):
    bits = _signs(fields, inputs, tensors).transpose(0, 3, 1, 2)
    return binary.arrays(fields, bits, tensors)


def _simulate(fields, x, weight, **arrays):
    return binary.simulate(fields, x, partial(convolve, fields), weight, **arrays)


def _to_onnx(graph, fields, arrays):
    (name,) = fields['src']
    add_product = partial(add_conv, graph, fields)
    binary.add_nodes(
        graph,
        fields,
        graph.maps(name),
        arrays,
        add_product,
        partial(convolve, fields),
        graph.shapes[name],
    )


register(
    Operation(
        name='binary_conv2d',
        attributes=('kernel', 'stride', 'padding', 'binarize_input'),
        options=('dilation', 'groups'),
        tensors=('signs',),
        optional=binary.OPTIONAL,
        shape=_shape,
        arrays=_arrays,
        signs=_signs,
        simulate=_simulate,
        to_onnx=_to_onnx,
        lower=lambda fields, inputs, tensors: Product(
            geometry(fields), fields['binarize_input'], binary.threshold(tensors)
        ),
        # The kernels on bits know square windows; else it reads signs as floats. Those
        # of another threshold than somebody else's are a copy, too.
        copied=lambda fields, tensors: [
            name
            for name in fields['src']
            if name == 'input' or not geometry(fields).square or 'threshold' in tensors
        ],
    )
)
