"""What the operations on bytes share: how their input becomes bytes, and the sums.

The input x of a layer becomes integers, with one rounding of the product and one to
the nearest integer, halves to even::

    q = min(max(round(x * input_scale), -zero_point), 255 - zero_point)

so that q + zero_point fits into a byte, and the padding, 0, is ``zero_point``. With
the weights w, ``weight_int8``, int8 in the order of the float layer, and
``scale``, float32 (out,), the layer gives, each operation rounded::

    y = (sum of q * w) * scale + bias

The sum is an integer below 2**31, exact in any order; it is rounded to float32.
"""

from math import prod
from typing import Any

import numpy as np

from ..fields import integer, need, number
from ..limits import MAX_BAND_BYTES, MAX_BYTE_WINDOW
from .operation import Shape
from .windows import Geometry

#: What such an operation needs beside the fields of the float layer.
ATTRIBUTES = ('input_scale', 'zero_point')
#: The version of packed files that has them.
VERSION = 4
_LEAST, _MOST = 1e-30, 1e30


def check_input(fields: dict) -> None:
    """Checks how the input becomes bytes.

    Raises:
        Reject: If a field cannot be.
    """
    scale = number(fields, 'input_scale')
    need(
        _LEAST <= scale <= _MOST and float(np.float32(scale)) == scale,
        f'input_scale must be a float32 in [{_LEAST}, {_MOST}], not {scale!r}',
    )
    integer(fields, 'zero_point', 0, 255)


def check_window(shape: Shape, window: Geometry) -> None:
    """Checks how many products a sum has, and the rows that it reads.

    Args:
        shape: (channels, height, width) of the image.
        window: How it moves.

    Raises:
        Reject: If they are too many.
    """
    channels, _, width = shape
    need(prod(window.kernel) * channels <= MAX_BYTE_WINDOW, 'window of bytes too large')
    width += window.padding[1] + window.padding[3]
    need(
        window.extent[0] * width * channels <= MAX_BAND_BYTES,
        'rows of a window of bytes too large',
    )


def check_scale(tensors: dict[str, np.ndarray], outputs: int) -> None:
    """Checks ``scale``.

    Raises:
        Reject: If its shape does not fit.
    """
    shape = tensors['scale'].shape
    need(shape == (outputs,), f'scale {shape} does not fit {outputs} outputs')


def integers(fields: dict, x: Any) -> Any:
    """The input as the integers q, in torch."""
    zero = fields['zero_point']
    return (x * fields['input_scale']).clamp(-zero, 255 - zero).round()


def rounded(sums: Any, scale: Any, rest: Any) -> Any:
    """Exact sums, as float64, to the output of a layer.

    Args:
        sums: (N, out, ...) in torch.
        scale: (out,).
        rest: What is added; it goes with the sums.
    """
    y = sums.float() * scale.reshape(-1, *[1] * (sums.dim() - 2))
    return y + rest


def add_bytes(graph: Any, fields: dict, source: str) -> list[str]:
    """Adds nodes that make bytes of a value; gives their name and that of their zero.

    Args:
        graph: A :class:`mmirnet.packed.onnx.Graph`.
        fields: Of the operation.
        source: The value.
    """
    output = fields['dst']
    scale = graph.constant(f'{output}.input_scale', np.float32(fields['input_scale']))
    scaled = graph.node('Mul', [source, scale], f'{output}.scaled')
    return quantised(graph, output, scaled, fields['zero_point'])


def quantised(graph: Any, output: str, source: str, zero_point: int) -> list[str]:
    """Adds the node that rounds a value to bytes, see :func:`add_bytes`."""
    one = graph.constant('one', np.float32(1))
    zero = graph.constant(f'{output}.zero_point', np.uint8(zero_point))
    made = graph.node('QuantizeLinear', [source, one, zero], f'{output}.bytes')
    return [made, zero]


def add_sums(
    graph: Any, kind: str, output: str, operands: list[str], arrays: dict, **attributes
) -> None:
    """Adds the sums of products of bytes, their scale and what is added.

    Args:
        graph: A :class:`mmirnet.packed.onnx.Graph`.
        kind: ``ConvInteger`` or ``MatMulInteger``.
        output: The name of the operation's value.
        operands: The bytes and their zero.
        arrays: ``weight_int8`` as the node takes it, ``scale`` and ``rest``, if any.
        **attributes: Of the node.
    """
    made, zero = operands
    # Bytes without a sign: products of both kinds saturate on some CPUs.
    weight = (arrays['weight_int8'].astype(np.int16) + 128).astype(np.uint8)
    weights = [
        graph.constant(f'{output}.weight_int8', weight),
        graph.constant(f'{output}.weight_zero', np.uint8(128)),
    ]
    operands = [made, weights[0], zero, weights[1]]
    sums = graph.node(kind, operands, f'{output}.sums', **attributes)
    values = graph.node('Cast', [sums], f'{output}.values', to=1)  # float32
    scale = graph.constant(f'{output}.scale', arrays['scale'])
    rest = arrays.get('rest')
    scaled = output if rest is None else f'{output}.product'
    graph.node('Mul', [values, scale], scaled)
    if rest is not None:
        graph.node('Add', [scaled, rest], output)
