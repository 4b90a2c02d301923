"""The binary convolution as a function: both quantisers and torch's convolution in one.

Every quantiser is an autograd function with a hand-written backward: what
autograd would keep for the backward pass is cheaper to compute again than to
store, and nothing that a neighbouring layer keeps anyway is kept twice.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from ..errors import ConfigError
from .estimators import ESTIMATORS, check_float, sign, sign_again, sign_by_operators
from .modes import by_operators, differentiate
from .weights import (
    WeightRule,
    check_filters,
    make_filters,
    quantize,
    weight_by_operators,
    weight_vjp,
)


class ConvGeometry(NamedTuple):
    """What a 2-d convolution is told beside its operands."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


class _BinaryConv2d(Function):
    """Binarise both operands and convolve.

    One function and not three, so that only the latent weight and the
    full-precision input are kept: exactly what an ``nn.Conv2d`` keeps. The signs
    are made again in the backward pass.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, t, k, geometry, rule, binarize_input, dtype):
        ctx.save_for_backward(x, weight, t, k)
        ctx.has_bias = bias is not None
        ctx.geometry, ctx.rule, ctx.dtype = geometry, rule, dtype
        ctx.binarize_input = binarize_input
        qx = (sign(x) if binarize_input else x).to(dtype)
        filters = make_filters(weight, rule)
        qw = quantize(filters, dtype)
        bias = None if bias is None else bias.to(dtype)
        if bias is None or not binarize_input:
            return F.conv2d(qx, qw, bias, *geometry)
        # Sums of signs are exact where the bias is not among them.
        return F.conv2d(qx, qw, None, *geometry).add_(bias[:, None, None])

    @staticmethod
    def backward(ctx, grad):
        x, weight, t, k = ctx.saved_tensors
        if torch.is_grad_enabled():
            return *_BinaryConv2d.backward_by_operators(ctx, grad), *[None] * 6
        need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
        estimator = ESTIMATORS[ctx.rule.estimator]
        qx = (sign_again(x) if ctx.binarize_input else x).to(ctx.dtype)
        filters = make_filters(weight, ctx.rule)
        qw = quantize(filters, ctx.dtype)
        if ctx.binarize_input:
            qw = qw * estimator.gain(t, k)
        stride, padding, dilation, groups = ctx.geometry
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
        if need_x and ctx.binarize_input:
            grad_x = estimator.vjp(grad_x.to(x.dtype), x, t)
        if need_weight:
            grad_w = weight_vjp(grad_w, filters, t, k, ctx.rule).to(weight.dtype)
        return grad_x, grad_w, grad_b, *[None] * 6

    @staticmethod
    def backward_by_operators(ctx, grad):
        """The same gradients, with a graph of their own."""
        x, weight, t, k = ctx.saved_tensors
        options = ctx.geometry, ctx.rule, ctx.binarize_input, ctx.dtype
        y = _conv2d_by_operators(x, weight, None, t, k, *options)
        needed = ctx.needs_input_grad[:2]
        inputs = [a for a, need in zip((x, weight), needed, strict=True) if need]
        grads = iter(differentiate(y, inputs, grad) if inputs else ())
        grad_b = grad.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
        return *(next(grads) if need else None for need in needed), grad_b


def _conv2d_by_operators(
    x, weight, bias, t, k, geometry, rule, binarize_input, dtype
) -> Tensor:
    """:func:`binary_conv2d` in operators that can be differentiated again."""
    qx = sign_by_operators(x, t, k, rule.estimator) if binarize_input else x
    qw = weight_by_operators(weight, t, k, rule)
    bias = None if bias is None else bias.to(dtype)
    return F.conv2d(qx.to(dtype), qw.to(dtype), bias, *geometry)


def check_types(x: Tensor, weight: Tensor) -> None:
    """Refuses operands of two types, and an input that is not floating point.

    Args:
        x (Tensor): The input.
        weight (Tensor): The latent weight.

    Raises:
        ConfigError: If x is not floating point, or of another type than the weight;
            under autocast, which casts them, any two will do.
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
    rule: WeightRule = WeightRule(),
    binarize_input: bool = True,
) -> Tensor:
    """Convolve sign(x) with Libra-PB's binary weights.

    Padding adds zeros to sign(x): a padded tap counts neither +1 nor -1. Under
    autocast the convolution runs in the autocast dtype, which holds signs and
    powers of two exactly; mean, deviation and log2 stay in float32.

    Args:
        x (Tensor): (N, in, H, W), full precision.
        weight (Tensor): (out, in/groups, kh, kw), latent weight.
        bias (Tensor | None): (out,).
        t (Tensor): EDE's sharpness, 0-dim.
        k (Tensor): EDE's height, 0-dim.
        geometry (ConvGeometry): Stride, padding, dilation, groups.
        rule (WeightRule): How to binarise; its estimator serves x as well.
        binarize_input (bool): False convolves x itself (W/A bits 1/32).

    Returns:
        Tensor: (N, out, H', W').

    Raises:
        ValueError: If x and the weight are not of the same floating-point type (any
            two will do under autocast), or a filter has a single weight.

    Example:
        >>> t, k = torch.tensor([0.1, 10.0])
        >>> x, w = torch.randn(2, 8, 5, 5), torch.randn(4, 8, 3, 3)
        >>> binary_conv2d(x, w, None, t, k).shape
        torch.Size([2, 4, 3, 3])
    """
    device = x.device.type
    autocast = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if autocast else x.dtype
    check_types(x, weight)
    check_filters(weight, rule.balance)
    conv = _conv2d_by_operators if by_operators() else _BinaryConv2d.apply
    return conv(x, weight, bias, t, k, geometry, rule, binarize_input, dtype)
