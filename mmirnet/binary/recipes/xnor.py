r"""XNOR-Net with the scale of its weights.

Rastegari et al., `XNOR-Net <https://arxiv.org/abs/1603.05279>`_, ECCV 2016. The binary
weight is :math:`\mathrm{sign}(w) \cdot \mathrm{mean}|w|` with the mean of each filter.
The gradient goes through both factors. The paper also scales each output pixel by the
mean absolute input below its window, which is a reduction at inference; this layer
leaves it out.
"""

from torch import nn

from ..layers import BinaryConv2d, BinaryLinear
from ..recipe import FILTER_MEAN, Recipe, register_recipe

XNOR = register_recipe(
    Recipe(
        'XNOR',
        'XNOR-Net, ECCV 2016',
        estimator='ste',
        scale=FILTER_MEAN,
        scale_gradient='full',
    )
)


class XNORConv2d(BinaryConv2d, nn.Conv2d):
    """A convolution of XNOR-Net: sign(w) times the filter's mean absolute weight."""

    rule = XNOR.name


class XNORLinear(BinaryLinear, nn.Linear):
    """A linear layer of XNOR-Net: sign(w) times the filter's mean absolute weight."""

    rule = XNOR.name
