"""``pixel_conv2d``: a convolution of the image's pixels, 8-bit integers as they come.

Its input is the normalised image, x. ``pixels``, float32 (2, channels), has what it
was divided by and what was subtracted before, so that the pixels are, each operation
rounded, ``round(x * pixels[0] + pixels[1])`` within 0 and 255. With ``weight_int8``,
int8 (out, in, height, width), and ``scale``, float32 (out,)::

    y = (sum of pixel * w) * scale + table

The sum is exact, see :mod:`mmirnet.packed.ops.int8`. Padding is 0 in the normalised
image, so it adds nothing to a sum, and ``table``, float32 (row classes, column
classes, out), has the bias less what normalisation subtracts of those taps that lie
inside of the image. Output rows of the same class have the same taps inside, see
:func:`mmirnet.packed.ops.windows.classes`.
"""

import numpy as np

from ..fields import need
from . import int8
from .conv2d_int8 import add_conv, check_filters, sums, window_of
from .lowering import ByteProduct
from .operation import Operation, register
from .windows import classes


def _shape(fields, inputs, tensors):
    need(fields['src'] == ['input'], 'src must be the image')
    shape = check_filters(fields, inputs[0], tensors)
    window = window_of(fields, tensors['weight_int8'])
    rows, columns = classes(inputs[0], window)
    wanted = len(rows.parts), len(columns.parts), shape[0]
    given = tensors['table'].shape
    need(given == wanted, f'table {given} is not of shape {wanted}')
    given = tensors['pixels'].shape
    need(
        given == (2, inputs[0][0]),
        f'pixels {given} does not fit {inputs[0][0]} channels',
    )
    return shape


def _simulate(fields, x, weight_int8, scale, table, pixels):
    std, mean = pixels[:, :, None, None]
    q = (x * std + mean).round().clamp(0, 255)
    rows, columns = classes(x.shape[1:], window_of(fields, weight_int8))
    rest = table[rows.of][:, columns.of].permute(2, 0, 1)
    return int8.rounded(sums(fields, q, weight_int8), scale, rest)


def _to_onnx(graph, fields, arrays):
    (source,), output = fields['src'], fields['dst']
    for kind, values in zip(('Mul', 'Add'), arrays['pixels'], strict=True):
        operand = graph.constant(f'{output}.{kind}', values[:, None, None])
        source = graph.node(kind, [source, operand], f'{output}.{kind}.of')
    window = window_of(fields, arrays['weight_int8'])
    rest = graph.constant(f'{output}.table', arrays['table'].transpose(2, 0, 1))
    both = classes(graph.shapes[fields['src'][0]], window)
    for axis, (name, found) in enumerate(zip(('rows', 'columns'), both, strict=True)):
        of = graph.constant(f'{output}.{name}', np.array(found.of))
        rest = graph.node('Gather', [rest, of], f'{output}.{name}.of', axis=axis + 1)
    operands = int8.quantised(graph, output, source, 0)
    add_conv(graph, fields, operands, arrays, rest)


register(
    Operation(
        name='pixel_conv2d',
        attributes=('stride', 'padding'),
        tensors=('weight_int8', 'scale', 'table', 'pixels'),
        version=int8.VERSION,
        shape=_shape,
        simulate=_simulate,
        to_onnx=_to_onnx,
        lower=lambda fields, inputs, tensors: ByteProduct(
            window_of(fields, tensors['weight_int8']), pixels=True
        ),
        copied=lambda fields, tensors: [],  # it reads the image as it comes
    )
)
