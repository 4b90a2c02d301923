"""Activations with two learned slopes: ReActNet's RPReLU and AdaBin's Maxout."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from ..binary.estimators import check_float
from ..binary.modes import by_operators, in_graph, traced
from ..errors import ConfigError


class _RPReLU(Function):
    @staticmethod
    def forward(ctx, x, shift_in, weight, shift_out):
        ctx.save_for_backward(x, shift_in, weight)
        z = x + shift_in  # in the wider of both types, rounded once at the end
        y = z.clamp(min=0).addcmul_(z.clamp(max=0), weight).add_(shift_out)
        return y.to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        x, shift_in, weight = ctx.saved_tensors
        z = x + shift_in
        wide = grad.to(z.dtype)
        above = z.sign().clamp_(min=0)
        inner = torch.addcmul(above, 1 - above, weight).mul_(wide)
        return (
            inner.to(x.dtype),
            inner.sum_to_size(shift_in.shape),
            (z.clamp(max=0) * wide).sum_to_size(weight.shape),
            wide.sum_to_size(shift_in.shape),
        )


class _Maxout(Function):
    @staticmethod
    def forward(ctx, x, positive, negative):
        ctx.save_for_backward(x, positive, negative)
        z = x.to(torch.promote_types(x.dtype, positive.dtype))
        y = z.clamp(min=0).mul_(positive).addcmul_(z.clamp(max=0), negative)
        return y.to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        x, positive, negative = ctx.saved_tensors
        z = x.to(torch.promote_types(x.dtype, positive.dtype))
        wide = grad.to(z.dtype)
        sign = z.sign()  # zero has the derivative zero, as in the sum of two ReLUs
        slope = (sign.clamp(min=0) * positive).sub_(sign.clamp(max=0) * negative)
        return (
            slope.mul_(wide).to(x.dtype),
            (z.clamp(min=0) * wide).sum_to_size(positive.shape),
            (z.clamp(max=0) * wide).sum_to_size(negative.shape),
        )


_rprelu = in_graph(_RPReLU)
_maxout = in_graph(_Maxout)


def rprelu(x: Tensor, shift_in: Tensor, weight: Tensor, shift_out: Tensor) -> Tensor:
    """Computes ``prelu(x + shift_in, weight) + shift_out``.

    The function saves only x for the backward pass. Under autocast, it computes in the
    type of the parameters and rounds once, to that of x.

    Args:
        x (Tensor): Any shape, floating point.
        shift_in (Tensor): Added to x; like the others, of a shape that x broadcasts.
        weight (Tensor): Slope where the sum is negative.
        shift_out (Tensor): Added to the result.

    Returns:
        Tensor: Values with the shape and dtype of ``x``.

    Example:
        >>> one = torch.ones(1)
        >>> rprelu(torch.tensor([-3.0, 2.0]), one, 0.25 * one, one)
        tensor([0.5000, 4.0000])
    """
    if by_operators():
        z = x + shift_in
        slope = weight.flatten().to(z.dtype)
        return (F.prelu(z, slope) + shift_out).to(x.dtype)
    return _rprelu(x, shift_in, weight, shift_out)


def maxout(x: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Computes ``positive * relu(x) - negative * relu(-x)``.

    The function saves only x for the backward pass. Under autocast, it computes in the
    type of the parameters and rounds once, to that of x.

    Args:
        x (Tensor): Any shape, floating point.
        positive (Tensor): Slope where x is positive, of a shape that x broadcasts.
        negative (Tensor): Slope where x is negative, likewise.

    Returns:
        Tensor: Values with the shape and dtype of ``x``.

    Example:
        >>> maxout(torch.tensor([-4.0, 2.0]), torch.tensor([2.0]), torch.tensor([0.25]))
        tensor([-1.,  4.])
    """
    if by_operators():
        return (positive * F.relu(x) - negative * F.relu(-x)).to(x.dtype)
    return _maxout(x, positive, negative)


# torch.fx treats each as one operation.
torch.fx.wrap('rprelu')
torch.fx.wrap('maxout')


class ChannelActivation(nn.Module):
    """Base class: parameters of one number per channel, or one for all channels.

    Args:
        num_parameters (int): Number of channels, or 1 for any number of channels. The
            backbones of this package set it to the number of channels unless given.
        inplace (bool): Accepted and without effect, because mmcv's ``ConvModule``
            passes it.

    Raises:
        ValueError: If ``num_parameters`` is not a positive integer; in the forward
            pass, if the input is not floating point or has another number of channels.
    """

    #: First values of the parameters, by name.
    starts: dict[str, float]

    def __init__(self, num_parameters: int = 1, inplace: bool = False) -> None:
        super().__init__()
        is_number = isinstance(num_parameters, int) and num_parameters is not True
        if not is_number or num_parameters < 1:
            raise ConfigError(
                f'{type(self).__name__}: num_parameters must be a positive integer, '
                f'got {num_parameters!r}'
            )
        self.num_parameters = num_parameters
        for name, start in self.starts.items():
            number = torch.full((num_parameters,), start)
            self.register_parameter(name, nn.Parameter(number))

    def reset_parameters(self) -> None:
        """Sets the first values."""
        for name, start in self.starts.items():
            nn.init.constant_(getattr(self, name), start)

    def _per_channel(self, x: Tensor) -> list[Tensor]:
        """Returns the parameters in shapes that broadcast over ``x``."""
        check_float('x', x)
        number = self.num_parameters
        parameters = [getattr(self, name) for name in self.starts]
        if number == 1:
            return parameters if x.dim() else [p.view(()) for p in parameters]
        # A trace warns of comparisons; it records the shapes that it was made with.
        if x.dim() < 2 or (not traced() and x.shape[1] != number):
            raise ConfigError(
                f'{type(self).__name__} has num_parameters={number}, and its input of '
                f'shape {tuple(x.shape)} does not have {number} channels'
            )
        return [p.view(-1, *[1] * (x.dim() - 2)) for p in parameters]

    def extra_repr(self) -> str:
        """Returns the number of parameters."""
        return f'num_parameters={self.num_parameters}'


class RPReLU(ChannelActivation):
    r"""ReActNet's activation: a PReLU between two learned shifts.

    .. math:: y_c = \mathrm{prelu}_c(x_c + a_c) + b_c

    Liu et al., `ReActNet <https://arxiv.org/abs/2003.03488>`_, ECCV 2020.

    The parameters are ``shift_in`` (a), ``weight`` (the slope of negative values) and
    ``shift_out`` (b). The shifts start at 0, and the slope at 0.25.

    Args:
        num_parameters (int): Number of channels, or 1 for one number for all channels.
            The backbones of this package set it to the number of channels unless given.
        inplace (bool): Accepted and without effect, because mmcv's ``ConvModule``
            passes it.

    Raises:
        ValueError: If ``num_parameters`` is not a positive integer; in the forward
            pass, if the input is not floating point or has another number of channels.

    Example:
        >>> RPReLU()(torch.tensor([-2.0, 0.5]))
        tensor([-0.5000,  0.5000], grad_fn=<_RPReLUBackward>)
    """

    starts = dict(shift_in=0.0, weight=0.25, shift_out=0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Computes every element; channels are dimension 1."""
        return rprelu(x, *self._per_channel(x))


class Maxout(ChannelActivation):
    r"""AdaBin's activation: learned slopes for positive and for negative values.

    .. math:: y_c = p_c \max(x_c, 0) + n_c \min(x_c, 0)

    Tu et al., `AdaBin <https://arxiv.org/abs/2208.08084>`_, ECCV 2022.

    The parameters are ``positive`` (p), which starts at 1, and ``negative`` (n), which
    starts at 0.25.

    Args:
        num_parameters (int): Number of channels, or 1 for one number for all channels.
            The backbones of this package set it to the number of channels unless given.
        inplace (bool): Accepted and without effect, because mmcv's ``ConvModule``
            passes it.

    Raises:
        ValueError: If ``num_parameters`` is not a positive integer; in the forward
            pass, if the input is not floating point or has another number of channels.

    Example:
        >>> Maxout()(torch.tensor([-2.0, 0.5]))
        tensor([-0.5000,  0.5000], grad_fn=<_MaxoutBackward>)
    """

    starts = dict(positive=1.0, negative=0.25)

    def forward(self, x: Tensor) -> Tensor:
        """Computes every element; channels are dimension 1."""
        return maxout(x, *self._per_channel(x))
