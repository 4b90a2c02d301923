"""Poolings: of windows, adaptive ones whose windows are alike, and of all pixels."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .calls import function
from .windows import compact, pair, window


@function(F.max_pool2d, torch.max_pool2d)
def _max_pool2d(
    call,
    input,
    kernel_size,
    stride=None,
    padding=0,
    dilation=1,
    ceil_mode=False,
    return_indices=False,
) -> str:
    if return_indices or pair(call, 'dilation', dilation) != (1, 1):
        call.refuse('return_indices or dilation')
    attributes = _pool_window(call, input, kernel_size, stride, padding, ceil_mode)
    name = call.recorder.name(input, call)
    return call.recorder.emit('max_pool2d', [name], attributes)


@function(F.avg_pool2d)
def _avg_pool2d(
    call,
    input,
    kernel_size,
    stride=None,
    padding=0,
    ceil_mode=False,
    count_include_pad=True,
    divisor_override=None,
) -> str:
    if divisor_override is not None:
        call.refuse('divisor_override')
    attributes = _pool_window(call, input, kernel_size, stride, padding, ceil_mode)
    given = pair(call, 'padding', padding)
    include = count_include_pad and given != (0, 0)
    if include and attributes['padding'] != compact(given * 2):
        call.refuse('ceil_mode and count_include_pad together')
    attributes['include_pad'] = include
    return call.recorder.emit(
        'avg_pool2d', [call.recorder.name(input, call)], attributes
    )


@function(F.adaptive_avg_pool2d)
def _adaptive_avg_pool2d(call, input, output_size) -> str:
    kernel = _adaptive(call, input, output_size)
    name = call.recorder.name(input, call)
    if kernel == tuple(input.shape[2:]):
        return call.recorder.emit('average_pool', [name])
    if kernel == (1, 1):
        return name
    attributes = window(kernel, kernel, (0, 0, 0, 0)) | dict(include_pad=False)
    return call.recorder.emit('avg_pool2d', [name], attributes)


@function(F.adaptive_max_pool2d)
def _adaptive_max_pool2d(call, input, output_size, return_indices=False) -> str:
    if return_indices:
        call.refuse('return_indices')
    kernel = _adaptive(call, input, output_size)
    name = call.recorder.name(input, call)
    attributes = window(kernel, kernel, (0, 0, 0, 0))
    return call.recorder.emit('max_pool2d', [name], attributes)


@function(torch.mean, Tensor.mean)
def _mean(call, input, dim=None, keepdim=False, *, dtype=None) -> str:
    dims = dim if isinstance(dim, (tuple, list)) else [dim]
    if input.dim() != 4 or None in dims or {d % 4 for d in dims} != {2, 3}:
        call.refuse('only over height and width together, dim=(2, 3)')
    return call.recorder.emit('average_pool', [call.recorder.name(input, call)])


def _pool_window(call, input, kernel_size, stride, padding, ceil_mode) -> dict:
    """A pooling's window; rounding up is padding at the end."""
    if input.dim() != 4:
        call.refuse(f'an input of {input.dim()} dimensions')
    kernel = pair(call, 'kernel', kernel_size)
    given = stride is not None and stride != []
    stride = pair(call, 'stride', stride) if given else kernel
    top, left = pair(call, 'padding', padding)
    ends = [top, left]
    if ceil_mode:
        for i, size in enumerate(call.run().shape[2:]):
            used = (size - 1) * stride[i] + kernel[i] - input.shape[2 + i]
            ends[i] = max(ends[i], used - (top, left)[i])
    return window(kernel, stride, (top, left, *ends))


def _adaptive(call, input, output_size) -> tuple[int, int]:
    """The kernel of an adaptive pooling, whose windows have to be alike."""
    if input.dim() != 4:
        call.refuse(f'an input of {input.dim()} dimensions')
    sides = output_size if isinstance(output_size, (tuple, list)) else [output_size] * 2
    kernel = []
    for side, size in zip(sides, input.shape[2:], strict=True):
        side = size if side is None else side
        if size % side:
            call.refuse(f'{size} pixels do not divide into {side} windows')
        kernel.append(size // side)
    return tuple(kernel)
