r"""Bi-half: half of each filter's weights is +1, whatever their values.

Li et al., `Equal Bits <https://arxiv.org/abs/2112.03406>`_, AAAI 2022. The upper half
of the filter's weights by value becomes +1, the lower half -1. Of an odd number, the
one in the middle becomes +1. The gradient passes straight through. The paper's constant
scale is 1 here: the norm behind the convolution divides by it.
"""

from torch import Tensor, nn

from ..layers import BinaryConv2d, BinaryLinear
from ..modes import traced
from ..recipe import Latent, Recipe, register_recipe


def _value(rows: Tensor, rank: int) -> Tensor:
    if traced():  # ONNX has no kthvalue
        return rows.sort(1).values[:, rank]
    # A tenth of the time of sorting for a filter of 4608 weights.
    return rows.kthvalue(rank + 1).values


def _halves(w: Tensor, t: Tensor, k: Tensor) -> Tensor:
    """+1/2 for the upper half of each filter and -1/2 for the lower, straight through.

    Equal weights are ranked by their position.
    """
    flat = w.detach().flatten(1)
    lower = flat.shape[1] // 2
    # The smallest value of the upper half; some of its equals may be in the lower one.
    limit = _value(flat, lower)[:, None]
    below, equal = flat < limit, flat == limit
    needed = lower - below.sum(1, keepdim=True)
    below = below | (equal & (equal.int().cumsum(1) <= needed))
    half = 0.5 - below.to(w.dtype)
    return half.reshape(w.shape) + (w - w.detach())


BIHALF = register_recipe(
    Recipe(
        'BiHalf',
        'Equal Bits, AAAI 2022',
        latent=Latent(r'\mathrm{rank}(w) - n / 2', _halves, lambda grad, w, t, k: grad),
    )
)


class BiHalfConv2d(BinaryConv2d, nn.Conv2d):
    """A convolution of Bi-half: +1 for the upper half of each filter."""

    rule = BIHALF.name


class BiHalfLinear(BinaryLinear, nn.Linear):
    """A linear layer of Bi-half: +1 for the upper half of each filter."""

    rule = BIHALF.name
