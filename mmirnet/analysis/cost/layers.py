"""Bytes of a layer in a packed file, and its operations beside multiply-accumulates."""

from math import prod
from typing import NamedTuple

from torch import nn

from ...binary import BinaryConv2d, BinaryLinear
from ...models import Maxout, RPReLU
from ...packed.tracing.binary import exponents


class _Activation(NamedTuple):
    """Cost of an activation with learned numbers."""

    floats: int  # per channel, in a packed file
    operations: int  # per output


# RPReLU is packed as a PReLU between two shifts, each with a slope of 1.
_ACTIVATIONS = {
    nn.PReLU: _Activation(1, 1),
    Maxout: _Activation(2, 1),
    RPReLU: _Activation(5, 2),
}


def _activation(module: nn.Module) -> _Activation | None:
    found = (cost for kind, cost in _ACTIVATIONS.items() if isinstance(module, kind))
    return next(found, None)


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
    inputs = module.recipe.inputs if module.recipe and module.binarize_input else None
    has_thresholds = inputs is not None and inputs.threshold is not None
    shifts = weight.scale is None or exponents(weight.scale) is not None
    return _Floats(
        scale=weight.offset is not None or not shifts,
        offset=weight.offset is not None,
        thresholds=_inputs(module) if has_thresholds else 0,
        affine_input=inputs is not None and inputs.value is not None,
    )


def _inputs(layer: BinaryConv2d | BinaryLinear) -> int:
    return layer.in_channels if isinstance(layer, nn.Conv2d) else layer.in_features


def packed_bytes(
    module: nn.Module, parameters: int, output: tuple[int, ...] = ()
) -> int:
    """Computes the bytes of a layer's tensors in a packed file.

    A filter of a binary layer takes one bit per weight, in 64-bit words, and an int8
    exponent, or a float32 scale if those of the layer are not powers of two. A
    threshold takes a float32 per input channel, and AdaBin's offsets and its two
    numbers of the input are float32 too. Everything else is float32. BatchNorm is
    folded into two floats per channel, as many as it has parameters. PReLU takes one,
    Maxout two and RPReLU five, even if all channels have the same numbers. Layers that
    the format does not support are counted in the same way.

    Args:
        module (nn.Module): The layer.
        parameters (int): Number of its parameters.
        output (tuple[int, ...]): Shape of its output, (N, C, ...), for activations.

    Returns:
        int: The bytes.

    Example:
        >>> from mmirnet.binary import IRConv2d
        >>> conv = IRConv2d(16, 32, 3, bias=False)
        >>> packed_bytes(conv, conv.weight.numel())  # 144 bits are 3 words
        800
    """
    if (activation := _activation(module)) and len(output) > 1:
        return 4 * activation.floats * output[1]
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
    activation = _activation(module)
    return 0, activation.operations * outputs if activation else 0


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
