r"""ReSTE: a power function that turns from the identity into the sign.

Wu et al., `Estimator Meets Equilibrium Perspective <https://arxiv.org/abs/2308.06689>`_,
ICCV 2023. The curve is :math:`\mathrm{sign}(x) |x|^{1/o}`, with a straight line where
:math:`|x| \le 0.1` and a constant where :math:`|x| > 1.5`, for weights and inputs. o
goes from 1 to 3. Weights are scaled by the layer's mean absolute weight, which is
differentiated too, and are not centred.
"""

import math

from torch import Tensor, nn

from ...errors import ConfigError
from ..estimators import Estimator, register_estimator
from ..layers import BinaryConv2d, BinaryLinear
from ..recipe import LAYER_MEAN, Recipe, register_recipe
from ..schedules import Schedule, register_schedule

LINE, END = 0.1, 1.5


def reste(progress: float, o_end: float = 3.0) -> tuple[float, float]:
    r"""Computes ReSTE's o: :math:`1 + (o_{end} - 1)(1 - \cos(\pi p / 2))`.

    Args:
        progress (float): Completed fraction p of the training.
        o_end (float): o at the end, at least 1.

    Returns:
        tuple[float, float]: o, and 1.

    Raises:
        ConfigError: If ``o_end`` is below 1.

    Example:
        >>> reste(0.0), reste(1.0)[0]
        ((1.0, 1.0), 3.0)
    """
    if not 1 <= o_end < math.inf:
        raise ConfigError(f'ReSTE needs o_end of 1 or more, got {o_end}')
    return 1 + (o_end - 1) * (1 - math.cos(math.pi * progress / 2)), 1.0


def _vjp(grad: Tensor, x: Tensor, o: Tensor) -> Tensor:
    size = x.abs()
    line = (size <= LINE).to(x.dtype)
    within = (size <= END).to(x.dtype)
    power = size.clamp(min=LINE) ** ((1 - o) / o)
    return grad * within * power * (line + (1 - line) / o)


def _curve(x: Tensor, o: Tensor, k: Tensor) -> Tensor:
    size = x.abs().clamp(max=END)
    line = x * LINE ** ((1 - o) / o)
    # Clamped: the power has no derivative at 0.
    power = x.sign() * size.clamp(min=LINE) ** (1 / o)
    return line.where(size <= LINE, power)


register_estimator(
    Estimator(
        'reste',
        r'\tfrac{1}{o} |x|^{(1 - o) / o} \text{ where } 0.1 < |x| \le 1.5',
        'ReSTE, ICCV 2023',
        lambda o, k: 1.0,
        _vjp,
        _curve,
    )
)
RESTE_SCHEDULE = register_schedule(
    Schedule(
        'reste',
        ('o',),
        r'o = 1 + (o_{end} - 1)(1 - \cos(\pi p / 2))',
        'ReSTE, ICCV 2023',
        reste,
    )
)
RESTE = register_recipe(
    Recipe(
        'ReSTE',
        'ReSTE, ICCV 2023',
        estimator='reste',
        scale=LAYER_MEAN,
        scale_gradient='full',
        input_estimator='reste',
        schedule=RESTE_SCHEDULE,
    )
)


class ReSTEConv2d(BinaryConv2d, nn.Conv2d):
    """A convolution of ReSTE: sign(w) times the layer's mean absolute weight."""

    rule = RESTE.name


class ReSTELinear(BinaryLinear, nn.Linear):
    """A linear layer of ReSTE: sign(w) times the layer's mean absolute weight."""

    rule = RESTE.name
