"""Common part of the operations on 8-bit integers: the bytes of an input, and the sums.

The input x of a layer becomes integers, with one rounding of the product and one to
the nearest integer, halves to even::

    q = min(max(round(x * input_scale), -zero_point), 255 - zero_point)

q + zero_point fits into a byte, in which the padding, 0, is ``zero_point``. The weights
w are ``weight_int8``, int8 in the order of the float layer, and ``scale`` is float32
(out,). The layer computes, with a rounding after each operation::

    y = (sum of q * w) * scale + bias

The sum is an integer below 2**31, exact in any order, and is rounded to float32.
"""

from math import prod
from typing import Any

import numpy as np

from ..fields import integer, need, number
from ..limits import MAX_BAND_BYTES, MAX_BYTE_WINDOW
from .operation import Shape
from .windows import Geometry

#: Required fields besides those of the float layer.
ATTRIBUTES = ('input_scale', 'zero_point')
#: First version of packed files that has these operations.
VERSION = 4
_LEAST, _MOST = 1e-30, 1e30


def check_input(fields: dict) -> None:
    """Checks the fields that define how the input becomes bytes.

    Raises:
        Reject: If a field is missing or out of range.
    """
    scale = number(fields, 'input_scale')
    need(
        _LEAST <= scale <= _MOST and float(np.float32(scale)) == scale,
        f'input_scale must be a float32 in [{_LEAST}, {_MOST}], not {scale!r}',
    )
    integer(fields, 'zero_point', 0, 255)


def check_window(shape: Shape, window: Geometry) -> None:
    """Checks that a sum cannot overflow, and that the rows it reads fit in memory.

    Args:
        shape (Shape): (channels, height, width) of the input.
        window (Geometry): The window.

    Raises:
        Reject: If the window has too many products or its rows too many bytes.
    """
    channels, _, width = shape
    need(prod(window.kernel) * channels <= MAX_BYTE_WINDOW, 'window of bytes too large')
    width += window.padding[1] + window.padding[3]
    need(
        window.extent[0] * width * channels <= MAX_BAND_BYTES,
        'rows of a window of bytes too large',
    )


def check_scale(tensors: dict[str, np.ndarray], outputs: int) -> None:
    """Checks that ``scale`` has one number per output channel.

    Raises:
        Reject: If it has another shape.
    """
    shape = tensors['scale'].shape
    need(shape == (outputs,), f'scale {shape} does not fit {outputs} outputs')


def integers(fields: dict, x: Any) -> Any:
    """Computes the integers q of an input, in torch."""
    zero = fields['zero_point']
    return (x * fields['input_scale']).clamp(-zero, 255 - zero).round()


def rounded(sums: Any, scale: Any, rest: Any) -> Any:
    """Computes the output of a layer from its exact sums, in torch.

    Args:
        sums (Tensor): float64 (N, out, ...).
        scale (Tensor): float32 (out,).
        rest (Tensor | int): Added to the scaled sums, and broadcast to their shape.

    Returns:
        Tensor: float32 with the shape of the sums.
    """
    y = sums.float() * scale.reshape(-1, *[1] * (sums.dim() - 2))
    return y + rest


def add_bytes(graph: Any, fields: dict, source: str) -> list[str]:
    """Adds the ONNX nodes that convert a value to bytes.

    Args:
        graph (Graph): A :class:`mmirnet.packed.onnx.Graph`.
        fields (dict): The operation's entry in the graph.
        source (str): Name of the value.

    Returns:
        list[str]: Names of the bytes and of their zero point.
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
    """Adds the ONNX nodes of the sums of products, their scale and the addition.

    Args:
        graph (Graph): A :class:`mmirnet.packed.onnx.Graph`.
        kind (str): ``ConvInteger`` or ``MatMulInteger``.
        output (str): Name of the output.
        operands (list[str]): Output of :func:`add_bytes`.
        arrays (dict): ``weight_int8`` in the layout of the node, ``scale``, and
            optionally ``rest``, the name of the value to add.
        **attributes: Attributes of the node.
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
