"""The binary convolution as one autograd function of both quantisers and conv2d.

The backward pass recomputes the quantised tensors instead of saving them, because
recomputing is cheaper than storing. It saves nothing that a neighbouring layer saves
anyway.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from ..errors import ConfigError
from .estimators import check_float
from .modes import by_operators, differentiate, differentiated, in_graph
from .quantisation import (
    Quantized,
    Rule,
    check_weight,
    dequantize,
    input_gain,
    input_rule,
    input_signs,
    input_value,
    input_vjp,
    input_with_derivatives,
    quantize_weight,
    quantized_vjp,
    weight_with_derivatives,
)
from .weights import WeightRule


class ConvGeometry(NamedTuple):
    """Geometry arguments of a 2-d convolution."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


class Options(NamedTuple):
    """What a binary convolution is, apart from its tensors."""

    geometry: ConvGeometry
    rule: Rule
    binarize_input: bool
    binarize_weight: bool
    dtype: torch.dtype  # of the convolution


def _per_channel(values: Tensor, dtype: torch.dtype) -> Tensor:
    return values.reshape(-1, 1, 1).to(dtype)


def _affine_conv2d(signs: Tensor, q: Quantized, a: Tensor, b: Tensor, options: Options):
    """Convolves a (s_x + b) with scale s_w + offset, by sums of integers.

    Of the four terms one is the sum over products of signs, one a sum over the signs of
    x, and two are constants of a filter and of the part of its window in the image.
    """
    geometry, dtype = options.geometry, options.dtype
    weight = q.signs.to(dtype)
    taps = weight.new_ones(geometry.groups, *weight.shape[1:])
    inside = signs.new_ones(1, *signs.shape[1:])
    sums = F.conv2d(signs, weight, None, *geometry)
    box, count = (F.conv2d(v, taps, None, *geometry) for v in (signs, inside))
    if geometry.groups > 1:
        each = len(weight) // geometry.groups
        box, count = (v.repeat_interleave(each, 1) for v in (box, count))
    own = F.conv2d(inside, weight, None, *geometry)
    # In float32, in this order: simulation and runtime repeat every rounding.
    scale, offset = q.scale.reshape(-1, 1, 1), q.offset.reshape(-1, 1, 1)
    constant = (a * b) * (scale * own + offset * count)
    y = sums * (a * scale) + (box * (a * offset) + constant)
    return y.to(dtype)


def _forward(x, weight, bias, t, k, alpha, a, b, options: Options) -> Tensor:
    geometry, rule, binarize_input, binarize_weight, dtype = options
    qx = (input_signs(x, a, b, rule) if binarize_input else x).to(dtype)
    q = quantize_weight(weight, alpha, t, k, rule, not binarize_weight)
    bias = None if bias is None else bias.to(dtype)
    inputs, _ = input_rule(rule)
    if binarize_input and inputs is not None and inputs.value is not None:
        if q.offset is None:  # real weights
            qx = inputs.value(qx, a, b).to(dtype)
        else:
            y = _affine_conv2d(qx, q, a, b, options)
            return y if bias is None else y.add_(bias[:, None, None])
    if q.offset is not None:
        q = Quantized(dequantize(q, dtype), None)
    qw = q.signs.to(dtype)
    if q.scale is None and (bias is None or not binarize_input):
        return F.conv2d(qx, qw, bias, *geometry)
    # Sums of signs are exact if scale and bias follow them.
    y = F.conv2d(qx, qw, None, *geometry)
    if q.scale is not None:
        y = y.mul_(q.scale.reshape(-1, 1, 1))
    return y if bias is None else y.add_(bias[:, None, None])


class _BinaryConv2d(Function):
    """Binarises both operands and convolves.

    One function instead of three saves only the latent weight and the full-precision
    input for the backward pass, as ``nn.Conv2d`` does. The backward pass recomputes the
    signs.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, t, k, alpha, a, b, options):
        ctx.save_for_backward(x, weight, t, k, alpha, a, b)
        ctx.has_bias, ctx.options = bias is not None, options
        return _forward(x, weight, bias, t, k, alpha, a, b, Options(*options))

    @staticmethod
    def backward(ctx, grad):
        if torch.is_grad_enabled():
            return *_BinaryConv2d.backward_by_operators(ctx, grad), None
        x, weight, t, k, alpha, a, b = ctx.saved_tensors
        options = Options(*ctx.options)
        geometry, rule, binarize_input, binarize_weight, dtype = options
        need_x, need_weight, need_bias, _, _, need_alpha, need_a, need_b, _ = (
            ctx.needs_input_grad
        )
        need_x |= need_a or need_b
        need_weight |= need_alpha
        qx = (input_value(x, a, b, rule, dtype) if binarize_input else x).to(dtype)
        q = quantize_weight(weight, alpha, t, k, rule, not binarize_weight)
        qw = dequantize(q, dtype)
        if binarize_input:
            qw = qw * input_gain(t, k, rule)
        stride, padding, dilation, groups = geometry
        grad_x, grad_w, grad_b = torch.ops.aten.convolution_backward(
            grad,
            qx,
            qw,
            [weight.shape[0]] if ctx.has_bias else None,
            stride,
            padding,
            dilation,
            False,
            [0, 0],
            groups,
            [need_x, need_weight, need_bias],
        )
        grad_alpha = grad_of_a = grad_of_b = None
        if need_x and binarize_input:
            grad_x = grad_x.to(x.dtype)
            grad_x, grad_of_a, grad_of_b = input_vjp(grad_x, x, a, b, t, k, rule)
        if need_weight:
            grad_w, grad_alpha = quantized_vjp(
                grad_w, weight, alpha, t, k, rule, not binarize_weight
            )
        grads = grad_x, grad_w, grad_b, None, None, grad_alpha, grad_of_a, grad_of_b
        return *grads, None

    @staticmethod
    def backward_by_operators(ctx, grad):
        """Computes the same gradients with a graph, for higher derivatives."""
        x, weight, t, k, *parameters = ctx.saved_tensors
        y = _conv2d_by_operators(x, weight, None, t, k, *parameters, ctx.options)
        operands = x, weight, None, None, None, *parameters
        needed = [
            operand is not None and need
            for operand, need in zip(operands, ctx.needs_input_grad[:8], strict=True)
        ]
        inputs = [a for a, need in zip(operands, needed, strict=True) if need]
        found = iter(differentiate(y, inputs, grad) if inputs else ())
        grads = [next(found) if need else None for need in needed]
        if ctx.needs_input_grad[2]:
            grads[2] = grad.sum((0, 2, 3))
        return grads


_binary_conv2d = in_graph(_BinaryConv2d)


def _conv2d_by_operators(x, weight, bias, t, k, alpha, a, b, options) -> Tensor:
    """Computes :func:`binary_conv2d` with operators that have higher derivatives."""
    options = Options(*options)
    geometry, rule, binarize_input, binarize_weight, dtype = options
    tensors = x, weight, alpha, a, b
    if not any(v is not None and differentiated(v) for v in tensors):
        return _forward(x, weight, bias, t, k, alpha, a, b, options)
    qx = input_with_derivatives(x, a, b, t, k, rule) if binarize_input else x
    qw = weight_with_derivatives(weight, alpha, t, k, rule, not binarize_weight)
    bias = None if bias is None else bias.to(dtype)
    return F.conv2d(qx.to(dtype), qw.to(dtype), bias, *geometry)


def check_types(x: Tensor, weight: Tensor) -> None:
    """Refuses operands of different dtypes and inputs that are not floating point.

    Args:
        x (Tensor): The input.
        weight (Tensor): The latent weight.

    Raises:
        ConfigError: If x is not floating point, or if its dtype is not that of the
            weight. Under autocast, which casts both, the dtypes may differ.
    """
    check_float('x', x)
    autocast = torch.is_autocast_enabled(x.device.type)
    if not autocast and x.dtype != weight.dtype:
        raise ConfigError(f'x is {x.dtype} and the weight {weight.dtype}: cast one')


def binary_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    t: Tensor,
    k: Tensor,
    geometry: ConvGeometry = ConvGeometry(),
    rule: Rule = WeightRule(),
    binarize_input: bool = True,
    binarize_weight: bool = True,
    alpha: Tensor | None = None,
    a: Tensor | None = None,
    b: Tensor | None = None,
) -> Tensor:
    """Convolves a binary input with binary weights.

    Padding adds zeros to the binary input: a padded tap counts as neither +1 nor -1.
    A scale is applied to the sum of the products of signs, which is an exact integer,
    unless it is a power of two. Under autocast the convolution runs in the autocast
    dtype, which represents signs and powers of two exactly; statistics of weights and
    inputs are computed in float32.

    Args:
        x (Tensor): (N, in, H, W), full precision.
        weight (Tensor): (out, in/groups, kh, kw), latent weight.
        bias (Tensor | None): (out,).
        t (Tensor): First number of the schedule, 0-dim: EDE's sharpness.
        k (Tensor): Second number of the schedule, 0-dim: EDE's height.
        geometry (ConvGeometry): Stride, padding, dilation, groups.
        rule (Rule): Options of Libra-PB, whose estimator also applies to x, or the name
            of a recipe, a key of :data:`~mmirnet.binary.RECIPES`.
        binarize_input (bool): If False, x is not binarised (W/A bits 1/32).
        binarize_weight (bool): If False, the weights are not binarised (32/1).
        alpha (Tensor | None): (out,), the scale of a recipe that learns it.
        a (Tensor | None): First parameter of the recipe's input rule.
        b (Tensor | None): Second parameter of the recipe's input rule.

    Returns:
        Tensor: (N, out, H', W').

    Raises:
        ValueError: If x and the weight do not have the same floating-point dtype (which
            may differ under autocast), or if a filter has too few weights.

    Example:
        >>> t, k = torch.tensor([0.1, 10.0])
        >>> x, w = torch.randn(2, 8, 5, 5), torch.randn(4, 8, 3, 3)
        >>> binary_conv2d(x, w, None, t, k).shape
        torch.Size([2, 4, 3, 3])
        >>> binary_conv2d(x, w, None, t, k, rule='BNN')[0, 0, 0].frac()
        tensor([0., 0., 0.])
    """
    device = x.device.type
    autocast = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if autocast else x.dtype
    check_types(x, weight)
    check_weight(weight, rule, 'Libra-PB' if isinstance(rule, WeightRule) else rule)
    conv = _conv2d_by_operators if by_operators() else _binary_conv2d
    options = geometry, rule, binarize_input, binarize_weight, dtype
    return conv(x, weight, bias, t, k, alpha, a, b, options)
