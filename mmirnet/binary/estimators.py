"""Sign, and its stand-ins in the backward pass."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from ..errors import ConfigError, check_choice
from .modes import by_operators, differentiated


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


def sign_again(x: Tensor) -> Tensor:
    """The sign in a backward pass, by arithmetic of its own.

    Of two equal expressions a compiler makes one, and keeps it from the forward pass:
    half as much memory again.
    """
    return x.clamp(-0.5, 0.0).floor_().add_(0.5).mul_(2)


class Estimator(NamedTuple):
    """A stand-in for the derivative of sign: ``gain(t, k) * shape(x, t)``.

    The gain is apart because it is one number: a convolution applies it to its
    few weights and not to its many activations.

    Attributes:
        name (str): What ``estimator=`` calls it.
        formula (str): The derivative, as TeX.
        source (str): Paper and equation.
        gain (Callable): (t, k) -> factor, a 0-dim tensor or a number.
        vjp (Callable): (grad, x, t) -> grad * shape(x, t).
        curve (Callable): (x, t, k) -> what has this derivative: the stand-in for
            sign itself. Training does not need it.
    """

    name: str
    formula: str
    source: str
    gain: Callable[[Tensor, Tensor], Tensor | float]
    vjp: Callable[[Tensor, Tensor, Tensor], Tensor]
    curve: Callable[[Tensor, Tensor, Tensor], Tensor]

    def derivative(self, x: Tensor, t: Tensor, k: Tensor) -> Tensor:
        """What gradients are multiplied by.

        Args:
            x (Tensor): Any shape, floating point.
            t (Tensor): EDE's sharpness, 0-dim.
            k (Tensor): EDE's height, 0-dim.

        Returns:
            Tensor: In the shape of ``x``.

        Example:
            >>> x, one = torch.tensor([0.0, 0.5, 2.0]), torch.tensor(1.0)
            >>> ESTIMATORS['approx_sign'].derivative(x, one, one)
            tensor([2., 1., 0.])
        """
        return self.vjp(torch.ones_like(x), x, t) * self.gain(t, k)


#: All estimators by name.
ESTIMATORS: dict[str, Estimator] = {}


def register_estimator(estimator: Estimator) -> Estimator:
    """Makes an estimator known by its name, to layers and configs.

    Args:
        estimator (Estimator): The estimator.

    Returns:
        Estimator: The same.

    Raises:
        ConfigError: If there is another one of this name.

    Example:
        >>> identity = Estimator(
        ...     'identity', '1', 'none', lambda t, k: 1.0,
        ...     lambda grad, x, t: grad, lambda x, t, k: x)
        >>> binary = register_estimator(identity)
        >>> ESTIMATORS.pop('identity').formula
        '1'
    """
    if ESTIMATORS.setdefault(estimator.name, estimator) is not estimator:
        raise ConfigError(f'there is an estimator {estimator.name!r} already')
    return estimator


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


register_estimator(
    Estimator(
        'ede',
        r'k t (1 - \tanh^2(t x))',
        'IR-Net, eq. 10',
        lambda t, k: 4 * k * t,
        _ede_vjp,
        lambda x, t, k: k * torch.tanh(t * x),
    )
)
register_estimator(
    Estimator(
        'ste',
        r'1 \text{ where } |x| \le 1',
        'BinaryConnect',
        lambda t, k: 1.0,
        _ste_vjp,
        lambda x, t, k: x.clamp(-1, 1),
    )
)
register_estimator(
    Estimator(
        'approx_sign',
        r'\max(2 - 2|x|, 0)',
        'Bi-Real Net, eq. 6',
        lambda t, k: 2.0,
        _approx_sign_vjp,
        _approx_sign_curve,
    )
)


def check_float(name: str, tensor: Tensor) -> None:
    """Integers would be cut, and complex numbers have no sign."""
    if not tensor.is_floating_point():
        raise ConfigError(f'{name} must be floating point, got {tensor.dtype}')


def sign_by_operators(x: Tensor, t: Tensor, k: Tensor, estimator: str) -> Tensor:
    """:func:`binary_sign` in operators that can be differentiated as often as asked.

    The curve minus itself is exactly zero, with the curve's derivative.
    """
    q = sign(x.detach())
    if not differentiated(x):
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
        estimator (str): A key of the table, or one more of :data:`ESTIMATORS`.

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
    check_float('x', x)
    if by_operators():
        return sign_by_operators(x, t, k, estimator)
    return _BinarySign.apply(x, t, k, estimator)
