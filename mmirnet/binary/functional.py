"""The mathematics of IR-Net, as functions.

Qin et al., `Forward and Backward Information Retention for Accurate Binary
Neural Networks <https://arxiv.org/abs/1909.10788>`_, CVPR 2020: Libra-PB
(section 3.2) binarises weights, EDE (section 3.3) estimates the derivative of
sign.

Every quantiser is an autograd function with a hand-written backward: what
autograd would keep for the backward pass is cheaper to compute again than to
store, and nothing that a neighbouring layer keeps anyway is kept twice.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function, forward_ad

from ..errors import ConfigError

#: Bounds of EDE's schedule in the paper (section 3.3).
T_MIN, T_MAX = 0.1, 10.0

SCALES = ('shift', 'mean', None)


def ede(progress: float, t_min: float = T_MIN, t_max: float = T_MAX):
    r"""EDE's schedule (eq. 9): how sharp the estimator is at a point of training.

    .. math::
        t = T_{min} \cdot 10^{\,p \cdot \log_{10}(T_{max} / T_{min})},
        \qquad k = \max(1/t, 1)

    Args:
        progress (float): Share of training that is done, i/N in [0, 1].
        t_min (float): t at the start. Positive.
        t_max (float): t at the end. Greater than ``t_min``.

    Returns:
        tuple[float, float]: t and k.

    Raises:
        ValueError: If the bounds are not 0 < t_min < t_max, or the progress is not
            in [0, 1].

    Example:
        >>> ede(0.0)
        (0.1, 10.0)
        >>> ede(0.5)
        (1.0, 1.0)
    """
    if not 0 < t_min < t_max < math.inf:
        raise ConfigError(
            f'EDE needs 0 < t_min < t_max, got t_min={t_min} and t_max={t_max}'
        )
    if not 0 <= progress <= 1:
        raise ConfigError(f'EDE needs a progress from 0 to 1, got {progress}')
    t = t_min * 10 ** (progress * math.log10(t_max / t_min))
    return t, max(1 / t, 1.0)


def sign(x: Tensor) -> Tensor:
    """The sign of every element, +1 for zero, so that one bit can hold it.

    Args:
        x (Tensor): Any shape, floating point. -0.0 counts as 0.

    Returns:
        Tensor: -1 and +1, in the shape and dtype of ``x``. NaN stays NaN: a network
        that is lost shows it.

    Example:
        >>> sign(torch.tensor([-2.0, -0.0, 0.0, 3.0, torch.nan]))
        tensor([-1.,  1.,  1.,  1., nan])
    """
    # -1 and 0, then -1 and +1. Comparisons and torch.sign would hide NaN; torch.where
    # costs 15 times as much on a CPU: scalar branches do not vectorise.
    return x.clamp(-1.0, 0.0).floor_().mul_(2).add_(1)


def _sign_again(x: Tensor) -> Tensor:
    """The sign in a backward pass, by arithmetic of its own.

    Of two equal expressions a compiler makes one, and keeps it from the forward pass:
    half as much memory again.
    """
    return x.clamp(-0.5, 0.0).floor_().add_(0.5).mul_(2)


def traced() -> bool:
    """Whether operators are written down now, for TorchScript, ONNX or torch.export."""
    # torch 2.6 has no is_exporting
    return torch.jit.is_tracing() or getattr(torch.compiler, 'is_exporting', bool)()


def by_operators() -> bool:
    """Whether others look inside: traces, ``torch.func`` and forward-mode derivatives.

    They need ordinary operators where an autograd function is faster.
    """
    return not torch.compiler.is_dynamo_compiling() and (traced() or _transformed())


def _transformed() -> bool:
    """Whether ``torch.func`` or forward-mode derivatives are at work."""
    functorch = torch._C._are_functorch_transforms_active()
    return functorch or forward_ad._current_level >= 0


def _differentiated(x: Tensor) -> bool:
    return _transformed() or (torch.is_grad_enabled() and x.requires_grad)


class _Hardtanh(Function):
    @staticmethod
    def forward(ctx, x):
        y = x.clamp(-1, 1)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, grad):
        (y,) = ctx.saved_tensors
        # 1 where |y| < 1, else 0, in floats: see _ste_vjp.
        return (1 - y.abs()).ceil_().mul_(grad)


def hardtanh(x: Tensor) -> Tensor:
    """Clamp to [-1, 1], as ``torch.nn.functional.hardtanh`` does, in less time.

    It keeps what comes out for the backward pass, as the next convolution does. With
    torch's own a compiler keeps a Boolean mask besides, and gradients in channels_last
    turn into those of another layout.

    Args:
        x (Tensor): Any shape, floating point.

    Returns:
        Tensor: In the shape and dtype of ``x``.

    Example:
        >>> hardtanh(torch.tensor([-2.0, 0.5, 1.0]))
        tensor([-1.0000,  0.5000,  1.0000])
    """
    return F.hardtanh(x) if by_operators() else _Hardtanh.apply(x)


class Estimator(NamedTuple):
    """A stand-in for the derivative of sign: ``gain(t, k) * shape(x, t)``.

    The gain is apart because it is one number: a convolution applies it to its
    few weights and not to its many activations.

    Attributes:
        gain (Callable): (t, k) -> factor, a 0-dim tensor or a number.
        vjp (Callable): (grad, x, t) -> grad * shape(x, t).
        curve (Callable): (x, t, k) -> what has this derivative: the stand-in for
            sign itself. Training does not need it.
    """

    gain: Callable[[Tensor, Tensor], Tensor | float]
    vjp: Callable[[Tensor, Tensor, Tensor], Tensor]
    curve: Callable[[Tensor, Tensor, Tensor], Tensor]


def _ede_vjp(grad: Tensor, x: Tensor, t: Tensor) -> Tensor:
    # 1 - tanh(tx)^2 = 4 s(2tx) (1 - s(2tx)) with the logistic function s, which
    # costs a quarter of tanh on a CPU. The 4 is in the gain.
    return torch.ops.aten.sigmoid_backward(grad, (x * (2 * t)).sigmoid_())


def _ste_vjp(grad: Tensor, x: Tensor, t: Tensor) -> Tensor:
    # 2 - ceil|x| is 1 or 2 where |x| <= 1. A compiler would keep a Boolean mask from
    # the forward pass, in loops that do not vectorise: a step took 2.5 times as long.
    return x.abs().ceil_().neg_().add_(2).clamp_(0, 1).mul_(grad)


def _approx_sign_vjp(grad: Tensor, x: Tensor, t: Tensor) -> Tensor:
    return grad * (1 - x.abs()).clamp_(min=0)


def _approx_sign_curve(x: Tensor, t: Tensor, k: Tensor) -> Tensor:
    x = x.clamp(-1, 1)
    return x * (2 - x.abs())


ESTIMATORS = {
    # IR-Net, eq. 10: k t (1 - tanh(tx)^2), not clipped.
    'ede': Estimator(
        lambda t, k: 4 * k * t, _ede_vjp, lambda x, t, k: k * torch.tanh(t * x)
    ),
    # BinaryConnect's straight-through estimator: 1 where |x| <= 1.
    'ste': Estimator(lambda t, k: 1.0, _ste_vjp, lambda x, t, k: x.clamp(-1, 1)),
    # Bi-Real Net, eq. 6: 2 - 2|x| where |x| < 1.
    'approx_sign': Estimator(lambda t, k: 2.0, _approx_sign_vjp, _approx_sign_curve),
}


def check_choice(name: str, value, allowed) -> None:
    """Raise a ValueError that names the argument and what it may be."""
    if value not in list(allowed):
        raise ConfigError(f'{name} must be one of {list(allowed)}, got {value!r}')


def _check_float(name: str, tensor: Tensor) -> None:
    """Integers would be cut, and complex numbers have no sign."""
    if not tensor.is_floating_point():
        raise ConfigError(f'{name} must be floating point, got {tensor.dtype}')


def _sign_by_operators(x: Tensor, t: Tensor, k: Tensor, estimator: str) -> Tensor:
    """:func:`binary_sign` in operators that can be differentiated as often as asked.

    The curve minus itself is exactly zero, with the curve's derivative.
    """
    q = sign(x.detach())
    if not _differentiated(x):
        return q
    curve = ESTIMATORS[estimator].curve(x, t.detach(), k.detach())
    return q + (curve - curve.detach())


class _BinarySign(Function):
    @staticmethod
    def forward(ctx, x, t, k, estimator):
        ctx.save_for_backward(x, t, k)
        ctx.estimator = estimator
        return sign(x)

    @staticmethod
    def backward(ctx, grad):
        x, t, k = ctx.saved_tensors
        estimator = ESTIMATORS[ctx.estimator]
        grad = estimator.vjp(grad, x, t) * estimator.gain(t, k)
        return grad, None, None, None


def binary_sign(x: Tensor, t: Tensor, k: Tensor, estimator: str = 'ede') -> Tensor:
    r"""Sign in the forward pass, an estimator of its derivative in the backward.

    ============= ========================================== ==================
    estimator     :math:`\partial\,\mathrm{sign}/\partial x` source
    ============= ========================================== ==================
    'ede'         :math:`k t (1 - \tanh^2(t x))`             IR-Net, eq. 10
    'ste'         1 where :math:`|x| \le 1`, else 0          BinaryConnect
    'approx_sign' :math:`\max(2 - 2|x|, 0)`                  Bi-Real Net, eq. 6
    ============= ========================================== ==================

    Args:
        x (Tensor): Any shape, floating point.
        t (Tensor): EDE's sharpness, 0-dim. The other estimators ignore t and k.
        k (Tensor): EDE's height, 0-dim.
        estimator (str): A key of the table.

    Returns:
        Tensor: -1 and +1 (sign(0) = +1), in the shape and dtype of ``x``.

    Raises:
        ValueError: If the estimator is unknown.

    Example:
        >>> x = torch.tensor([-3.0, 0.0, 0.5], requires_grad=True)
        >>> binary_sign(x, torch.tensor(1.0), torch.tensor(1.0)).sum().backward()
        >>> x.grad
        tensor([0.0099, 1.0000, 0.7864])
    """
    check_choice('estimator', estimator, ESTIMATORS)
    _check_float('x', x)
    if by_operators():
        return _sign_by_operators(x, t, k, estimator)
    return _BinarySign.apply(x, t, k, estimator)


class _Filters(NamedTuple):
    """Weights and what is known of each output channel's filter."""

    centred: Tensor  # as the weight: w - mean(w); zero where the filter is constant
    inv_std: Tensor | float  # (out, 1, ...): 1 / std(w); 1 where it is constant
    scale: Tensor | None  # (out, 1, ...): s


class WeightRule(NamedTuple):
    """How a layer binarises its weight: the keywords of its constructor.

    Args:
        standardize (bool): Divide balanced weights by their standard deviation.
        scale (str | None): 'shift', 'mean' or None, see :func:`libra_pb`.
        estimator (str): A key of :data:`ESTIMATORS`.
        balance (bool): Subtract each filter's mean.

    Raises:
        ValueError: If ``scale`` or ``estimator`` is unknown, or weights would be
            standardised that are not balanced.

    Example:
        >>> WeightRule(scale='mean')._replace(estimator='ste')
        WeightRule(standardize=True, scale='mean', estimator='ste', balance=True)
    """

    standardize: bool = True
    scale: str | None = 'shift'
    estimator: str = 'ede'
    balance: bool = True


def _check_rules(rule: type[WeightRule]) -> None:
    """Have every rule checked where it is made.

    Of its own accord a NamedTuple checks nothing, and torch 2.6 compiles no subclass.
    """
    make = rule.__new__

    @functools.wraps(make)
    def checked(*args, **kwargs):
        made = make(*args, **kwargs)
        check_choice('scale', made.scale, SCALES)
        check_choice('estimator', made.estimator, ESTIMATORS)
        if made.standardize and not made.balance:
            raise ConfigError(
                'standardize=True divides balanced weights by their deviation: with '
                'balance=False, set standardize=False'
            )
        return made

    rule.__new__ = checked
    rule._replace = lambda self, **changes: rule(**{**self._asdict(), **changes})


_check_rules(WeightRule)


def check_filters(weight: Tensor, balance: bool, owner: str = 'Libra-PB') -> None:
    """Raise a ValueError if the weights cannot be binarised filter by filter."""
    _check_float('weight', weight)
    if weight.dim() < 2 or (balance and weight.shape[1:].numel() < 2):
        raise ConfigError(
            f'{owner} needs filters of two weights or more to balance them, got weight '
            f'shape {tuple(weight.shape)}; keep this layer in full precision'
        )


def _filter_dims(weight: Tensor) -> tuple[int, ...]:
    return tuple(range(1, weight.dim()))


def _filters(weight: Tensor, rule: WeightRule) -> _Filters:
    w = weight.float() if weight.dtype in (torch.half, torch.bfloat16) else weight
    # Not flattened: that would copy weights in channels_last.
    dims = _filter_dims(w)
    if not rule.balance:
        s = _scale(w.abs().mean(dims, keepdim=True), rule.scale)
        return _Filters(w, 1.0, s)
    mean = w.mean(dims, keepdim=True)
    centred = w - mean
    # The mean first, then a norm: as exact as torch.std and ten times as fast.
    std = torch.linalg.vector_norm(centred, dim=dims, keepdim=True)
    std = std / math.sqrt(w.shape[1:].numel() - 1)
    # Rounding alone leaves a constant filter this far from its mean.
    info = torch.finfo(w.dtype)
    constant = std <= 16 * info.eps * mean.abs() + info.tiny
    # Fresh memory costs more than the arithmetic, but autograd needs the old values.
    keep = torch.is_grad_enabled() or by_operators()
    centred = (centred.masked_fill if keep else centred.masked_fill_)(constant, 0)
    inv_std = std.masked_fill(constant, 1).reciprocal() if rule.standardize else 1.0
    s = _scale(centred.abs().mean(dims, keepdim=True) * inv_std, rule.scale)
    return _Filters(centred, inv_std, s)


def _scale(mean: Tensor, scale: str | None) -> Tensor | None:
    """S of the mean absolute value of each filter; 1 for zeros alone."""
    if scale is None:
        return None
    s = mean
    if scale == 'shift':
        s = mean.log2().round()
        s = 2.0**s if traced() else s.exp2()  # ONNX has no exp2
    return s.masked_fill(mean == 0, 1)


def libra_pb(
    weight: Tensor,
    standardize: bool = True,
    scale: str | None = 'shift',
    balance: bool = True,
) -> tuple[Tensor, Tensor | None]:
    r"""Libra parameter binarisation (section 3.2) up to the sign.

    Per output channel c, with the n elements of its filter:

    .. math::
        \hat w = w - \mathrm{mean}(w), \qquad
        \hat w_{std} = \hat w / \mathrm{std}(\hat w), \qquad
        s = 2^{\,\mathrm{round}(\log_2 \mathrm{mean}|\hat w_{std}|)}

    and the binary weights are :math:`Q_w = s \cdot \mathrm{sign}(\hat w_{std})`.
    The standard deviation is the unbiased one and there is no epsilon, as in the
    released code. A constant filter has no standard deviation: it is balanced to
    zero and gets s = 1.

    Args:
        weight (Tensor): (out, in/groups, kh, kw) or (out, in), n >= 2 elements a
            filter. Half-precision weights are computed in float32.
        standardize (bool): Divide by the standard deviation; False balances only.
        scale (str | None): 'shift' for the power of two above, 'mean' for the
            mean itself, None for no scale.
        balance (bool): False takes the weights as they are, what Libra-PB is compared
            with; it needs ``standardize=False``.

    Returns:
        tuple[Tensor, Tensor | None]: :math:`\hat w_{std}` in the weight's shape,
        differentiable, and s in (out, 1, ...), a constant in the backward pass.

    Raises:
        ValueError: If the scale is unknown, weights would be standardised that are
            not balanced, or a filter has a single weight.

    Example:
        >>> w_std, s = libra_pb(torch.tensor([[1.0, 2.0, 3.0, 6.0]]))
        >>> w_std, s
        (tensor([[-0.9258, -0.4629,  0.0000,  1.3887]]), tensor([[0.5000]]))
    """
    rule = WeightRule(standardize, scale, balance=balance)
    check_filters(weight, balance)
    centred, inv_std, s = _filters(weight, rule)
    return centred * inv_std, None if s is None else s.detach()


def _quantize(filters: _Filters, dtype: torch.dtype) -> Tensor:
    """Q_w = s * sign(w_std). The sign needs no division by the deviation."""
    q = sign(filters.centred)
    if filters.scale is not None:
        q *= filters.scale
    return q.to(dtype)


def _weight_vjp(grad, filters: _Filters, t, k, rule: WeightRule) -> Tensor:
    """Through the estimator, the standardisation and the mean; s is constant.

    Overwrites the filters if they were balanced: fresh memory costs more than the
    arithmetic. Without balance they are the caller's own weights.
    """
    centred, inv_std, s = filters
    estimator = ESTIMATORS[rule.estimator]
    gain = inv_std * estimator.gain(t, k)
    if s is not None:
        gain = s * gain
    z = centred.mul_(inv_std) if rule.standardize else centred
    dims = _filter_dims(z)
    d = estimator.vjp(grad.to(z.dtype), z, t).mul_(gain)
    if rule.balance:
        d -= d.mean(dims, keepdim=True)
    if rule.standardize:
        # z has mean 0, so its product with d is the same before and after.
        n = z.shape[1:].numel()
        d -= z.mul_((d * z).sum(dims, keepdim=True) / (n - 1))
    return d


def _weight_by_operators(
    weight: Tensor, t: Tensor, k: Tensor, rule: WeightRule
) -> Tensor:
    """:func:`binary_weight` in operators that can be differentiated again."""
    filters = _filters(weight, rule)
    if not _differentiated(weight):
        return _quantize(filters, weight.dtype)
    centred, inv_std, s = filters
    q = _sign_by_operators(centred * inv_std, t, k, rule.estimator)
    return (q if s is None else q * s.detach()).to(weight.dtype)


def _differentiate(y: Tensor, inputs: list[Tensor], grad: Tensor) -> tuple[Tensor, ...]:
    """Gradients with a graph of their own, for derivatives of derivatives."""
    return torch.autograd.grad(y, inputs, grad, create_graph=True)


class _BinaryWeight(Function):
    @staticmethod
    def forward(ctx, weight, t, k, rule):
        ctx.save_for_backward(weight, t, k)
        ctx.rule = rule
        filters = _filters(weight, rule)
        return _quantize(filters, weight.dtype)

    @staticmethod
    def backward(ctx, grad):
        weight, t, k = ctx.saved_tensors
        if torch.is_grad_enabled():
            q = _weight_by_operators(weight, t, k, ctx.rule)
            return *_differentiate(q, [weight], grad), None, None, None
        filters = _filters(weight, ctx.rule)
        grad = _weight_vjp(grad, filters, t, k, ctx.rule).to(weight.dtype)
        return grad, None, None, None


def binary_weight(
    weight: Tensor, t: Tensor, k: Tensor, rule: WeightRule = WeightRule()
) -> Tensor:
    """Libra-PB's binary weights Q_w = s * sign(w_std), with an estimator behind.

    Equals ``s * binary_sign(w_std, t, k, estimator)`` of :func:`libra_pb`, in one
    step that keeps nothing but the weight for the backward pass.

    Args:
        weight (Tensor): As for :func:`libra_pb`.
        t (Tensor): EDE's sharpness, 0-dim.
        k (Tensor): EDE's height, 0-dim.
        rule (WeightRule): standardize, scale, estimator and balance.

    Returns:
        Tensor: -s and +s in the weight's shape and dtype.

    Raises:
        ValueError: If the weights are integers or a filter has a single weight.

    Example:
        >>> t, k = torch.tensor([0.1, 10.0])
        >>> binary_weight(torch.tensor([[1.0, 2.0, 3.0, 6.0]]), t, k)
        tensor([[-0.5000, -0.5000,  0.5000,  0.5000]])
    """
    check_filters(weight, rule.balance)
    if by_operators():
        return _weight_by_operators(weight, t, k, rule)
    return _BinaryWeight.apply(weight, t, k, rule)


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
        filters = _filters(weight, rule)
        qw = _quantize(filters, dtype)
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
        qx = (_sign_again(x) if ctx.binarize_input else x).to(ctx.dtype)
        filters = _filters(weight, ctx.rule)
        qw = _quantize(filters, ctx.dtype)
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
            grad_w = _weight_vjp(grad_w, filters, t, k, ctx.rule).to(weight.dtype)
        return grad_x, grad_w, grad_b, *[None] * 6

    @staticmethod
    def backward_by_operators(ctx, grad):
        """The same gradients, with a graph of their own."""
        x, weight, t, k = ctx.saved_tensors
        options = ctx.geometry, ctx.rule, ctx.binarize_input, ctx.dtype
        y = _conv2d_by_operators(x, weight, None, t, k, *options)
        needed = ctx.needs_input_grad[:2]
        inputs = [a for a, need in zip((x, weight), needed, strict=True) if need]
        grads = iter(_differentiate(y, inputs, grad) if inputs else ())
        grad_b = grad.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
        return *(next(grads) if need else None for need in needed), grad_b


def _conv2d_by_operators(
    x, weight, bias, t, k, geometry, rule, binarize_input, dtype
) -> Tensor:
    """:func:`binary_conv2d` in operators that can be differentiated again."""
    qx = _sign_by_operators(x, t, k, rule.estimator) if binarize_input else x
    qw = _weight_by_operators(weight, t, k, rule)
    bias = None if bias is None else bias.to(dtype)
    return F.conv2d(qx.to(dtype), qw.to(dtype), bias, *geometry)


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
    _check_float('x', x)
    if not autocast and x.dtype != weight.dtype:
        raise ConfigError(f'x is {x.dtype} and the weight {weight.dtype}: cast one')
    check_filters(weight, rule.balance)
    conv = _conv2d_by_operators if by_operators() else _BinaryConv2d.apply
    return conv(x, weight, bias, t, k, geometry, rule, binarize_input, dtype)
