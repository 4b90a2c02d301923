"""The sign function and the estimators of its derivative."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from ..errors import ConfigError, check_choice
from .modes import by_operators, differentiated, in_graph


def sign(x: Tensor) -> Tensor:
    """Computes the sign of every element; that of zero is +1, so one bit is enough.

    Args:
        x (Tensor): Any shape, floating point. -0.0 counts as 0.

    Returns:
        Tensor: -1 and +1, with the shape and dtype of ``x``. NaN stays NaN, so that
        a diverged network is noticed.

    Example:
        >>> sign(torch.tensor([-2.0, -0.0, 0.0, 3.0, torch.nan]))
        tensor([-1.,  1.,  1.,  1., nan])
    """
    # First -1 and 0, then -1 and +1. Comparisons and torch.sign would hide NaN.
    # torch.where takes 15 times as long on a CPU: scalar branches do not vectorise.
    return x.clamp(-1.0, 0.0).floor_().mul_(2).add_(1)


def sign_again(x: Tensor) -> Tensor:
    """Computes the sign in a backward pass, with other operations than :func:`sign`.

    A compiler merges equal expressions and would save the signs of the forward pass,
    which takes half as much memory again.
    """
    return x.clamp(-0.5, 0.0).floor_().add_(0.5).mul_(2)


class Estimator(NamedTuple):
    """An estimator of the derivative of sign: ``gain(t, k) * shape(x, t)``.

    The gain is separate because it is a scalar. A convolution applies it to its weights
    instead of its activations, which are more numerous.

    t and k are the two numbers that a schedule moves: EDE's t and k, or ReSTE's o as t.

    Attributes:
        name (str): Value of ``estimator=``.
        formula (str): The derivative, as TeX.
        source (str): Paper and equation.
        gain (Callable): (t, k) -> factor, a 0-dim tensor or a number.
        vjp (Callable): (grad, x, t) -> grad * shape(x, t), a new tensor or grad itself.
        curve (Callable): (x, t, k) -> the function with this derivative, which
            approximates sign. Training does not need it.
    """

    name: str
    formula: str
    source: str
    gain: Callable[[Tensor, Tensor], Tensor | float]
    vjp: Callable[[Tensor, Tensor, Tensor], Tensor]
    curve: Callable[[Tensor, Tensor, Tensor], Tensor]

    def derivative(self, x: Tensor, t: Tensor, k: Tensor) -> Tensor:
        """Computes the factor that gradients are multiplied by.

        Args:
            x (Tensor): Any shape, floating point.
            t (Tensor): EDE's sharpness, 0-dim.
            k (Tensor): EDE's height, 0-dim.

        Returns:
            Tensor: The derivative, with the shape of ``x``.

        Example:
            >>> x, one = torch.tensor([0.0, 0.5, 2.0]), torch.tensor(1.0)
            >>> ESTIMATORS['approx_sign'].derivative(x, one, one)
            tensor([2., 1., 0.])
        """
        return self.vjp(torch.ones_like(x), x, t) * self.gain(t, k)


#: All estimators by name.
ESTIMATORS: dict[str, Estimator] = {}


def register_estimator(estimator: Estimator) -> Estimator:
    """Registers an estimator by its name for layers and configs.

    Args:
        estimator (Estimator): The estimator.

    Returns:
        Estimator: The same estimator.

    Raises:
        ConfigError: If another estimator has this name.

    Example:
        >>> line = Estimator(
        ...     'line', '1', 'none', lambda t, k: 1.0,
        ...     lambda grad, x, t: grad, lambda x, t, k: x)
        >>> binary = register_estimator(line)
        >>> ESTIMATORS.pop('line').formula
        '1'
    """
    if ESTIMATORS.setdefault(estimator.name, estimator) is not estimator:
        raise ConfigError(f'an estimator {estimator.name!r} is already registered')
    return estimator


def _ede_vjp(grad: Tensor, x: Tensor, t: Tensor) -> Tensor:
    # 1 - tanh(tx)^2 = 4 s(2tx) (1 - s(2tx)) with the logistic function s, which
    # takes a quarter of the time of tanh on a CPU. The gain contains the 4.
    return torch.ops.aten.sigmoid_backward(grad, (x * (2 * t)).sigmoid_())


def _ste_vjp(grad: Tensor, x: Tensor, t: Tensor) -> Tensor:
    # 2 - ceil|x| is 1 or 2 where |x| <= 1. With a comparison, a compiler saves a
    # Boolean mask, in loops that do not vectorise: a step took 2.5 times as long.
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


register_estimator(
    Estimator(
        'identity',
        '1',
        'straight-through estimator, Bengio et al. 2013',
        lambda t, k: 1.0,
        lambda grad, x, t: grad,
        lambda x, t, k: x,
    )
)


def check_float(name: str, tensor: Tensor) -> None:
    """Refuses integers, which would be truncated, and complex numbers."""
    if not tensor.is_floating_point():
        raise ConfigError(f'{name} must be floating point, got {tensor.dtype}')


def sign_by_operators(x: Tensor, t: Tensor, k: Tensor, estimator: str) -> Tensor:
    """Computes :func:`binary_sign` with operators that have higher derivatives.

    The curve minus its detached copy is exactly zero and has the curve's derivative.
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


_binary_sign = in_graph(_BinarySign)


def binary_sign(x: Tensor, t: Tensor, k: Tensor, estimator: str = 'ede') -> Tensor:
    r"""Computes the sign, and estimates its derivative in the backward pass.

    ============= ========================================== ==================
    estimator     :math:`\partial\,\mathrm{sign}/\partial x` source
    ============= ========================================== ==================
    'ede'         :math:`k t (1 - \tanh^2(t x))`             IR-Net, eq. 10
    'ste'         1 where :math:`|x| \le 1`, else 0          BinaryConnect
    'approx_sign' :math:`\max(2 - 2|x|, 0)`                  Bi-Real Net, eq. 6
    'identity'    1                                          Bengio et al. 2013
    ============= ========================================== ==================

    Args:
        x (Tensor): Any shape, floating point.
        t (Tensor): EDE's sharpness, 0-dim. The other estimators ignore t and k.
        k (Tensor): EDE's height, 0-dim.
        estimator (str): A name in the table, or another key of :data:`ESTIMATORS`.

    Returns:
        Tensor: -1 and +1 (sign(0) = +1), with the shape and dtype of ``x``.

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
    return _binary_sign(x, t, k, estimator)
