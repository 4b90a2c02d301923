"""Convolution and linear layer of real weights, and batch normalisation."""

import numpy as np
import torch
import torch.nn.functional as F

from .calls import function
from .windows import pair, window


@function(torch.conv2d)
def _conv2d(
    call, input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1
) -> str:
    recorder = call.recorder
    call.run()  # torch itself says where sizes do not fit
    if not recorder.touches(input) or recorder.touches((weight, bias)):
        call.refuse('its weights are made of an image')
    arrays = dict(weight=recorder.array(weight, 'weight', call))
    if bias is not None:
        arrays['bias'] = recorder.array(bias, 'bias', call)
    kernel = tuple(weight.shape[2:])
    stride = pair(call, 'stride', stride)
    dilation = pair(call, 'dilation', dilation)
    if padding == 'same':  # torch pads once more at the end where it has to
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        pads = total[0] // 2, total[1] // 2, -(-total[0] // 2), -(-total[1] // 2)
    elif padding == 'valid':
        pads = (0, 0, 0, 0)
    else:
        pads = pair(call, 'padding', padding) * 2
    attributes = window(kernel, stride, pads, dilation, groups)
    del attributes['kernel']
    return recorder.emit(
        'conv2d',
        [recorder.name(input, call)],
        attributes,
        arrays,
        recorder.layer(weight=weight, bias=bias),
    )


@function(F.linear)
def _linear(call, input, weight, bias=None) -> str:
    recorder = call.recorder
    call.run()  # torch itself says where sizes do not fit
    if not recorder.touches(input) or recorder.touches((weight, bias)):
        call.refuse('its weights are made of an image')
    if input.dim() != 2:
        call.refuse(f'an input of {input.dim()} dimensions; flatten it')
    arrays = dict(weight=recorder.array(weight, 'weight', call))
    if bias is not None:
        arrays['bias'] = recorder.array(bias, 'bias', call)
    return recorder.emit(
        'linear',
        [recorder.name(input, call)],
        {},
        arrays,
        recorder.layer(weight=weight, bias=bias),
    )


@function(F.batch_norm)
def _batch_norm(
    call,
    input,
    running_mean,
    running_var,
    weight=None,
    bias=None,
    training=False,
    momentum=0.1,
    eps=1e-5,
) -> str:
    recorder = call.recorder
    call.run()  # torch itself says where sizes do not fit
    if training or running_mean is None:
        call.refuse(
            'it takes the statistics of the batch, and a packed network sees single '
            'images; train with track_running_stats=True'
        )
    mean = recorder.array(running_mean, 'mean', call)
    variance = recorder.array(running_var, 'variance', call)
    slope = np.float32(1) if weight is None else recorder.array(weight, 'weight', call)
    offset = np.float32(0) if bias is None else recorder.array(bias, 'bias', call)
    # In evaluation torch computes alpha = weight * (1 / sqrt(var + eps)) and
    # beta = fma(-mean, alpha, bias), each rounded to float32, and one fused
    # multiply-add for each value: with these two the same bits come out.
    with np.errstate(all='ignore'):
        alpha = slope * (1 / np.sqrt(variance + np.float32(eps)))
        # The product of two float32 is exact in float64.
        beta = (offset - mean.astype(np.float64) * alpha).astype(np.float32)
    affine = np.stack([alpha, beta])
    if not np.isfinite(affine).all():
        call.refuse('a slope or an offset is NaN or infinite; look at its variance')
    name = recorder.name(input, call)
    if input.dim() == 2:
        name = recorder.vector(name)
    layer = None
    if weight is not None and bias is not None:
        layer = recorder.layer(weight=weight, bias=bias)
    return recorder.emit('affine', [name], {}, dict(affine=affine), layer)
