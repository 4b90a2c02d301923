r"""Bi-Real Net: magnitude-aware weights and a triangular derivative of the input.

Liu et al., `Bi-Real Net <https://arxiv.org/abs/1808.00278>`_, ECCV 2018. The binary
weight is :math:`\mathrm{sign}(w) \cdot \mathrm{mean}|w|` with the mean of each filter.
In the released code its gradient passes to the weights in [-1, 1] without the factor.
The input's derivative is :math:`\max(2 - 2|x|, 0)`. The shortcut around each
convolution is ``structure='bireal'`` of the backbones.
"""

from torch import nn

from ..layers import BinaryConv2d, BinaryLinear
from ..recipe import FILTER_MEAN, Recipe, register_recipe

BIREAL = register_recipe(
    Recipe(
        'BiReal',
        'Bi-Real Net, ECCV 2018',
        estimator='ste',
        scale=FILTER_MEAN,
        scale_gradient='through',
        input_estimator='approx_sign',
    )
)


class BiRealConv2d(BinaryConv2d, nn.Conv2d):
    """A convolution of Bi-Real Net: sign(w) times the filter's mean absolute weight."""

    rule = BIREAL.name


class BiRealLinear(BinaryLinear, nn.Linear):
    """A linear layer of Bi-Real Net: sign(w) times the mean absolute weight."""

    rule = BIREAL.name
