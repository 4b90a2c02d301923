r"""OvSW: weights that keep their sign too long get more gradient.

Xiang et al., `OvSW: Overcoming Silent Weights <https://arxiv.org/abs/2407.05257>`_,
ECCV 2024. The binary weight is sign(w) with a straight-through gradient. The output is
scaled by a constant, the filter's mean absolute standardised weight. In training the
input is divided by its deviation in each image, a constant too. ``OvSWHook`` changes
the gradients.
"""

from torch import Tensor, nn

from ..layers import BinaryConv2d, BinaryLinear
from ..recipe import (
    DIVIDED_BY_CONSTANT_INPUT,
    OutputScale,
    Recipe,
    deviation,
    register_recipe,
)
from ..weights import filter_dims


def _standardised_mean(w: Tensor) -> Tensor:
    centred, inverse, _ = deviation(w)
    return centred.abs().mean(filter_dims(w), keepdim=True) * inverse


OVSW = register_recipe(
    Recipe(
        'OvSW',
        'OvSW, ECCV 2024',
        scale=OutputScale(
            r'\mathrm{mean}|(w - \mathrm{mean}(w)) / \sqrt{\mathrm{var}(w) + 10^{-5}}|',
            _standardised_mean,
        ),
        inputs=DIVIDED_BY_CONSTANT_INPUT,
        input_estimator='approx_sign',
        smallest=2,
    )
)


class OvSWConv2d(BinaryConv2d, nn.Conv2d):
    """A convolution of OvSW: sign(w) times the mean absolute standardised weight."""

    rule = OVSW.name


class OvSWLinear(BinaryLinear, nn.Linear):
    """A linear layer of OvSW: sign(w) times the mean absolute standardised weight."""

    rule = OVSW.name
