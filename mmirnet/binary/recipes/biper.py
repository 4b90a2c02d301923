r"""BiPer: the sign of a periodic function of the weights.

Vargas et al., `BiPer <https://arxiv.org/abs/2404.01278>`_, CVPR 2024. The binary weight
is :math:`\mathrm{sign}(\sin(\omega w))` with the derivative
:math:`\omega \cos(\omega w)`. Training has two steps: first weights are
:math:`\sin(\omega w)` (``binarize_weight=False``), then their signs. Outputs have a
learned scale. In training the input is divided by its deviation in each image.
"""

from torch import nn

from ...errors import check_number
from ..layers import BinaryConv2d, BinaryLinear
from ..recipe import DIVIDED_INPUT, Latent, Recipe, register_recipe
from ..schedules import Schedule

OMEGA = 20.0


def _check_omega(omega: float) -> dict[str, float]:
    check_number('omega', omega, 0, more=True)
    return dict(omega=omega)


PERIODIC = Latent(
    r'\sin(\omega w)',
    lambda w, omega, k: (omega * w).sin(),
    lambda grad, w, omega, k: grad * omega * (omega * w).cos(),
)
BIPER = register_recipe(
    Recipe(
        'BiPer',
        'BiPer, CVPR 2024',
        latent=PERIODIC,
        real=PERIODIC,
        scale='learned',
        inputs=DIVIDED_INPUT,
        input_estimator='approx_sign',
        # A number of the layer that does not move, and has no name in the log.
        schedule=Schedule(
            'biper', (), r'\omega', 'BiPer', lambda progress, omega=OMEGA: (omega, 1.0)
        ),
    )
)


class BiPerConv2d(BinaryConv2d, nn.Conv2d):
    """A convolution of BiPer, with a learned scale ``alpha`` of each output channel.

    Args:
        *args: Arguments of ``nn.Conv2d``.
        omega (float): Frequency.
        **kwargs: Keyword arguments of ``BinaryConv2d``.
    """

    rule = BIPER.name

    def __init__(self, *args, omega: float = OMEGA, **kwargs) -> None:
        self.bounds = _check_omega(omega)
        super().__init__(*args, **kwargs)


class BiPerLinear(BinaryLinear, nn.Linear):
    """A linear layer of BiPer, with a learned scale ``alpha`` of each output.

    Args:
        *args: Arguments of ``nn.Linear``.
        omega (float): Frequency.
        **kwargs: Keyword arguments of ``BinaryLinear``.
    """

    rule = BIPER.name

    def __init__(self, *args, omega: float = OMEGA, **kwargs) -> None:
        self.bounds = _check_omega(omega)
        super().__init__(*args, **kwargs)
