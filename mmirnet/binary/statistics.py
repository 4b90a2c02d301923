"""Statistics of binary layers during training."""

import math

import torch
from torch import Tensor

from ..errors import NonFiniteError, check_choice
from .estimators import ESTIMATORS, sign
from .layers import BinaryConv2d, BinaryLinear
from .quantisation import input_rule


def bit_entropy(share: Tensor) -> Tensor:
    r"""Computes the entropy of a bit: :math:`-p \log_2 p - (1-p) \log_2 (1-p)`.

    Args:
        share (Tensor): Probability p of +1, from 0 to 1. Any shape.

    Returns:
        Tensor: Entropy in bits, from 0 (constant) to 1 (p = 1/2), in the same shape.

    Example:
        >>> bit_entropy(torch.tensor([0.0, 0.25, 0.5, 1.0]))
        tensor([0.0000, 0.8113, 1.0000, 0.0000])
    """
    entropy = torch.special.entr(share) + torch.special.entr(1 - share)
    return entropy / math.log(2)


def estimator_statistics(
    x: Tensor, t: Tensor, k: Tensor, estimator: str = 'ede'
) -> dict[str, Tensor]:
    r"""Computes how well an estimator approximates sign at given values.

    Args:
        x (Tensor): Input of sign. Any shape, floating point.
        t (Tensor): EDE's sharpness, 0-dim.
        k (Tensor): EDE's height, 0-dim.
        estimator (str): A key of :data:`~mmirnet.binary.ESTIMATORS`.

    Returns:
        dict[str, Tensor]: 0-dim tensors. ``factor`` is the mean derivative that
        gradients are multiplied by. ``square_error`` is the mean of
        :math:`(\mathrm{sign}(x) - g(x))^2` with the curve g of that derivative; EDE's
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


@torch.no_grad()
def input_statistics(
    layer: BinaryConv2d | BinaryLinear, x: Tensor
) -> dict[str, Tensor]:
    """Computes statistics of the values whose signs a layer convolves.

    These are the input, or what the recipe makes of it: shifted in ReActNet, divided by
    its deviation in ReCU.

    Args:
        layer (BinaryConv2d | BinaryLinear): A layer that takes the sign of its input.
        x (Tensor): Input of the layer, (N, in, H, W) or (..., in).

    Returns:
        dict[str, Tensor]: ``positive``, (in,), is the share of +1 per channel, and NaN
        for a channel with NaN. The others are 0-dim: ``saturated`` is the share of
        values of magnitude 1 or more, the limit of Hardtanh and of clipped estimators.
        ``factor`` and ``square_error`` are those of :func:`estimator_statistics`.

    Example:
        >>> from mmirnet.binary import IRLinear
        >>> layer = IRLinear(2, 3)
        >>> seen = input_statistics(layer, torch.tensor([[0.0, -2.0], [0.5, 0.5]]))
        >>> seen['positive'], seen['saturated']
        (tensor([1.0000, 0.5000]), tensor(0.2500))
    """
    # As the layer convolves it.
    image = x.shape[-3:] if isinstance(layer, BinaryConv2d) else (x.shape[-1], 1, 1)
    z = x.float().reshape(-1, *image)
    inputs, estimator = input_rule(layer.rule)
    if inputs is not None:
        z = inputs.of(z, *layer.input_values())
    return dict(
        positive=(sign(z).mean((0, 2, 3)) + 1) / 2,
        saturated=(z.abs() >= 1).float().mean(),
        **estimator_statistics(z, *layer.t_and_k.unbind(), estimator),
    )


def weight_statistics(layer: BinaryConv2d | BinaryLinear) -> dict[str, Tensor]:
    """Computes statistics of a layer's binary weights.

    Args:
        layer (BinaryConv2d | BinaryLinear): The layer.

    Returns:
        dict[str, Tensor]: ``signs`` is bool with the shape of the weight, True for +1.
        The others are 0-dim: ``entropy`` is the mean over the filters, in bits.
        ``factor`` and ``square_error`` are those of :func:`estimator_statistics` at
        the balanced, standardised weights.

    Example:
        >>> from mmirnet.binary import IRLinear
        >>> layer = IRLinear(4, 1, bias=False)
        >>> layer.weight.data = torch.tensor([[1.0, 2.0, 3.0, 10.0]])
        >>> seen = weight_statistics(layer)
        >>> seen['signs'], seen['entropy']
        (tensor([[False, False, False,  True]]), tensor(0.8113))
    """
    w = layer.latent()
    signs = w >= 0
    return dict(
        signs=signs,
        entropy=bit_entropy(signs.flatten(1).float().mean(1)).mean(),
        **estimator_statistics(w, *layer.t_and_k.unbind(), layer.estimators[0]),
    )


def log2_scales(layer: BinaryConv2d | BinaryLinear) -> dict[int, int]:
    """Counts the output channels of a binary layer by scale.

    Args:
        layer (BinaryConv2d | BinaryLinear): The layer.

    Returns:
        dict[int, int]: Number of channels by log2|s|, rounded. Empty without a scale;
        a learned scale of zero is not counted.

    Raises:
        ArithmeticError: If a weight is NaN or infinite.

    Example:
        >>> from mmirnet.binary import IRConv2d
        >>> log2_scales(IRConv2d(16, 32, 3))
        {0: 32}
    """
    scale = layer.quantized().scale
    if scale is None:
        return {}
    if not scale.isfinite().all():
        raise NonFiniteError('there are weights that are NaN or infinite')
    values, counts = (
        scale.abs()[scale != 0].log2().round().int().unique(return_counts=True)
    )
    return dict(zip(values.tolist(), counts.tolist(), strict=True))
