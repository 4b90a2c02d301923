"""From a trained model to a packed file, and back to a simulation of it."""

import hashlib
import json
import os
from collections.abc import Iterable
from math import inf, prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from ..binary.estimators import sign
from ..errors import (
    ConfigError,
    PackedFileError,
    UnsupportedModelError,
    check_choice,
)
from ..files import write_whole
from . import format, preparation
from .engine import binary_weight
from .format import MAX_SIDE, Packed
from .tracing import trace, unwrap

_DTYPES = {'fp32': 'F32', 'fp16': 'F16', 'bf16': 'BF16'}
_TORCH_DTYPES = {
    'F32': torch.float32,
    'F16': torch.float16,
    'BF16': torch.bfloat16,
    'U64': torch.uint64,
    'I8': torch.int8,
}


def _normalisation(model: nn.Module, channels: int) -> tuple[list, list]:
    preprocessor = getattr(model, 'data_preprocessor', None)
    if preprocessor is None or getattr(preprocessor, 'mean', None) is None:
        return [0.0] * channels, [1.0] * channels
    mean, std = (
        getattr(preprocessor, name).float().flatten().tolist()
        for name in ('mean', 'std')
    )
    return (mean * channels)[:channels], (std * channels)[:channels]


def _digest(tensors: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].tobytes())
    return f'sha256:{digest.hexdigest()}'


def pack(
    model: nn.Module,
    input_size: tuple[int, int] = (224, 224),
    classes: list[str] | None = None,
    float_dtype: str = 'fp32',
    source: str | None = None,
    image: dict[str, Any] | None = None,
    head: dict[str, Any] | None = None,
) -> Packed:
    """Packs a trained model: one bit for each binary weight.

    Args:
        model: A classifier of MMPretrain, whose data preprocessor gives the
            normalisation, or any module from images to logits.
        input_size: Height and width of the images.
        classes: Names of the classes, in any sequence.
        float_dtype: 'fp32', 'fp16' or 'bf16' for the weights of float
            convolutions and linear layers. BatchNorm stays in fp32.
        source: Digest of what was packed; by default that of the weights.
        image: How an image file is prepared, as
            :func:`mmirnet.deploy.pipelines.preparation` says of a data set, with a
            ``mean`` and ``std`` of its own where the pipeline normalises; by default
            files are read as RGB (or grey) and brought to size, see
            :func:`mmirnet.deploy.preparation.default`.
        head: How logits become scores, see :mod:`mmirnet.deploy.format`; by default
            by softmax.

    Returns:
        The network; :func:`write` puts it in a file, and
        ``mmirnet.deploy.Engine`` runs it.

    Raises:
        ConfigError: If an argument cannot be.
        UnsupportedModelError: For a layer that the format does not have.

    Example:
        >>> from mmirnet.binary import IRConv2d
        >>> net = nn.Sequential(
        ...     nn.Conv2d(3, 8, 3, bias=False),
        ...     IRConv2d(8, 8, 3, bias=False),
        ...     nn.AdaptiveAvgPool2d(1),
        ...     nn.Flatten(),
        ...     nn.Linear(8, 2),
        ... )
        >>> packed = pack(net, (8, 8))
        >>> packed.tensors['1.signs'].nbytes  # 72 bits for each of 8 channels
        128
    """
    check_choice('float_dtype', float_dtype, _DTYPES)
    input_size = _size(input_size)
    recording = trace(model, input_size)
    model = unwrap(model)
    graph, tensors = recording.graph, recording.tensors
    dtypes = {}
    for name, array in tensors.items():
        role = name.rsplit('.', 1)[1]
        dtypes[name] = {'signs': 'U64', 'exponent': 'I8'}.get(role, 'F32')
        if role == 'weight':
            dtypes[name] = _DTYPES[float_dtype]
            tensors[name] = _round(array, dtypes[name])
            if np.isfinite(array).all() and not np.isfinite(tensors[name]).all():
                raise UnsupportedModelError(
                    f'cannot pack {name}: {abs(array).max():.3g} is more than '
                    f'{float_dtype} holds; take bf16 or fp32 as float_dtype'
                )
    channels = recording.channels
    mean, std = _normalisation(model, channels)
    height, width = input_size
    packed = Packed(
        input=dict(
            channels=channels,
            height=height,
            width=width,
            mean=mean,
            std=std,
        )
        | (image or preparation.default(channels, height, width)),
        graph=graph,
        tensors=tensors,
        classes=classes if classes is None else _texts(classes),
        source=source or _digest(tensors),
        dtypes=dtypes,
        head=head or format.SOFTMAX.copy(),
    )
    try:
        return format.check(packed)
    except PackedFileError as error:
        raise UnsupportedModelError(f'cannot pack the model: {error}') from None


def _size(given: Any) -> tuple[int, int]:
    """Height and width as an argument has them."""
    sides = list(given) if isinstance(given, Iterable) else []
    whole = all(hasattr(side, '__index__') for side in sides)
    if len(sides) != 2 or not whole or not 1 <= min(sides) <= max(sides) <= MAX_SIDE:
        raise ConfigError(
            f'input_size must be (height, width), whole numbers from 1 to {MAX_SIDE}, '
            f'not {given!r}'
        )
    return int(sides[0]), int(sides[1])


def _texts(names: Iterable[Any]) -> list[Any]:
    """Names in a plain list; what is no text stays, for the check to refuse."""
    return [str(name) if isinstance(name, str) else name for name in names]


def _round(array: np.ndarray, dtype: str) -> np.ndarray:
    return torch.from_numpy(array).to(_TORCH_DTYPES[dtype]).float().numpy()


def write(packed: Packed, path: str | os.PathLike) -> None:
    """Writes a network to a packed file, after the checks of ``read``."""
    format.check(packed)
    spec = dict(
        version=format.VERSION,
        input=packed.input,
        head=packed.head,
        classes=packed.classes,
        source=packed.source,
        graph=packed.graph,
    )
    tensors = {
        name: torch.from_numpy(np.array(array)).to(_TORCH_DTYPES[packed.dtypes[name]])
        for name, array in packed.tensors.items()
    }
    text = json.dumps(spec, separators=(',', ':'), allow_nan=False)
    digest = format.digest(text, save(tensors, {'mmirnet': text}))
    write_whole(path, save(tensors, {'mmirnet': text, 'sha256': digest}))


# --------------------------------------------------------------------------
# The way back.


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
