r"""DoReFa-Net at one bit: one scale a layer, and a straight-through gradient.

Zhou et al., `DoReFa-Net <https://arxiv.org/abs/1606.06160>`_, 2016, section 2.2. The
binary weight is :math:`\mathrm{sign}(w) \cdot \mathrm{mean}_{layer}|w|`, and its
gradient passes to the weight unchanged (eq. 8). Inputs are -1 and +1 here, where the
paper has 0 and 1.
"""

from torch import nn

from ..layers import BinaryConv2d, BinaryLinear
from ..recipe import LAYER_MEAN, Recipe, register_recipe

DOREFA = register_recipe(
    Recipe('DoReFa', 'DoReFa-Net, 2016', scale=LAYER_MEAN, scale_gradient='through')
)


class DoReFaConv2d(BinaryConv2d, nn.Conv2d):
    """A convolution of DoReFa-Net: sign(w) times the layer's mean absolute weight."""

    rule = DOREFA.name


class DoReFaLinear(BinaryLinear, nn.Linear):
    """A linear layer of DoReFa-Net: sign(w) times the mean absolute weight."""

    rule = DOREFA.name
