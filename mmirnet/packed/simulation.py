"""A packed network as a torch module that computes what was packed."""

import os
from math import inf, prod

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..binary.estimators import sign
from ..errors import ConfigError
from . import format
from .bits import binary_weight
from .format import Packed


class Simulation(nn.Module):
    """A packed network in torch, layer by layer in float arithmetic.

    Gives the outputs of the model that was packed. Its input is float
    (N, C, H, W), already normalised.

    Args:
        packed: A checked network.
    """

    def __init__(self, packed: Packed):
        super().__init__()
        self.packed = packed
        self.graph = packed.graph
        self.layers = nn.ModuleList()
        for operation in packed.graph:
            arrays = packed.operation_tensors(operation)
            shape = packed.shapes[operation['src'][0]]
            if operation['op'].startswith('binary'):
                weight = binary_weight(operation, arrays, shape).transpose(0, 3, 1, 2)
                arrays = {'weight': weight, **_bias(arrays)}
            elif operation['op'] == 'scale':
                arrays = {'affine': format.slope_and_offset(packed, operation)}
            layer = nn.Module()
            for role, array in arrays.items():
                tensor = torch.from_numpy(np.array(array, order='C'))
                layer.register_buffer(role, tensor)
            self.layers.append(layer)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W).

        Raises:
            ConfigError: If the images have another shape, or are not float.
        """
        wanted = self.packed.shapes['input']
        fits = torch.jit.is_tracing() or tuple(x.shape[1:]) == wanted
        if not fits or not x.is_floating_point():
            raise ConfigError(
                'images must be normalised floats of shape (N, '
                f'{", ".join(map(str, wanted))}), not {x.dtype} of {tuple(x.shape)}'
            )
        values = {'input': x}
        for i, op in enumerate(self.graph):
            values[op['dst']] = self.operation(i, *(values[v] for v in op['src']))
        return values[self.graph[-1]['dst']].flatten(1)

    def operation(self, index: int, *inputs: Tensor) -> Tensor:
        """Output of one operation of the graph, of its inputs, as (N, C, H, W)."""
        op, shapes = self.graph[index], self.packed.shapes
        tensors = dict(self.layers[index].named_buffers())
        # Features and maps are one thing here: a shape says how they are ordered.
        inputs = [
            x.reshape(-1, *shapes[name])
            for x, name in zip(inputs, op['src'], strict=True)
        ]
        output = _SIMULATE[op['op']](op, *inputs, **tensors)
        return output.reshape(-1, *shapes[op['dst']])


def _bias(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {'bias': arrays['bias']} if 'bias' in arrays else {}


def _padded(x: Tensor, window: format.Geometry, value: float = 0):
    """An image, and the padding that torch's own functions still have to add."""
    top, left, bottom, right = window.padding
    if (top, left) == (bottom, right):
        return x, (top, left)
    return F.pad(x, (left, right, top, bottom), value=value), (0, 0)


def _simulate_conv(
    op: dict, x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    window = format.geometry(op, tuple(weight.shape[2:]))
    x, padding = _padded(x, window)
    return F.conv2d(
        x, weight, bias, window.stride, padding, window.dilation, window.groups
    )


def _simulate_binary(
    op: dict, x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    if not op['binarize_input']:
        return _simulate_conv(op, x, weight, bias)
    y = _simulate_conv(op, sign(x), weight)  # exact: the bias is the one rounding
    return y if bias is None else y + bias[:, None, None]


def _simulate_binary_linear(
    op: dict, x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    x = x.flatten(1)
    if not op['binarize_input']:
        return F.linear(x, weight.flatten(1), bias)
    y = F.linear(sign(x), weight.flatten(1))
    return y if bias is None else y + bias


def _simulate_shortcut(op: dict, x: Tensor) -> Tensor:
    x = x[:, :, :: op['stride'], :: op['stride']]
    return F.pad(x, (0, 0, 0, 0, op['before'], op['after']))


def _simulate_affine(op: dict, x: Tensor, affine: Tensor) -> Tensor:
    zero, one = torch.zeros_like(affine[0]), torch.ones_like(affine[0])
    return F.batch_norm(x, zero, one, affine[0], affine[1], False, 0.0, 0.0)


def _simulate_max_pool(op: dict, x: Tensor) -> Tensor:
    window = format.geometry(op)
    x, padding = _padded(x, window, -inf)
    if any(2 * p > k for p, k in zip(padding, window.kernel, strict=True)):
        x, padding = F.pad(x, [p for p in padding[::-1] for _ in '12'], value=-inf), 0
    return F.max_pool2d(x, window.kernel, window.stride, padding)


def _simulate_avg_pool(op: dict, x: Tensor) -> Tensor:
    window = format.geometry(op)
    top, left, bottom, right = window.padding

    def sums(values: Tensor) -> Tensor:
        values = F.pad(values, (left, right, top, bottom))
        return F.avg_pool2d(values, window.kernel, window.stride, divisor_override=1)

    if op['include_pad']:
        return sums(x) / prod(window.kernel)
    return sums(x) / sums(torch.ones_like(x[:1, :1]))


_SIMULATE = {
    'conv2d': _simulate_conv,
    'binary_conv2d': _simulate_binary,
    'binary_linear': _simulate_binary_linear,
    'linear': lambda op, x, weight, bias=None: F.linear(x.flatten(1), weight, bias),
    'affine': _simulate_affine,
    'scale': _simulate_affine,
    'clamp': lambda op, x: torch.clamp(x, op['low'], op['high']),
    'hardtanh': lambda op, x: F.hardtanh(x),
    'relu': lambda op, x: F.relu(x),
    'add': lambda op, x, y: x + y,
    'max_pool2d': _simulate_max_pool,
    'avg_pool2d': _simulate_avg_pool,
    'average_pool': lambda op, x: F.adaptive_avg_pool2d(x, 1),
    'flatten': lambda op, x: x,
    'vector': lambda op, x: x,
    'pad_shortcut': _simulate_shortcut,
}


def unpack(path: str | os.PathLike) -> Simulation:
    """A packed file as a torch module that computes what was packed.

    Args:
        path: A file written by :func:`write`.

    Raises:
        PackedFileError: If the file is damaged or was tampered with.
    """
    return Simulation(format.read(path)).eval()
