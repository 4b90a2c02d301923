"""What binary layers do while they train, in numbers."""

import math

import torch
from torch import Tensor

from ..errors import NonFiniteError, check_choice
from .estimators import ESTIMATORS, sign
from .layers import IRConv2d, IRLinear


def bit_entropy(share: Tensor) -> Tensor:
    r"""Entropy of a bit, in bits: :math:`-p \log_2 p - (1-p) \log_2 (1-p)`.

    Args:
        share (Tensor): p, how often it is +1, 0 to 1. Any shape.

    Returns:
        Tensor: 0 (always the same) to 1 (both equally often), in the same shape.

    Example:
        >>> bit_entropy(torch.tensor([0.0, 0.25, 0.5, 1.0]))
        tensor([0.0000, 0.8113, 1.0000, 0.0000])
    """
    entropy = torch.special.entr(share) + torch.special.entr(1 - share)
    return entropy / math.log(2)


def estimator_statistics(
    x: Tensor, t: Tensor, k: Tensor, estimator: str = 'ede'
) -> dict[str, Tensor]:
    r"""How an estimator stands in for sign at given values.

    Args:
        x (Tensor): What sign is taken of. Any shape, floating point.
        t (Tensor): EDE's sharpness, 0-dim.
        k (Tensor): EDE's height, 0-dim.
        estimator (str): A key of :data:`~mmirnet.binary.ESTIMATORS`.

    Returns:
        dict[str, Tensor]: 0-dim, ``factor``, the mean derivative that gradients are
        multiplied by, and ``square_error``, the mean of
        :math:`(\mathrm{sign}(x) - g(x))^2` with the curve g of that derivative: EDE's
        is :math:`k \tanh(tx)`. Its root is the estimating error of `ReSTE
        <https://arxiv.org/abs/2308.06689>`_, for any number of values.

    Example:
        >>> one = torch.tensor(1.0)
        >>> estimator_statistics(torch.tensor([0.0, 2.0]), one, one, 'ste')
        {'factor': tensor(0.5000), 'square_error': tensor(0.5000)}
    """
    check_choice('estimator', estimator, ESTIMATORS)
    rule = ESTIMATORS[estimator]
    factor = rule.derivative(x, t, k).mean()
    square_error = (sign(x) - rule.curve(x, t, k)).square_().mean()
    return dict(factor=factor, square_error=square_error)


def input_statistics(layer: IRConv2d | IRLinear, x: Tensor) -> dict[str, Tensor]:
    """What the sign of a layer's input keeps, and what its gradient loses.

    Args:
        layer (IRConv2d | IRLinear): A layer that takes the sign of its input.
        x (Tensor): Its input, (N, in, H, W) or (..., in).

    Returns:
        dict[str, Tensor]: ``positive``, (in,), how often each channel's sign is +1,
        NaN for a channel with NaN; and 0-dim ``saturated``, the share of values of
        magnitude 1 or more, where Hardtanh and clipped estimators end; ``factor`` and
        ``square_error`` of :func:`estimator_statistics`.

    Example:
        >>> layer = IRLinear(2, 3)
        >>> seen = input_statistics(layer, torch.tensor([[0.0, -2.0], [0.5, 0.5]]))
        >>> seen['positive'], seen['saturated']
        (tensor([1.0000, 0.5000]), tensor(0.2500))
    """
    x = x.detach().float()
    channel = x.dim() - (3 if isinstance(layer, IRConv2d) else 1)
    others = [d for d in range(x.dim()) if d != channel]
    return dict(
        positive=(sign(x).mean(others) + 1) / 2,
        saturated=(x.abs() >= 1).float().mean(),
        **estimator_statistics(x, *layer.ede.unbind(), layer.rule.estimator),
    )


def weight_statistics(layer: IRConv2d | IRLinear) -> dict[str, Tensor]:
    """A layer's binary weights, and what their gradient loses.

    Args:
        layer (IRConv2d | IRLinear): The layer.

    Returns:
        dict[str, Tensor]: ``signs``, bool in the weight's shape, True for +1; and
        0-dim ``entropy``, in bits, the mean over the filters; ``factor`` and
        ``square_error`` of :func:`estimator_statistics` at the balanced,
        standardised weights.

    Example:
        >>> layer = IRLinear(4, 1, bias=False)
        >>> layer.weight.data = torch.tensor([[1.0, 2.0, 3.0, 10.0]])
        >>> seen = weight_statistics(layer)
        >>> seen['signs'], seen['entropy']
        (tensor([[False, False, False,  True]]), tensor(0.8113))
    """
    w, _ = layer.libra_pb()
    signs = w >= 0
    return dict(
        signs=signs,
        entropy=bit_entropy(signs.flatten(1).float().mean(1)).mean(),
        **estimator_statistics(w, *layer.ede.unbind(), layer.rule.estimator),
    )


def log2_scales(layer: IRConv2d | IRLinear) -> dict[int, int]:
    """How many output channels of a binary layer have which scale.

    Args:
        layer (IRConv2d | IRLinear): The layer.

    Returns:
        dict[int, int]: Channels by log2(s), rounded; empty without a scale.

    Raises:
        ArithmeticError: If weights are NaN or infinite.

    Example:
        >>> log2_scales(IRConv2d(16, 32, 3))
        {0: 32}
    """
    _, scale = layer.libra_pb()
    if scale is None:
        return {}
    if not scale.isfinite().all():
        raise NonFiniteError('there are weights that are NaN or infinite')
    values, counts = scale.log2().round().int().unique(return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))
