"""Bytes of a layer in a packed file, and its operations beside multiply-accumulates."""

from math import prod
from typing import NamedTuple

from torch import nn

from ...binary import SCALES, BinaryConv2d, BinaryLinear, IRConv2d, IRLinear
from ...models import Maxout, RPReLU

#: Operations per output of activations with learned numbers.
_PER_OUTPUT = {nn.PReLU: 1, Maxout: 1, RPReLU: 2}


class _Floats(NamedTuple):
    """Which floats a layer with binary weights has beside its signs."""

    scale: bool
    offset: bool
    thresholds: int
    affine_input: bool


def _binary_weights(module: nn.Module) -> _Floats | None:
    """Describes a layer with binary weights; None for other layers."""
    if not isinstance(module, BinaryConv2d | BinaryLinear):
        return None
    if not module.binarize_weight:
        return None
    weight = module.quantized()
    is_float = weight.scale is not None
    if isinstance(module, IRConv2d | IRLinear) and is_float:
        is_float = not SCALES[module.rule.scale].exact
    inputs = module.recipe.inputs if module.recipe and module.binarize_input else None
    has_thresholds = inputs is not None and inputs.threshold is not None
    return _Floats(
        scale=is_float,
        offset=weight.offset is not None,
        thresholds=_inputs(module) if has_thresholds else 0,
        affine_input=inputs is not None and inputs.value is not None,
    )


def _inputs(layer: BinaryConv2d | BinaryLinear) -> int:
    return layer.in_channels if isinstance(layer, nn.Conv2d) else layer.in_features


def packed_bytes(module: nn.Module, parameters: int) -> int:
    """Computes the bytes of a layer's tensors in a packed file.

    A filter of a binary layer takes one bit per weight, in 64-bit words, and an int8
    exponent or a float32 scale. A threshold takes a float32 per input channel, and
    AdaBin's offsets and its two numbers of the input are float32 too. Everything else
    is float32. BatchNorm is folded into two floats per channel, as many as it has
    parameters. Layers that the format does not support are counted in the same way.

    Args:
        module (nn.Module): The layer.
        parameters (int): Number of its parameters.

    Returns:
        int: The bytes.

    Example:
        >>> conv = IRConv2d(16, 32, 3, bias=False)
        >>> packed_bytes(conv, conv.weight.numel())  # 144 bits are 3 words
        800
    """
    layer = _binary_weights(module)
    if layer is None:
        return 4 * parameters
    filters = len(module.weight)
    words = -(-module.weight[0].numel() // 64)
    floats = layer.thresholds + 2 * layer.affine_input
    floats += filters * (layer.scale + layer.offset + (module.bias is not None))
    return filters * (8 * words + (not layer.scale)) + 4 * floats


def extra_operations(module: nn.Module, outputs: int) -> tuple[int, int]:
    """Counts operations that are no multiply-accumulates of weights.

    Args:
        module (nn.Module): The layer.
        outputs (int): Number of its outputs for one input.

    Returns:
        tuple[int, int]: Binary operations, and others, as defined in
        :mod:`mmirnet.analysis.cost.count`.

    Example:
        >>> extra_operations(nn.PReLU(8), 8 * 10 * 10)
        (0, 800)
    """
    if isinstance(module, BinaryConv2d | BinaryLinear):
        return _of_binary_layer(module, outputs)
    if isinstance(module, nn.AvgPool2d):
        sides = module.kernel_size
        window = prod(sides) if isinstance(sides, tuple) else sides**2
        return 0, window * outputs
    return 0, sum(
        n * outputs for kind, n in _PER_OUTPUT.items() if isinstance(module, kind)
    )


def _of_binary_layer(
    module: BinaryConv2d | BinaryLinear, outputs: int
) -> tuple[int, int]:
    layer = _binary_weights(module)
    if layer is None:  # real weights, which a learned scale may follow
        return 0, outputs if getattr(module, 'alpha', None) is not None else 0
    if layer.affine_input:
        positions = outputs // len(module.weight)
        groups = getattr(module, 'groups', 1)
        return positions * groups * module.weight[0].numel(), 2 * outputs
    if layer.offset:  # a filter of floats with two values
        return 0, 0
    return 0, outputs if layer.scale else 0
