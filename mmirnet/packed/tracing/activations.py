"""Activations: clamps and slopes, and what does nothing in evaluation mode."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...models.activations import Maxout, RPReLU
from .calls import Call, function, is_number, layer


@function(
    torch.clamp,
    torch.clamp_,
    torch.clip,
    torch.clip_,
    Tensor.clamp,
    Tensor.clamp_,
    Tensor.clip,
    Tensor.clip_,
)
def _clamp(call, input, min=None, max=None) -> str:
    recorder = call.recorder
    for limit in (min, max):
        if limit is not None and not is_number(limit):
            call.refuse('its limits are no numbers')
    name = recorder.name(input, call)
    low, high = (
        None if v is None or abs(v) == np.inf else float(v) for v in (min, max)
    )
    if (low, high) == (-1, 1):
        return recorder.emit('hardtanh', [name])
    if (low, high) == (0, None):
        return recorder.emit('relu', [name])
    if (low, high) == (None, None):
        call.refuse('it has no limits')
    return recorder.emit('clamp', [name], dict(low=low, high=high))


@function(F.hardtanh, torch._C._nn.hardtanh, torch._C._nn.hardtanh_)
def _hardtanh(call, input, min_val=-1.0, max_val=1.0, inplace=False) -> str:
    return _clamp(call, input, min_val, max_val)


@function(F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)
def _relu(call, input, inplace=False) -> str:
    return _clamp(call, input, 0)


@function(F.relu6)
def _relu6(call, input, inplace=False) -> str:
    return _clamp(call, input, 0, 6)


@function(torch.prelu, Tensor.prelu)
def _prelu(call, input, weight) -> str:
    name, (slopes,) = _by_channel(call, input, weight)
    layer = call.recorder.layer(weight=weight)
    return call.recorder.emit('prelu', [name], {}, dict(negative=slopes), layer)


@function(F.dropout, F.dropout1d, F.dropout2d, F.alpha_dropout, F.feature_alpha_dropout)
def _dropout(call, input, p=0.5, training=True, inplace=False) -> str:
    if training:
        call.refuse('it drops values in evaluation too; pass training=self.training')
    return call.recorder.name(input, call)


@layer(RPReLU)
def _rprelu(call: Call, module: RPReLU, x: Tensor) -> str:
    recorder = call.recorder
    parameters = module.shift_in, module.weight, module.shift_out
    name, (before, slope, after) = _by_channel(call, x, *parameters)
    path = recorder.layer(weight=module.weight)

    def shifted(name: str, shift: np.ndarray, role: str) -> str:
        affine = np.stack([np.ones_like(shift), shift])
        layer = f'{path}.{role}' if path else None
        return recorder.emit('affine', [name], {}, dict(affine=affine), layer)

    name = shifted(name, before, 'shift_in')
    name = recorder.emit('prelu', [name], {}, dict(negative=slope), path)
    return shifted(name, after, 'shift_out')


@layer(Maxout)
def _maxout(call: Call, module: Maxout, x: Tensor) -> str:
    parameters = module.positive, module.negative
    name, (positive, negative) = _by_channel(call, x, *parameters)
    arrays = dict(negative=negative, positive=positive)
    path = call.recorder.layer(positive=module.positive)
    return call.recorder.emit('prelu', [name], {}, arrays, path)


def _by_channel(call: Call, x: Tensor, *parameters: Tensor) -> tuple[str, list]:
    """A value as channels, and parameters spread over them."""
    recorder = call.recorder
    arrays = [recorder.array(p, 'parameter', call).ravel() for p in parameters]
    name = recorder.name(x, call)
    if x.dim() == 2 and any(array.size > 1 for array in arrays):
        name = recorder.vector(name)
    channels = recorder.shapes[name][0]
    return name, [np.repeat(a, channels) if a.size == 1 else a for a in arrays]
