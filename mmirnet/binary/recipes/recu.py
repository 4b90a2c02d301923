r"""ReCU: weights that never change their sign are pulled back towards zero.

Xu et al., `ReCU: Reviving the Dead Weights <https://arxiv.org/abs/2103.12369>`_, ICCV
2021. With mean and unbiased variance of each filter,

.. math::
    u = 2 \sqrt 2 \, \frac{w - \mathrm{mean}(w)}{\sqrt{\mathrm{var}(w) + 10^{-5}}},
    \qquad Q = -\mathrm{mean}_{layer}|u| \cdot \ln(2 - 2 \tau),

and the binary weight is the sign of u clamped to [-Q, Q]. Gradients pass where
:math:`|u| \le Q`, and through the normalisation; Q is a constant. tau goes from 0.85 to
0.99. Outputs have a learned scale. In training the input is divided by its deviation in
each image.
"""

import math

import torch
from torch import Tensor, nn

from ...errors import ConfigError
from ..layers import BinaryConv2d, BinaryLinear
from ..recipe import DIVIDED_INPUT, Latent, Recipe, deviation, register_recipe
from ..schedules import Schedule, register_schedule
from ..weights import filter_dims

_FACTOR = 2 * math.sqrt(2)


def recu(
    progress: float, tau_min: float = 0.85, tau_max: float = 0.99
) -> tuple[float, float]:
    r"""Computes ReCU's tau, which grows with :math:`e^p`.

    Args:
        progress (float): Completed fraction p of the training.
        tau_min (float): tau at the start, above 0.5.
        tau_max (float): tau at the end, below 1.

    Returns:
        tuple[float, float]: tau, and 1.

    Raises:
        ConfigError: If the bounds are not 0.5 < tau_min < tau_max < 1.

    Example:
        >>> [round(recu(p)[0], 3) for p in (0.0, 0.5, 1.0)]
        [0.85, 0.903, 0.99]
    """
    if not 0.5 < tau_min < tau_max < 1:
        raise ConfigError(
            f'ReCU needs 0.5 < tau_min < tau_max < 1, got {tau_min} and {tau_max}'
        )
    factor = (tau_max - tau_min) / (math.e - 1)
    return factor * math.exp(progress) + tau_min - factor, 1.0


def _bound(u: Tensor, tau: Tensor) -> Tensor:
    return -u.detach().abs().mean() * torch.log(2 - 2 * tau)


def _rectified(w: Tensor, tau: Tensor, k: Tensor) -> Tensor:
    centred, inverse, _ = deviation(w)
    u = centred * (_FACTOR * inverse)
    bound = _bound(u, tau)
    return u.clamp(-bound, bound)


def _rectified_vjp(grad: Tensor, w: Tensor, tau: Tensor, k: Tensor) -> Tensor:
    centred, inverse, degrees = deviation(w)
    factor, dims = _FACTOR * inverse, filter_dims(w)
    u = centred * factor
    d = grad * (u.abs() <= _bound(u, tau))
    # The derivative of the deviation: the square of 1 / sqrt(var + 1e-5).
    share = (d * u).sum(dims, keepdim=True) * inverse.square() / degrees
    return (d - d.mean(dims, keepdim=True)) * factor - centred * share


RECU_SCHEDULE = register_schedule(
    Schedule(
        'recu',
        ('tau',),
        r'\tau = A e^p + B',
        'ReCU, ICCV 2021',
        recu,
    )
)
RECU = register_recipe(
    Recipe(
        'ReCU',
        'ReCU, ICCV 2021',
        latent=Latent(r'\mathrm{clamp}(u, -Q, Q)', _rectified, _rectified_vjp),
        scale='learned',
        inputs=DIVIDED_INPUT,
        input_estimator='approx_sign',
        schedule=RECU_SCHEDULE,
        smallest=2,
    )
)


class ReCUConv2d(BinaryConv2d, nn.Conv2d):
    """A convolution of ReCU, with a learned scale ``alpha`` of each output channel."""

    rule = RECU.name


class ReCULinear(BinaryLinear, nn.Linear):
    """A linear layer of ReCU, with a learned scale ``alpha`` of each output."""

    rule = RECU.name
