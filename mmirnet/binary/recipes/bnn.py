r"""BNN: the sign of weights and inputs, with clipped straight-through gradients.

Hubara et al., `Binarized Neural Networks <https://arxiv.org/abs/1602.02830>`_, NeurIPS
2016. The derivative of both signs is 1 where the value is in [-1, 1], and 0 elsewhere.
"""

from torch import nn

from ..layers import BinaryConv2d, BinaryLinear
from ..recipe import Recipe, register_recipe

BNN = register_recipe(Recipe('BNN', 'BNN, NeurIPS 2016', estimator='ste'))


class BNNConv2d(BinaryConv2d, nn.Conv2d):
    """A convolution of BNN: sign(w) and sign(x)."""

    rule = BNN.name


class BNNLinear(BinaryLinear, nn.Linear):
    """A linear layer of BNN: sign(w) and sign(x)."""

    rule = BNN.name
