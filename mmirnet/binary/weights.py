"""Binarisation of weights: Libra-PB and its ablations.

Qin et al., `Forward and Backward Information Retention for Accurate Binary
Neural Networks <https://arxiv.org/abs/1909.10788>`_, CVPR 2020, section 3.2.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from ..errors import ConfigError, check_choice
from .estimators import ESTIMATORS, check_float, sign, sign_by_operators
from .modes import by_operators, differentiate, differentiated, in_graph, traced


class Scale(NamedTuple):
    """The scale s of a channel, computed from its mean absolute weight m.

    Attributes:
        name (str): Value of ``scale=``.
        formula (str): s as a function of m, as TeX.
        source (str): Paper and equation.
        of (Callable): (m) -> s, both (out, 1, ...). s is a constant in the backward
            pass. For m = 0, s is set to 1 afterwards.
        exact (bool): Whether s is a power of two. Other scales are applied behind the
            sum of a convolution, where they round once.
    """

    name: str
    formula: str
    source: str
    of: Callable[[Tensor], Tensor]
    exact: bool = False


#: All scales by name. None means no scale.
SCALES: dict[str | None, Scale | None] = {None: None}


def register_scale(scale: Scale) -> Scale:
    """Registers a scale by its name for layers and configs.

    Args:
        scale (Scale): The scale.

    Returns:
        Scale: The same scale.

    Raises:
        ConfigError: If another scale has this name.

    Example:
        >>> half = register_scale(Scale('half', 'm / 2', 'none', lambda m: m / 2))
        >>> SCALES.pop('half').formula
        'm / 2'
    """
    if SCALES.setdefault(scale.name, scale) is not scale:
        raise ConfigError(f'a scale {scale.name!r} is already registered')
    return scale


def _nearest_power_of_two(mean: Tensor) -> Tensor:
    exponent = mean.log2().round()
    return 2.0**exponent if traced() else exponent.exp2()  # ONNX has no exp2


register_scale(
    Scale(
        'shift',
        r'2^{\mathrm{round}(\log_2 m)}',
        'IR-Net, section 3.2',
        _nearest_power_of_two,
        exact=True,
    )
)
register_scale(Scale('mean', 'm', 'XNOR-Net', lambda mean: mean))


class Filters(NamedTuple):
    """Balanced weights, and statistics of the filter of each output channel."""

    centred: Tensor  # shape of the weight: w - mean(w); zero if the filter is constant
    inv_std: Tensor | float  # (out, 1, ...): 1 / std(w); 1 if the filter is constant
    scale: Tensor | None  # (out, 1, ...): s


class WeightRule(NamedTuple):
    """Options of the binarisation of weights: the keywords of the binary layers.

    Args:
        standardize (bool): Divide balanced weights by their standard deviation.
        scale (str | None): A key of :data:`SCALES`, see :func:`libra_pb`.
        estimator (str): A key of :data:`ESTIMATORS`.
        balance (bool): Subtract the mean of each filter.

    Raises:
        ValueError: If an option has an unknown value, or if ``standardize`` is set
            without ``balance``.

    Example:
        >>> WeightRule(scale='mean')._replace(estimator='ste')
        WeightRule(standardize=True, scale='mean', estimator='ste', balance=True)
    """

    standardize: bool = True
    scale: str | None = 'shift'
    estimator: str = 'ede'
    balance: bool = True


def _check_rules(rule: type[WeightRule]) -> None:
    """Makes the constructor of the rule check its arguments.

    A NamedTuple checks nothing, and torch 2.6 cannot compile a subclass of it.
    """
    make = rule.__new__

    @functools.wraps(make)
    def checked(*args, **kwargs):
        made = make(*args, **kwargs)
        # While torch 2.11 compiles, it makes one of placeholders, which it realizes
        # later. Other versions compile these lines.
        if hasattr(made.standardize, 'realize'):
            return made
        check_choice('standardize', made.standardize, (True, False))
        check_choice('balance', made.balance, (True, False))
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
    """Refuses weights that cannot be binarised per filter."""
    check_float('weight', weight)
    if weight.dim() < 2 or (balance and weight.shape[1:].numel() < 2):
        raise ConfigError(
            f'{owner} needs filters of two weights or more to balance them, got weight '
            f'shape {tuple(weight.shape)}; keep this layer in full precision'
        )


def in_float(values: Tensor) -> Tensor:
    """Returns half-precision values in float32, in which statistics are computed."""
    half = values.dtype in (torch.half, torch.bfloat16)
    return values.float() if half else values


def filter_dims(weight: Tensor) -> tuple[int, ...]:
    """Returns the dimensions of a filter: all but the first."""
    return tuple(range(1, weight.dim()))


def make_filters(weight: Tensor, rule: WeightRule) -> Filters:
    """Balances and standardises a weight and computes its scale."""
    w = in_float(weight)
    # Not flattened: that would copy weights in channels-last memory format.
    dims = filter_dims(w)
    if not rule.balance:
        s = _scale(w.abs().mean(dims, keepdim=True), rule.scale)
        return Filters(w, 1.0, s)
    mean = w.mean(dims, keepdim=True)
    centred = w - mean
    # Mean, then norm: as exact as torch.std and ten times as fast.
    std = torch.linalg.vector_norm(centred, dim=dims, keepdim=True)
    std = std / math.sqrt(w.shape[1:].numel() - 1)
    # Upper bound of the rounding error for a constant filter.
    info = torch.finfo(w.dtype)
    constant = std <= 16 * info.eps * mean.abs() + info.tiny
    # Allocating memory takes longer than the arithmetic, but autograd needs the old
    # values.
    keep = torch.is_grad_enabled() or by_operators()
    centred = (centred.masked_fill if keep else centred.masked_fill_)(constant, 0)
    inv_std = std.masked_fill(constant, 1).reciprocal() if rule.standardize else 1.0
    s = _scale(centred.abs().mean(dims, keepdim=True) * inv_std, rule.scale)
    return Filters(centred, inv_std, s)


def _scale(mean: Tensor, name: str | None) -> Tensor | None:
    """Computes s from the mean absolute value of each filter; 1 if that is zero."""
    scale = SCALES[name]
    return None if scale is None else scale.of(mean).masked_fill(mean == 0, 1)


def libra_pb(
    weight: Tensor,
    standardize: bool = True,
    scale: str | None = 'shift',
    balance: bool = True,
) -> tuple[Tensor, Tensor | None]:
    r"""Computes Libra parameter binarisation (section 3.2) up to the sign.

    For each output channel, with the n elements of its filter:

    .. math::
        \hat w = w - \mathrm{mean}(w), \qquad
        \hat w_{std} = \hat w / \mathrm{std}(\hat w), \qquad
        s = 2^{\,\mathrm{round}(\log_2 \mathrm{mean}|\hat w_{std}|)}

    and the binary weights are :math:`Q_w = s \cdot \mathrm{sign}(\hat w_{std})`.
    The standard deviation is the unbiased one and has no epsilon, as in the released
    code. A constant filter has a standard deviation of zero. It is balanced to zero,
    and s is 1.

    Args:
        weight (Tensor): (out, in/groups, kh, kw) or (out, in), with n >= 2 elements
            per filter. Half-precision weights are computed in float32.
        standardize (bool): Divide by the standard deviation. False only balances.
        scale (str | None): A key of :data:`SCALES`: 'shift' for the power of two
            above, 'mean' for the mean itself, None for no scale.
        balance (bool): Subtract the mean of each filter. False leaves the weights
            unchanged and requires ``standardize=False``.

    Returns:
        tuple[Tensor, Tensor | None]: :math:`\hat w_{std}` with the shape of the weight,
        differentiable, and s of shape (out, 1, ...), a constant in the backward pass.

    Raises:
        ValueError: If the scale is unknown, if ``standardize`` is set without
            ``balance``, or if a filter has a single weight.

    Example:
        >>> w_std, s = libra_pb(torch.tensor([[1.0, 2.0, 3.0, 6.0]]))
        >>> w_std, s
        (tensor([[-0.9258, -0.4629,  0.0000,  1.3887]]), tensor([[0.5000]]))
    """
    rule = WeightRule(standardize, scale, balance=balance)
    check_filters(weight, balance)
    centred, inv_std, s = make_filters(weight, rule)
    return centred * inv_std, None if s is None else s.detach()


def quantize(filters: Filters, dtype: torch.dtype) -> Tensor:
    """Computes Q_w = s * sign(w_std). The sign does not need the standardisation."""
    q = sign(filters.centred)
    if filters.scale is not None:
        q *= filters.scale
    return q.to(dtype)


def weight_vjp(grad, filters: Filters, t, k, rule: WeightRule) -> Tensor:
    """Propagates a gradient through estimator, standardisation and mean; s is constant.

    The function overwrites balanced filters, because allocating memory takes longer
    than the arithmetic. Without balance the filters are the caller's weights.
    """
    centred, inv_std, s = filters
    estimator = ESTIMATORS[rule.estimator]
    gain = inv_std * estimator.gain(t, k)
    if s is not None:
        gain = s * gain
    z = centred.mul_(inv_std) if rule.standardize else centred
    dims = filter_dims(z)
    grad = grad.to(z.dtype)
    d = estimator.vjp(grad, z, t)
    d = d * gain if d is grad else d.mul_(gain)
    if rule.balance:
        d -= d.mean(dims, keepdim=True)
    if rule.standardize:
        # z has mean 0, so subtracting the mean of d does not change its product with z.
        n = z.shape[1:].numel()
        d -= z.mul_((d * z).sum(dims, keepdim=True) / (n - 1))
    return d


def weight_by_operators(
    weight: Tensor, t: Tensor, k: Tensor, rule: WeightRule
) -> Tensor:
    """Computes :func:`binary_weight` with operators that have higher derivatives."""
    filters = make_filters(weight, rule)
    if not differentiated(weight):
        return quantize(filters, weight.dtype)
    centred, inv_std, s = filters
    q = sign_by_operators(centred * inv_std, t, k, rule.estimator)
    return (q if s is None else q * s.detach()).to(weight.dtype)


class _BinaryWeight(Function):
    @staticmethod
    def forward(ctx, weight, t, k, rule):
        ctx.save_for_backward(weight, t, k)
        ctx.rule = rule
        filters = make_filters(weight, rule)
        return quantize(filters, weight.dtype)

    @staticmethod
    def backward(ctx, grad):
        weight, t, k = ctx.saved_tensors
        if torch.is_grad_enabled():
            q = weight_by_operators(weight, t, k, ctx.rule)
            return *differentiate(q, [weight], grad), None, None, None
        filters = make_filters(weight, ctx.rule)
        grad = weight_vjp(grad, filters, t, k, ctx.rule).to(weight.dtype)
        return grad, None, None, None


_binary_weight = in_graph(_BinaryWeight)


def binary_weight(
    weight: Tensor, t: Tensor, k: Tensor, rule: WeightRule = WeightRule()
) -> Tensor:
    """Computes Libra-PB's binary weights Q_w = s * sign(w_std).

    Equals ``s * binary_sign(w_std, t, k, estimator)`` of :func:`libra_pb`, in one
    autograd function that saves only the weight for the backward pass.

    Args:
        weight (Tensor): As for :func:`libra_pb`.
        t (Tensor): EDE's sharpness, 0-dim.
        k (Tensor): EDE's height, 0-dim.
        rule (WeightRule): standardize, scale, estimator and balance.

    Returns:
        Tensor: -s and +s, with the shape and dtype of the weight.

    Raises:
        ValueError: If the weights are integers or a filter has a single weight.

    Example:
        >>> t, k = torch.tensor([0.1, 10.0])
        >>> binary_weight(torch.tensor([[1.0, 2.0, 3.0, 6.0]]), t, k)
        tensor([[-0.5000, -0.5000,  0.5000,  0.5000]])
    """
    check_filters(weight, rule.balance)
    if by_operators():
        return weight_by_operators(weight, t, k, rule)
    return _binary_weight(weight, t, k, rule)
