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
    """Geometry arguments of a 2-d convolution."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


class _BinaryConv2d(Function):
    """Binarises both operands and convolves.

    One function instead of three saves only the latent weight and the full-precision
    input for the backward pass, as ``nn.Conv2d`` does. The backward pass recomputes the
    signs.
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
        # Sums of signs are exact if the bias is added afterwards.
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
        """Computes the same gradients with a graph, for higher derivatives."""
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
    """Computes :func:`binary_conv2d` with operators that have higher derivatives."""
    qx = sign_by_operators(x, t, k, rule.estimator) if binarize_input else x
    qw = weight_by_operators(weight, t, k, rule)
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
    rule: WeightRule = WeightRule(),
    binarize_input: bool = True,
) -> Tensor:
    """Convolves sign(x) with Libra-PB's binary weights.

    Padding adds zeros to sign(x): a padded tap counts as neither +1 nor -1. Under
    autocast the convolution runs in the autocast dtype, which represents signs and
    powers of two exactly. Mean, standard deviation and log2 are computed in float32.

    Args:
        x (Tensor): (N, in, H, W), full precision.
        weight (Tensor): (out, in/groups, kh, kw), latent weight.
        bias (Tensor | None): (out,).
        t (Tensor): EDE's sharpness, 0-dim.
        k (Tensor): EDE's height, 0-dim.
        geometry (ConvGeometry): Stride, padding, dilation, groups.
        rule (WeightRule): Options of the binarisation. Its estimator also applies to x.
        binarize_input (bool): If False, x is not binarised (W/A bits 1/32).

    Returns:
        Tensor: (N, out, H', W').

    Raises:
        ValueError: If x and the weight do not have the same floating-point dtype (which
            may differ under autocast), or if a filter has a single weight.

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
