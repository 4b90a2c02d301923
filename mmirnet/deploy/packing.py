"""From a trained model to a packed file, and back to a simulation of it."""

import copy
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, fx, nn

from ..binary import Hardtanh, IRConv2d
from ..binary.functional import sign
from ..errors import UnsupportedModelError
from ..models.blocks import PadShortcut
from . import format, preparation
from .engine import binary_weight, pack_bits
from .format import Packed

_DTYPES = {'fp32': 'F32', 'fp16': 'F16', 'bf16': 'BF16'}
_TORCH_DTYPES = {
    'F32': torch.float32,
    'F16': torch.float16,
    'BF16': torch.bfloat16,
    'U64': torch.uint64,
    'I8': torch.int8,
}


def _refuse(name: str, why: str) -> None:
    raise UnsupportedModelError(f'cannot pack {name}: {why}')


# --------------------------------------------------------------------------
# Layers to operations. Each function takes a layer and its name, and returns
# the attributes and the tensors of the operation.


def _square(name: str, what: str, value: Any) -> int:
    sides = set(value) if isinstance(value, tuple) else {value}
    if len(sides) != 1 or not isinstance(side := sides.pop(), int):
        _refuse(name, f'{what} {value} has two different sides')
    return side


def _window(name: str, conv: nn.Conv2d) -> dict:
    if conv.groups != 1 or set(conv.dilation) != {1} or conv.padding_mode != 'zeros':
        _refuse(name, 'groups, dilation or padding mode')
    if conv.bias is not None:
        _refuse(name, 'a convolution with bias')
    return dict(
        stride=_square(name, 'stride', conv.stride),
        padding=_square(name, 'padding', conv.padding),
    )


def _binary_conv(name: str, conv: IRConv2d) -> tuple[dict, dict]:
    if conv.rule.scale == 'mean':
        _refuse(name, "scale='mean' is no power of two; use 'shift' or None")
    weight, scale = conv.libra_pb()
    scale = torch.ones(len(weight)) if scale is None else scale.flatten().cpu()
    exponent = torch.log2(scale)
    if not torch.equal(exponent, exponent.round()):
        _refuse(name, 'a scale is no power of two')
    bits = (weight >= 0).permute(0, 2, 3, 1).flatten(1).cpu().numpy()
    return (
        dict(
            kernel=_square(name, 'kernel', conv.kernel_size),
            **_window(name, conv),
            binarize_input=conv.binarize_input,
        ),
        dict(signs=pack_bits(bits), exponent=exponent.to(torch.int8).numpy()),
    )


def _float(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().contiguous().numpy()


def _conv(name: str, conv: nn.Conv2d) -> tuple[dict, dict]:
    return _window(name, conv), dict(weight=_float(conv.weight))


def _linear(name: str, linear: nn.Linear) -> tuple[dict, dict]:
    tensors = dict(weight=_float(linear.weight))
    if linear.bias is not None:
        tensors['bias'] = _float(linear.bias)
    return {}, tensors


def _batch_norm(name: str, bn: nn.BatchNorm2d) -> tuple[dict, dict]:
    if bn.running_mean is None or bn.weight is None:
        _refuse(name, 'a BatchNorm without statistics or weights')
    # In evaluation torch computes alpha = weight * (1 / sqrt(var + eps)) and
    # beta = fma(-mean, alpha, bias), each rounded to float32, and one fused
    # multiply-add for each value: with these two the same bits come out.
    variance, mean = _float(bn.running_var), _float(bn.running_mean)
    alpha = _float(bn.weight) * (1 / np.sqrt(variance + np.float32(bn.eps)))
    # The product of two float32 is exact in float64.
    beta = _float(bn.bias) - mean.astype(np.float64) * alpha
    return {}, dict(affine=np.stack([alpha, beta.astype(np.float32)]))


def _hardtanh(name: str, act: nn.Hardtanh) -> tuple[dict, dict]:
    if (act.min_val, act.max_val) != (-1, 1):
        _refuse(name, 'a Hardtanh other than [-1, 1]')
    return {}, {}


def _max_pool(name: str, pool: nn.MaxPool2d) -> tuple[dict, dict]:
    if pool.ceil_mode or pool.dilation not in (1, (1, 1)):
        _refuse(name, 'ceil mode or dilation')
    return {
        'kernel': _square(name, 'kernel', pool.kernel_size),
        'stride': _square(name, 'stride', pool.stride),
        'padding': _square(name, 'padding', pool.padding),
    }, {}


def _average_pool(name: str, pool: nn.AdaptiveAvgPool2d) -> tuple[dict, dict]:
    if pool.output_size not in (1, (1, 1)):
        _refuse(name, 'pooling to more than one pixel')
    return {}, {}


def _pad_shortcut(name: str, shortcut: PadShortcut) -> tuple[dict, dict]:
    return {
        'stride': shortcut.stride,
        'before': shortcut.front,
        'after': shortcut.back,
    }, {}


# Exact classes: a subclass may compute something else.
_LAYERS: dict[type, tuple[str, Callable]] = {
    IRConv2d: ('binary_conv2d', _binary_conv),
    nn.Conv2d: ('conv2d', _conv),
    nn.Linear: ('linear', _linear),
    nn.BatchNorm1d: ('affine', _batch_norm),
    nn.BatchNorm2d: ('affine', _batch_norm),
    nn.Hardtanh: ('hardtanh', _hardtanh),
    Hardtanh: ('hardtanh', _hardtanh),
    nn.ReLU: ('relu', lambda name, act: ({}, {})),
    nn.MaxPool2d: ('max_pool2d', _max_pool),
    nn.AdaptiveAvgPool2d: ('average_pool', _average_pool),
    nn.Flatten: ('flatten', lambda name, flatten: ({}, {})),
    PadShortcut: ('pad_shortcut', _pad_shortcut),
}
_IDENTITY = (nn.Identity, nn.Dropout)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return type(module) in _LAYERS or super().is_leaf_module(module, name)


class _Logits(nn.Module):
    """An MMPretrain classifier's way from image to logits, or any module's."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x):
        model = self.model
        if not hasattr(model, 'backbone'):
            return model(x)
        feats = model.backbone(x)
        if getattr(model, 'neck', None) is not None:
            feats = model.neck(feats)
        return model.head(feats)


def _add_like(target: Any) -> bool:
    return getattr(target, '__name__', target) in ('add', 'iadd', 'add_')


def _flatten_like(target: Any) -> bool:
    return getattr(target, '__name__', target) in ('flatten', 'view', 'reshape')


def _operation(node: fx.Node, module: nn.Module | None) -> tuple[str, dict, dict]:
    """Kind, attributes and tensors of one node."""
    if module is not None:
        if type(module) not in _LAYERS:
            _refuse(node.target, f'no operation for {type(module).__name__}')
        kind, describe = _LAYERS[type(module)]
        return kind, *describe(node.target, module)
    if _add_like(node.target):
        return 'add', {}, {}
    if _flatten_like(node.target):
        return 'flatten', {}, {}
    _refuse(node.name, f'no operation for {node.target}')


def trace(model: nn.Module) -> tuple[list[dict], dict[str, np.ndarray]]:
    """The graph of a model, in evaluation mode, and its tensors.

    Args:
        model: An MMPretrain classifier or any module from images to logits.

    Raises:
        UnsupportedModelError: For a layer that the format does not have.
    """
    # A copy is not compiled, and leaves the mode of the model's parts as it is.
    wrapped = _Logits(copy.deepcopy(model)).eval()
    traced = _Tracer().trace(wrapped)
    modules = dict(wrapped.named_modules())
    graph, tensors, names = [], {}, {}
    for node in traced.nodes:
        if node.op == 'placeholder':
            names[node] = 'input'
            continue
        if node.op == 'output':
            continue
        if node.target == 'size' or not node.users:
            continue
        module = modules[node.target] if node.op == 'call_module' else None
        sources = [names[arg] for arg in node.all_input_nodes if arg in names]
        if isinstance(module, _IDENTITY):
            names[node] = sources[0]
            continue
        kind, attributes, arrays = _operation(node, module)
        # A layer with weights keeps its name, unless it is called twice.
        name = str(node.target).removeprefix('model.')
        if not arrays or any(name == operation['dst'] for operation in graph):
            name = f'{kind}{len(graph)}'
        names[node] = name
        tensors.update({f'{name}.{role}': array for role, array in arrays.items()})
        graph.append(dict(op=kind, src=sources, dst=name) | attributes)
    return graph, tensors


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
        classes: Names of the classes.
        float_dtype: 'fp32', 'fp16' or 'bf16' for the weights of float
            convolutions and linear layers. BatchNorm stays in fp32.
        source: Digest of what was packed; by default that of the weights.
        image: How an image file is prepared, as
            :func:`mmirnet.deploy.pipelines.preparation` says of a data set; by default
            files are read as RGB (or grey) and brought to size, see
            :func:`mmirnet.deploy.preparation.default`.
        head: How logits become scores, see :mod:`mmirnet.deploy.format`; by default
            by softmax.

    Returns:
        The network; :func:`write` puts it in a file, and
        ``mmirnet.deploy.Engine`` runs it.

    Raises:
        UnsupportedModelError: For a layer that the format does not have.

    Example:
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
    graph, tensors = trace(model)
    dtypes = {}
    for name, array in tensors.items():
        role = name.rsplit('.', 1)[1]
        dtypes[name] = {'signs': 'U64', 'exponent': 'I8'}.get(role, 'F32')
        if role == 'weight':
            dtypes[name] = _DTYPES[float_dtype]
            tensors[name] = _round(array, dtypes[name])
    channels = tensors[f'{graph[0]["dst"]}.weight'].shape[1]
    mean, std = _normalisation(model, channels)
    height, width = input_size
    return format.check(
        Packed(
            input=dict(
                channels=channels,
                height=height,
                width=width,
                mean=mean,
                std=std,
                **(image or preparation.default(channels, height, width)),
            ),
            graph=graph,
            tensors=tensors,
            classes=classes,
            source=source or _digest(tensors),
            dtypes=dtypes,
            head=head or format.SOFTMAX.copy(),
        )
    )


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
    save_file(tensors, Path(path), {'mmirnet': text})


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
            if operation['op'] == 'binary_conv2d':
                channels = packed.shapes[operation['src'][0]][0]
                weight = binary_weight(operation, arrays, channels)
                arrays = {'weight': weight.transpose(0, 3, 1, 2)}
            tensors = {
                role: torch.from_numpy(np.array(array, order='C'))
                for role, array in arrays.items()
            }
            layer = nn.Module()
            for role, tensor in tensors.items():
                layer.register_buffer(role, tensor)
            self.layers.append(layer)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W)."""
        values = {'input': x}
        for i, op in enumerate(self.graph):
            values[op['dst']] = self.operation(i, *(values[v] for v in op['src']))
        return values[self.graph[-1]['dst']]

    def operation(self, index: int, *inputs: Tensor) -> Tensor:
        """Output of one operation of the graph, of its inputs."""
        op = self.graph[index]
        tensors = dict(self.layers[index].named_buffers())
        return _SIMULATE[op['op']](op, *inputs, **tensors)


def _simulate_binary(op: dict, x: Tensor, weight: Tensor) -> Tensor:
    x = sign(x) if op['binarize_input'] else x
    return F.conv2d(x, weight, None, op['stride'], op['padding'])


def _simulate_shortcut(op: dict, x: Tensor) -> Tensor:
    x = x[:, :, :: op['stride'], :: op['stride']]
    return F.pad(x, (0, 0, 0, 0, op['before'], op['after']))


def _simulate_affine(op: dict, x: Tensor, affine: Tensor) -> Tensor:
    zero, one = torch.zeros_like(affine[0]), torch.ones_like(affine[0])
    return F.batch_norm(x, zero, one, affine[0], affine[1], False, 0.0, 0.0)


_SIMULATE = {
    'conv2d': lambda op, x, weight: F.conv2d(
        x, weight, None, op['stride'], op['padding']
    ),
    'binary_conv2d': _simulate_binary,
    'linear': lambda op, x, weight, bias=None: F.linear(x.flatten(1), weight, bias),
    'affine': _simulate_affine,
    'hardtanh': lambda op, x: F.hardtanh(x),
    'relu': lambda op, x: F.relu(x),
    'add': lambda op, x, y: x + y,
    'max_pool2d': lambda op, x: F.max_pool2d(
        x, op['kernel'], op['stride'], op['padding']
    ),
    'average_pool': lambda op, x: F.adaptive_avg_pool2d(x, 1),
    'flatten': lambda op, x: x.flatten(1),
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
