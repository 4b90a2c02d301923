"""``binary_conv2d``: a convolution whose weights are one bit each.

The bit of window position (y, x) and input channel c has index
``(y * kernel + x) * channels + c``; with groups a window has channels / groups of them.
"""

from ..bits import scaled_signs, unpack_signs
from ..fields import need
from ..limits import MAX_BINARY_KERNEL
from .binary import check_signs, with_bias
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
    check_signs(fields, taps * (shape[0] // window.groups), tensors)
    return (len(tensors['signs']), *output_size(shape, window))


def _signs(fields, inputs, tensors):
    window = geometry(fields)
    filters = *window.kernel, inputs[0][0] // window.groups
    return unpack_signs(tensors['signs'], filters)


def _arrays(fields, inputs, tensors):
    weight = scaled_signs(_signs(fields, inputs, tensors), tensors['exponent'])
    return with_bias(weight.transpose(0, 3, 1, 2), tensors)


def _simulate(fields, x, weight, bias=None):
    from ...binary.estimators import sign

    if not fields['binarize_input']:
        return convolve(fields, x, weight, bias)
    y = convolve(fields, sign(x), weight)
    return y if bias is None else y + bias[:, None, None]


def _to_onnx(graph, fields, arrays):
    source, output = graph.maps(fields['src'][0]), fields['dst']
    weight, bias = arrays['weight'], arrays.get('bias')
    if not fields['binarize_input']:
        add_conv(graph, fields, source, weight, bias, output)
        return
    source = graph.signs(source, output)
    if bias is None:
        add_conv(graph, fields, source, weight, None, output)
        return
    # Sums of signs are exact where no bias is among them.
    add_conv(graph, fields, source, weight, None, f'{output}.sums')
    bias = graph.constant(f'{output}.bias', bias[:, None, None])
    graph.node('Add', [f'{output}.sums', bias], output)


register(
    Operation(
        name='binary_conv2d',
        attributes=('kernel', 'stride', 'padding', 'binarize_input'),
        options=('dilation', 'groups'),
        tensors=('signs', 'exponent'),
        optional=('bias',),
        shape=_shape,
        arrays=_arrays,
        signs=_signs,
        simulate=_simulate,
        to_onnx=_to_onnx,
        lower=lambda fields, inputs, tensors: Product(
            geometry(fields), fields['binarize_input']
        ),
        # The kernels on bits know square windows; else it reads signs as floats.
        copied=lambda fields: [
            name
            for name in fields['src']
            if name == 'input' or not geometry(fields).square
        ],
    )
)
