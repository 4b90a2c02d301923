r"""Latent weights of a packed file: what training goes on from.

A packed file holds signs and exponents; training needs real weights whose signs
can change. The rule, for a filter of n weights, p of them +1 and q of them -1, with
scale s = 2**exponent:

- **Latent weights are +-s, balanced**: +s * n/(2p) and -s * n/(2q), so that their
  mean is 0 and their mean absolute value s. With as many +1 as -1 they are +-s.
- **Exponents below 0 need a heavier tail.** Libra-PB computes the scale anew, from
  mean|w_std|. Where the weights above would give a larger scale, a share of the
  positive sum moves to the first positive weight, and the same share of the negative
  sum to the first negative one. Mean and mean absolute value stay.
- A filter of +1 alone is constant, s/2: Libra-PB balances it to zeros, and their
  signs are +1. Libra-PB gives no filter of -1 alone, because a balanced filter has
  a weight that is not negative: such a file is refused.

In a network with the same ``conv_cfg``, Libra-PB gives back all signs, and all
exponents that it gave (but for n = 2, where mean|w_std| is sqrt(1/2) and rounding
decides). BatchNorms get mean 0, a variance that makes the deviation 1 with torch's
epsilon, and slope and offset as weight and bias
(:func:`mmirnet.engine.precise_bn.fold`); everything else is as stored. With that
epsilon, the first evaluation computes what the packed file computes, bit for bit.

Files of version 3 hold what other recipes have: any scale, thresholds, slopes. Which
recipe that was they do not say, and each has its own rule from weights to scales: they
are refused.

Before the first training step, :class:`~mmirnet.engine.hooks.PackedPreciseBNHook`
measures the mean and the variance that a packed file does not hold.
"""

import os
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..engine.checkpoint import FILE_READERS
from ..engine.precise_bn import fold
from ..errors import PackedFileError
from .format import Packed, new_parts, read
from .ops import OPERATIONS

# A tail keeps a hundredth of its variance for the other weights, which need a sign.
_MAX_TAIL = 0.99


def latent_weight(signs: Tensor, exponent: Tensor) -> Tensor:
    """Real weights that Libra-PB binarises to given signs and scales.

    Args:
        signs (Tensor): -1 and +1, float32 of shape (out, n), n >= 2.
        exponent (Tensor): log2 of each filter's scale, (out,).

    Returns:
        Tensor: float32 of shape (out, n), by the rule of this module.

    Raises:
        ValueError: If a filter is -1 throughout.

    Example:
        >>> latent_weight(torch.tensor([[1.0, -1, -1, -1]]), torch.tensor([0]))
        tensor([[ 2.0000, -0.6667, -0.6667, -0.6667]])
    """
    plus, n = signs > 0, signs.shape[1]
    p = plus.sum(1, keepdim=True)
    if (p == 0).any():
        raise ValueError(
            f'filter {int((p == 0).nonzero()[0, 0])} is -1 throughout, and no weights '
            f'with a mean of zero have these signs'
        )
    share = 1 / torch.where(plus, p, n - p)  # each weight's part of its sign's sum
    first = (plus.cumsum(1) == 1) & plus | ((~plus).cumsum(1) == 1) & ~plus
    scale = torch.exp2(exponent.float())[:, None]
    # With a tail t, a sign's sum T has squares T^2 ((1 - t^2) / count + t^2); solved
    # for mean|w| / std(w) = scale. NaN where there is one sign alone.
    flat = 1 / p + 1 / (n - p)
    wanted = 4 * (n - 1) / (n * scale) ** 2
    tail = ((wanted - flat) / (2 - flat)).clamp(0, _MAX_TAIL).sqrt().nan_to_num(0)
    return signs * scale * (n / 2) * ((1 - tail) * share + tail * first)


def _binary(name: str, weight: np.ndarray, arrays: dict) -> dict:
    signs = np.sign(weight)
    flat = torch.from_numpy(signs.reshape(len(signs), -1))
    exponent = torch.from_numpy(np.array(arrays['exponent']))
    try:
        weight = latent_weight(flat, exponent)
    except ValueError as error:
        raise PackedFileError(f'{name}.signs: {error}') from None
    tensors = {'weight': weight.reshape(signs.shape)}
    if 'bias' in arrays:
        tensors['bias'] = torch.from_numpy(np.array(arrays['bias']))
    return tensors


def latent_state_dict(packed: Packed) -> dict[str, Tensor]:
    """The state dict of the model that was packed, with latent weights.

    Args:
        packed (Packed): A checked packed network.

    Returns:
        dict[str, Tensor]: On the CPU, under the names of the model's modules.

    Raises:
        PackedFileError: If a filter is -1 throughout, which Libra-PB never gives, or
            if it has what only other recipes have.

    Example:
        >>> from mmirnet.binary import IRConv2d
        >>> from mmirnet.packed import pack
        >>> from torch import nn
        >>> net = nn.Sequential(
        ...     nn.Conv2d(3, 8, 3, bias=False),
        ...     nn.BatchNorm2d(8),
        ...     IRConv2d(8, 8, 3, bias=False),
        ...     nn.AdaptiveAvgPool2d(1),
        ...     nn.Flatten(),
        ...     nn.Linear(8, 2),
        ... )
        >>> state = latent_state_dict(pack(net, (8, 8)))
        >>> net.load_state_dict(state)
        <All keys matched successfully>
    """
    state = {}
    for operation in packed.graph:
        arrays = packed.operation_tensors(operation)
        if OPERATIONS[operation['op']].version > 3:
            raise PackedFileError(
                f'{operation["dst"]}: its numbers are 8-bit integers, from which '
                'training does not go on; train on from the checkpoint that was '
                'packed, or classify with mmirnet.runtime.load'
            )
        new = new_parts(packed, operation)
        if new:
            raise PackedFileError(
                f'{operation["dst"]}: it has {new[0]}, which no layer of IR-Net has, '
                'and a packed file does not say of which recipe it is; train on from '
                'the checkpoint that was packed'
            )
        if OPERATIONS[operation['op']].signs:
            weight = packed.arrays(operation)['weight']
            tensors = _binary(operation['dst'], weight, arrays)
        else:
            tensors = {r: torch.from_numpy(np.array(a)) for r, a in arrays.items()}
        if operation['op'] == 'affine':
            tensors = fold(tensors['affine'])
        state |= {f'{operation["dst"]}.{role}': t for role, t in tensors.items()}
    return state


def load_packed_checkpoint(
    path: str | os.PathLike, map_location: str | torch.device | None = None
) -> dict[str, Any]:
    """A packed file as a checkpoint to train from.

    MMEngine loads ``*.safetensors`` with it, so that ``load_from`` and
    ``init_cfg=dict(type='Pretrained', checkpoint=...)`` take a packed file.

    Args:
        path (str | os.PathLike): A file that ``tools/deploy/pack.py`` wrote.
        map_location (str | torch.device, optional): Where the tensors go. Defaults
            to the CPU.

    Returns:
        dict: ``state_dict``, and ``meta`` with ``dataset_meta`` (the classes, if the
        file names them) and ``packed``, the digest of the weights that were packed.

    Raises:
        PackedFileError: If the file is damaged or was tampered with.
        OSError: If it cannot be read.

    Example:
        >>> load_packed_checkpoint('model.safetensors')  # doctest: +SKIP
    """
    packed = read(path)
    try:
        state = latent_state_dict(packed)
    except PackedFileError as error:
        raise PackedFileError(f'{path}: {error}') from None
    meta: dict[str, Any] = {'packed': packed.source}
    if packed.classes is not None:
        meta['dataset_meta'] = {'classes': packed.classes}
    device = map_location or 'cpu'
    return {
        'state_dict': {name: tensor.to(device) for name, tensor in state.items()},
        'meta': meta,
    }


FILE_READERS['.safetensors'] = load_packed_checkpoint
