r"""AdaBin: two values that fit each filter and each layer's input.

Tu et al., `AdaBin <https://arxiv.org/abs/2208.08084>`_, ECCV 2022. With mean beta and
population deviation alpha of each filter, the binary weight is

.. math::
    \alpha \, \mathrm{sign}((w - \beta) / \alpha) + \beta,

where alpha and beta are differentiated, and sign has EDE's derivative. The binary input
is :math:`\alpha_a (s + \beta_a)` with :math:`s = \mathrm{sign}((x - \beta_a) /
\alpha_a)` and the derivative :math:`\max(2 - 2|\cdot|, 0)`. That is what the released
code computes; the paper has :math:`\alpha_a s + \beta_a`. alpha_a and beta_a are one
learned number a layer. Padding is zero.
"""

import torch
from torch import Tensor, nn

from ..estimators import ESTIMATORS, sign
from ..layers import BinaryConv2d, BinaryLinear
from ..recipe import InputRule, Quantized, Recipe, WeightFunctions, register_recipe
from ..schedules import SCHEDULES
from ..weights import filter_dims


def _fit(w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Computes z = (w - beta) / alpha, alpha and beta of each filter.

    A constant filter has alpha 0. Its z is 0: it is binarised to beta.
    """
    dims = filter_dims(w)
    beta = w.mean(dims, keepdim=True)
    centred = w - beta
    alpha = centred.square().mean(dims, keepdim=True).sqrt()
    # Upper bound of the rounding error for a constant filter.
    info = torch.finfo(w.dtype)
    constant = alpha <= 16 * info.eps * beta.abs() + info.tiny
    z = (centred / alpha.masked_fill(constant, 1)).masked_fill(constant, 0)
    return z, alpha.masked_fill(constant, 0), beta


def _quantize(w: Tensor, t: Tensor, k: Tensor) -> Quantized:
    z, alpha, beta = _fit(w)
    return Quantized(sign(z), alpha, beta)


def _vjp(grad: Tensor, w: Tensor, t: Tensor, k: Tensor) -> Tensor:
    z, alpha, _ = _fit(w)
    dims = filter_dims(w)
    mean = grad.mean(dims, keepdim=True)
    # d is alpha's gradient of z, so that alpha cancels in the derivative of z.
    estimator = ESTIMATORS['ede']
    d = estimator.vjp(grad, z, t) * estimator.gain(t, k)
    fit = (grad * sign(z)).mean(dims, keepdim=True)
    inner = (d * z).mean(dims, keepdim=True)
    d = d - d.mean(dims, keepdim=True) + z * (fit - inner)
    return d.masked_fill(alpha == 0, 0) + mean


def _curve(w: Tensor, t: Tensor, k: Tensor) -> Tensor:
    dims = filter_dims(w)
    z, alpha, _ = _fit(w.detach())
    constant, signs = alpha == 0, sign(z)
    mean = w.mean(dims, keepdim=True)
    # The square root has no derivative at 0.
    square = (w - mean).square().mean(dims, keepdim=True)
    deviation = square.masked_fill(constant, 1).sqrt()
    z = (w - mean) / deviation
    curve = ESTIMATORS['ede'].curve(z, t.detach(), k.detach())
    fitted = deviation * (signs + curve - curve.detach())
    return fitted.masked_fill(constant, 0) + mean


def _direction(a: Tensor) -> Tensor:
    return sign(a.detach())


def _input(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return (x - b) / a


def _input_vjp(grad, grad_z, x, z, a, b):
    # grad_z is the gradient of alpha_a z: alpha_a cancels in the derivative of z.
    signs = sign((x - b) * _direction(a))
    grad_a = (grad * (signs + b) - grad_z * z).sum().reshape(a.shape)
    grad_b = (grad * a - grad_z).sum().reshape(b.shape)
    return grad_z, grad_a, grad_b


ADABIN = register_recipe(
    Recipe(
        'AdaBin',
        'AdaBin, ECCV 2022',
        estimator='ede',
        inputs=InputRule(
            r'(x - \beta_a) / \alpha_a',
            of=_input,
            vjp=_input_vjp,
            parameters=dict(alpha_a=(1.0, False), beta_a=(0.0, False)),
            # A difference has the exact sign; a quotient can underflow.
            signs=lambda x, a, b: (x - b) * _direction(a),
            value=lambda signs, a, b: a * (signs + b),
            threshold=lambda a, b, channels: b.expand(channels),
        ),
        input_estimator='approx_sign',
        schedule=SCHEDULES['ede'],
        functions=WeightFunctions(_quantize, _vjp, _curve, lambda w: _fit(w)[0]),
        smallest=2,
    )
)


class AdaBinConv2d(BinaryConv2d, nn.Conv2d):
    """A convolution of AdaBin, with learned ``alpha_a`` and ``beta_a`` of its input."""

    rule = ADABIN.name


class AdaBinLinear(BinaryLinear, nn.Linear):
    """A linear layer of AdaBin, with learned ``alpha_a`` and ``beta_a``."""

    rule = ADABIN.name
