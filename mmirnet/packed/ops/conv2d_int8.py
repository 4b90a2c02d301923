"""``conv2d_int8``: a convolution of 8-bit integers, see :mod:`mmirnet.packed.ops.int8`.

Its ``weight_int8`` is (out, in, height, width); ``scale`` and ``bias`` are (out,).
"""

from ..fields import need
from . import int8
from .lowering import ByteProduct
from .operation import Operation, register
from .windows import Geometry, geometry, onnx_attributes, output_size, pad_image


def window_of(fields, weight) -> Geometry:
    """How the window of a convolution with such a weight moves."""
    return geometry(fields, tuple(weight.shape[2:]))


def check_filters(fields, shape, tensors):
    """Checks weights and scales; gives the shape of the output."""
    weight = tensors['weight_int8']
    need(weight.ndim == 4 and weight.size > 0, f'weight {weight.shape} is no filter')
    need(
        weight.shape[1] == shape[0],
        f'weight {weight.shape} does not fit {shape[0]} input channels',
    )
    window = window_of(fields, weight)
    int8.check_window(shape, window)
    int8.check_scale(tensors, len(weight))
    return (len(weight), *output_size(shape, window))


def _shape(fields, inputs, tensors):
    int8.check_input(fields)
    return check_filters(fields, inputs[0], tensors)


def sums(fields, q, weight):
    """The exact sums of products, in torch, as float64."""
    import torch.nn.functional as F

    window = window_of(fields, weight)
    q, padding = pad_image(q.double(), window)
    return F.conv2d(q, weight.double(), None, window.stride, padding, window.dilation)


def simulate(fields, x, weight_int8, scale, bias=None):
    """The convolution in torch."""
    found = sums(fields, int8.integers(fields, x), weight_int8)
    return int8.rounded(found, scale, 0 if bias is None else bias[:, None, None])


def to_onnx(graph, fields, arrays):
    """Adds the convolution, with integer sums."""
    bytes_and_zero = int8.add_bytes(graph, fields, graph.maps(fields['src'][0]))
    add_conv(graph, fields, bytes_and_zero, arrays, bias_of(graph, fields, arrays))


def bias_of(graph, fields, arrays):
    """The name of the bias as a constant of maps, or None."""
    if 'bias' not in arrays:
        return None
    return graph.constant(f'{fields["dst"]}.bias', arrays['bias'][:, None, None])


def add_conv(graph, fields, bytes_and_zero, arrays, rest):
    """Adds the sums, their scale and `rest`, the name of what is added, or None."""
    window = window_of(fields, arrays['weight_int8'])
    arrays = dict(
        weight_int8=arrays['weight_int8'],
        scale=arrays['scale'][:, None, None],
        rest=rest,
    )
    attributes = onnx_attributes(window) | dict(dilations=list(window.dilation))
    output = fields['dst']
    int8.add_sums(graph, 'ConvInteger', output, bytes_and_zero, arrays, **attributes)


register(
    Operation(
        name='conv2d_int8',
        attributes=('stride', 'padding', *int8.ATTRIBUTES),
        options=('dilation',),
        tensors=('weight_int8', 'scale'),
        optional=('bias',),
        version=int8.VERSION,
        shape=_shape,
        simulate=simulate,
        to_onnx=to_onnx,
        lower=lambda fields, inputs, tensors: ByteProduct(
            window_of(fields, tensors['weight_int8']),
            fields['input_scale'],
            fields['zero_point'],
        ),
    )
)
