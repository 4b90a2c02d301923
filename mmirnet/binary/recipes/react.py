r"""ReActNet: Bi-Real Net with a learned threshold of each input channel (RSign).

Liu et al., `ReActNet <https://arxiv.org/abs/2003.03488>`_, ECCV 2020. The input's sign
is :math:`\mathrm{sign}(x + b_c)`. Weights are those of Bi-Real Net. Its activation is
``RPReLU``. Training has two steps: binary inputs with real weights
(``binarize_weight=False``), then both binary.
"""

from torch import Tensor, nn

from ..layers import BinaryConv2d, BinaryLinear
from ..recipe import InputRule, register_recipe
from .bireal import BIREAL


def _shift(x: Tensor, shift: Tensor, unused: None) -> Tensor:
    return x + shift.reshape(-1, *[1] * (x.dim() - 2))


def _shift_vjp(grad, grad_z, x, z, shift, unused):
    others = [d for d in range(x.dim()) if d != 1]
    return grad_z, grad_z.sum(others).to(shift.dtype), None


REACT = register_recipe(
    BIREAL._replace(
        name='ReAct',
        source='ReActNet, ECCV 2020',
        inputs=InputRule(
            'x + b_c',
            of=_shift,
            vjp=_shift_vjp,
            parameters=dict(shift=(0.0, True)),
            signs=_shift,
            threshold=lambda shift, unused, channels: -shift,
        ),
    )
)


class ReActConv2d(BinaryConv2d, nn.Conv2d):
    """A convolution of ReActNet, with a learned ``shift`` of each input channel."""

    rule = REACT.name


class ReActLinear(BinaryLinear, nn.Linear):
    """A linear layer of ReActNet, with a learned ``shift`` of each input."""

    rule = REACT.name
