"""Binary layers, and the shortcut of zeros, recorded as a whole."""

from math import inf

import numpy as np
import torch
from torch import Tensor

from ...binary import BinaryConv2d, BinaryLinear
from ...models.blocks import PadShortcut
from ..bits import pack_bits
from ..limits import MAX_EXPONENT
from .calls import Call, layer, refuse
from .windows import window


@layer(BinaryConv2d)
def _binary_conv2d(call: Call, conv: BinaryConv2d, x: Tensor) -> str:
    if conv.padding_mode != 'zeros':
        refuse(call.recorder.place(), f'padding mode {conv.padding_mode!r}')
    left, right, top, bottom = conv._reversed_padding_repeated_twice
    attributes = window(
        conv.kernel_size,
        conv.stride,
        (top, left, bottom, right),
        conv.dilation,
        conv.groups,
    )
    arrays = _binary(call, conv)
    return call.recorder.emit(
        'binary_conv2d',
        [call.recorder.name(x, call)],
        attributes | dict(binarize_input=conv.binarize_input),
        arrays,
        call.recorder.layer(weight=conv.weight),
    )


@layer(BinaryLinear)
def _binary_linear(call: Call, linear: BinaryLinear, x: Tensor) -> str:
    if x.dim() != 2:
        refuse(call.recorder.place(), f'an input of {x.dim()} dimensions; flatten it')
    arrays = _binary(call, linear)
    name = call.recorder.name(x, call)
    if 'threshold' in arrays:  # one for each feature
        name = call.recorder.vector(name)
    return call.recorder.emit(
        'binary_linear',
        [name],
        dict(binarize_input=linear.binarize_input),
        arrays,
        call.recorder.layer(weight=linear.weight),
    )


@layer(PadShortcut)
def _pad_shortcut(call: Call, shortcut: PadShortcut, x: Tensor) -> str:
    attributes = dict(
        stride=shortcut.stride, before=shortcut.front, after=shortcut.back
    )
    return call.recorder.emit('pad_shortcut', [call.recorder.name(x, call)], attributes)


def _binary(call: Call, module: BinaryConv2d | BinaryLinear) -> dict[str, np.ndarray]:
    """The tensors of a binary layer, signs in the order of a packed file."""
    recorder = call.recorder
    if not module.binarize_weight:
        refuse(
            recorder.place(),
            'its weights are real, with binarize_weight=False, and a packed network '
            'has no such layer of binary inputs; pack the network of the second step',
        )
    for name, parameter in module.named_parameters(recurse=False):
        recorder.array(parameter, name, call)
    recorder.array(module.weight, 'weight', call)
    bits, scale, offset = module.quantized()
    arrays = _scale(scale, bits)
    bits = (bits.permute(0, 2, 3, 1) if bits.dim() == 4 else bits).flatten(1)
    arrays['signs'] = pack_bits(bits.numpy())
    if offset is not None:
        arrays.pop('exponent', None)
        arrays |= dict(scale=scale.float().numpy(), offset=offset.float().numpy())
    if module.binarize_input:
        arrays |= _input(module)
    if module.bias is not None:
        arrays['bias'] = recorder.array(module.bias, 'bias', call)
    return arrays


def exponents(scale: Tensor) -> Tensor | None:
    """log2 of scales, int8, if a packed file has such a number for all; else None."""
    mantissa, exponent = torch.frexp(scale.float())  # 1 is 0.5 * 2**1
    exponent = exponent - 1
    exact = (mantissa == 0.5) & (exponent.abs() <= MAX_EXPONENT)
    return exponent.to(torch.int8) if exact.all() else None


def _scale(scale: Tensor | None, signs: Tensor) -> dict[str, np.ndarray]:
    """Scales as exponents, where all of them are powers of two, or as they are."""
    scale = torch.ones(len(signs)) if scale is None else scale.float()
    exponent = exponents(scale)
    if exponent is None:
        return dict(scale=scale.numpy())
    return dict(exponent=exponent.numpy())


def _input(module: BinaryConv2d | BinaryLinear) -> dict[str, np.ndarray]:
    """Where the signs of an input begin, and what real numbers they stand for."""
    affine = module.input_affine()
    if affine is None:
        threshold = module.input_threshold()
        found = dict(threshold=threshold)
    else:
        alpha, beta = affine
        threshold = beta
        if alpha < 0:
            # -sign(x - beta) is +1 up to beta. The sign that is +1 above beta is its
            # negative, and alpha and beta change theirs.
            alpha, threshold, beta = -alpha, torch.nextafter(beta, beta + inf), -beta
        channels = module.weight.shape[1] * getattr(module, 'groups', 1)
        threshold = threshold.expand(channels)
        found = dict(threshold=threshold, affine_input=torch.stack([alpha, beta]))
    return {
        role: tensor.float().contiguous().numpy()
        for role, tensor in found.items()
        if tensor is not None
    }
