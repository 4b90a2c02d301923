"""``conv2d``: a float convolution.

Its ``weight`` is (out, in / groups, height, width), which gives the window; its
``bias`` is (out,).
"""

from ..fields import need
from .lowering import Product
from .operation import Operation, register
from .windows import Geometry, geometry, onnx_attributes, output_size, pad_image


def _window(fields, weight) -> Geometry:
    return geometry(fields, tuple(weight.shape[2:]))


def _shape(fields, inputs, tensors):
    (shape,) = inputs
    weight = tensors['weight']
    need(weight.ndim == 4 and weight.size > 0, f'weight {weight.shape} is no filter')
    window = _window(fields, weight)
    need(
        weight.shape[1] * window.groups == shape[0],
        f'weight {weight.shape} does not fit {shape[0]} input channels',
    )
    need(len(weight) % window.groups == 0, 'groups of filters differ in size')
    return (len(weight), *output_size(shape, window))


def simulate(fields, x, weight, bias=None):
    """The convolution in torch, also of a binary one with what it computes with."""
    import torch.nn.functional as F

    window = _window(fields, weight)
    x, padding = pad_image(x, window)
    return F.conv2d(
        x, weight, bias, window.stride, padding, window.dilation, window.groups
    )


def add_conv(graph, fields, role, source, weight, bias, output):
    """Adds the node of a convolution, without bias where that is None."""
    window = _window(fields, weight)
    operands = [source, graph.constant(f'{fields["dst"]}.{role}', weight)]
    if bias is not None:
        operands.append(graph.constant(f'{fields["dst"]}.bias', bias))
    graph.node(
        'Conv',
        operands,
        output,
        **onnx_attributes(window),
        dilations=list(window.dilation),
        group=window.groups,
    )


def _to_onnx(graph, fields, arrays):
    source, output = graph.maps(fields['src'][0]), fields['dst']
    weight, bias = arrays['weight'], arrays.get('bias')
    add_conv(graph, fields, 'weight', source, weight, bias, output)


register(
    Operation(
        name='conv2d',
        attributes=('stride', 'padding'),
        options=('dilation', 'groups'),
        tensors=('weight',),
        optional=('bias',),
        shape=_shape,
        simulate=simulate,
        to_onnx=_to_onnx,
        lower=lambda fields, inputs, tensors: Product(
            _window(fields, tensors['weight'])
        ),
        copied=lambda fields, tensors: [],  # it reads the image as it comes
    )
)
