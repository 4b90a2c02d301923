"""What changes the shape of a tensor, or nothing: views, copies, zeros around it."""

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from .calls import function


@function(
    Tensor.contiguous,
    Tensor.clone,
    torch.clone,
    Tensor.float,
    Tensor.to,
    Tensor.type_as,
    Tensor.detach,
    torch.detach,
    Tensor.cpu,
)
def _same(call, input, *args, **kwargs) -> str:
    """Copies and casts: `give` refuses those that change the type."""
    return call.recorder.name(input, call)


@function(
    torch.flatten,
    Tensor.flatten,
    torch.reshape,
    Tensor.reshape,
    Tensor.view,
    torch.squeeze,
    Tensor.squeeze,
    Tensor.unflatten,
    torch.unsqueeze,
    Tensor.unsqueeze,
    torch.unflatten,
    Tensor.view_as,
    Tensor.reshape_as,
)
def _reshape(call, input, *args, **kwargs) -> str:
    """Any new shape that keeps (C, H, W) or makes features of it."""
    recorder = call.recorder
    name = recorder.name(input, call)
    result, shape = call.run(), recorder.shapes[name]
    rest = tuple(result.shape[1:])
    if isinstance(result, Tensor) and len(result) == recorder.batch:
        if rest == tuple(input.shape[1:]) or rest == shape:
            return name
        if rest == (prod(shape),):
            return recorder.emit('flatten', [name])
        if rest == (prod(shape), 1, 1):
            return recorder.vector(name)
    call.refuse(
        f'gives a tensor of shape {tuple(result.shape)} from {recorder.batch} images; '
        'only flattening, flatten(1), has an operation'
    )


@function(Tensor.__getitem__)
def _getitem(call, input, index) -> str:
    """Every n-th pixel, x[:, :, ::n, ::n], or new axes, x[:, :, None, None]."""
    recorder = call.recorder
    parts = index if isinstance(index, tuple) else (index,)
    if all(part is None or part is Ellipsis or part == slice(None) for part in parts):
        return _reshape(call, input)
    steps = [
        part.step or 1
        for part in parts
        if isinstance(part, slice) and (part.start, part.stop) == (None, None)
    ]
    if len(steps) != len(parts):
        call.refuse(f'{index!r} takes a part of a tensor')
    steps += [1] * (4 - len(steps))
    if input.dim() != 4 or steps[:2] != [1, 1] or steps[2] != steps[3]:
        call.refuse('only every n-th pixel of both sides, x[:, :, ::n, ::n]')
    attributes = dict(stride=steps[2], before=0, after=0)
    return recorder.emit('pad_shortcut', [recorder.name(input, call)], attributes)


@function(F.pad)
def _pad(call, input, pad, mode='constant', value=None) -> str:
    """Channels of zeros."""
    pads = list(pad) + [0] * (8 - len(pad))
    if mode != 'constant' or value not in (None, 0) or input.dim() != 4:
        call.refuse(f'mode {mode!r}, value {value!r}; only channels of zeros')
    if any(pads[:4] + pads[6:]) or min(pads) < 0:
        call.refuse('only channels are padded; give a convolution its own padding')
    attributes = dict(stride=1, before=pads[4], after=pads[5])
    name = call.recorder.name(input, call)
    return call.recorder.emit('pad_shortcut', [name], attributes)
