"""Packs a trained model and writes the file."""

import hashlib
import json
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from mmpretrain.models.heads import MultiLabelClsHead
from safetensors import deserialize
from safetensors.torch import save
from torch import nn

from ..errors import (
    ConfigError,
    PackedFileError,
    UnsupportedModelError,
    check_choice,
)
from ..files import write_atomic
from . import format, preparation
from .format import Packed
from .limits import MAX_SIDE
from .tracing import innermost, trace

_DTYPES = {'fp32': 'F32', 'fp16': 'F16', 'bf16': 'BF16'}


_TORCH_DTYPES = {
    'F32': torch.float32,
    'F16': torch.float16,
    'BF16': torch.bfloat16,
    'U64': torch.uint64,
    'I8': torch.int8,
}


def normalisation(model: nn.Module, channels: int) -> tuple[list, list]:
    """Returns mean and deviation of a model's data preprocessor for each channel."""
    preprocessor = getattr(model, 'data_preprocessor', None)
    if preprocessor is None or getattr(preprocessor, 'mean', None) is None:
        return [0.0] * channels, [1.0] * channels
    mean, std = (
        getattr(preprocessor, name).float().flatten().tolist()
        for name in ('mean', 'std')
    )
    return (mean * channels)[:channels], (std * channels)[:channels]


def describe_head(model: nn.Module, kind: str | None = None) -> dict[str, Any]:
    """Describes how a classifier computes scores and predictions from logits.

    Args:
        model (nn.Module): A classifier of MMPretrain, or any module.
        kind (str | None): 'softmax' or 'sigmoid'. Defaults to 'sigmoid' for a
            multi-label head of MMPretrain, and 'softmax' for any other.

    Returns:
        dict[str, Any]: The description in a packed file.
    """
    head = getattr(model, 'head', None)
    kind = kind or ('sigmoid' if isinstance(head, MultiLabelClsHead) else 'softmax')
    if kind == 'softmax':
        return format.SOFTMAX.copy()
    threshold, topk = (getattr(head, name, None) for name in ('thr', 'topk'))
    if not isinstance(topk, int):
        topk = None
    if threshold is None and topk is None:
        threshold = 0.5
    threshold = None if threshold is None else float(threshold)
    return dict(scores=kind, threshold=threshold, topk=topk)


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
        model (nn.Module): A classifier of MMPretrain, whose data preprocessor defines
            the normalisation, or any module from images to logits.
        input_size (tuple[int, int]): Height and width of the images.
        classes (list[str] | None): Class names.
        float_dtype (str): 'fp32', 'fp16' or 'bf16' for the weights of float
            convolutions and linear layers. BatchNorm stays in fp32.
        source (str, optional): Digest of what was packed. Defaults to that of the
            weights.
        image (dict, optional): How an image file is prepared, as returned by
            :func:`mmirnet.packed.pipelines.preparation`, with ``mean`` and ``std`` if
            the pipeline normalises. Defaults to
            :func:`mmirnet.packed.preparation.default`, which reads RGB or grey and
            resizes.
        head (dict, optional): How logits become scores, see
            :mod:`mmirnet.packed.format`. Defaults to sigmoid for a multi-label head of
            MMPretrain, and softmax for any other.

    Returns:
        Packed: The network. :func:`write` writes it to a file, and
        :class:`mmirnet.runtime.Session` runs it.

    Raises:
        ConfigError: If an argument is invalid.
        UnsupportedModelError: If the format does not support a layer.

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
    model = innermost(model)
    tensors = recording.tensors
    dtypes = {name: _dtype(name, float_dtype) for name in tensors}
    for name in tensors:
        if _role(name) == 'weight':
            tensors[name] = _rounded(name, tensors[name], float_dtype)
    height, width = input_size
    size = dict(channels=recording.channels, height=height, width=width)
    mean, std = normalisation(model, recording.channels)
    packed = Packed(
        input=dict(size, mean=mean, std=std) | (image or preparation.default(**size)),
        graph=recording.graph,
        tensors=tensors,
        classes=classes if classes is None else _texts(classes),
        source=source or _digest(tensors),
        dtypes=dtypes,
        head=head or describe_head(model),
    )
    try:
        return format.check(packed)
    except PackedFileError as error:
        raise UnsupportedModelError(f'cannot pack the model: {error}') from None


def _size(given: Any) -> tuple[int, int]:
    """Checks an argument with height and width."""
    sides = list(given) if isinstance(given, Iterable) else []
    whole = all(hasattr(side, '__index__') for side in sides)
    if len(sides) != 2 or not whole or not 1 <= min(sides) <= max(sides) <= MAX_SIDE:
        raise ConfigError(
            f'input_size must be (height, width), whole numbers from 1 to {MAX_SIDE}, '
            f'not {given!r}'
        )
    return int(sides[0]), int(sides[1])


def _texts(names: Iterable[Any]) -> list[Any]:
    """Converts names to plain strings; the check refuses what is no string."""
    return [str(name) if isinstance(name, str) else name for name in names]


def _role(name: str) -> str:
    return name.rpartition('.')[2]


def _dtype(name: str, float_dtype: str) -> str:
    """Returns the type of a tensor in the file, as safetensors names it."""
    kinds = dict(signs='U64', exponent='I8', weight=_DTYPES[float_dtype])
    return kinds.get(_role(name), 'F32')


def _rounded(name: str, array: np.ndarray, float_dtype: str) -> np.ndarray:
    """Rounds a weight to a float type; refuses what overflows."""
    dtype = _TORCH_DTYPES[_DTYPES[float_dtype]]
    rounded = torch.from_numpy(array).to(dtype).float().numpy()
    if np.isfinite(array).all() and not np.isfinite(rounded).all():
        raise UnsupportedModelError(
            f'cannot pack {name}: {abs(array).max():.3g} is more than '
            f'{float_dtype} holds; take bf16 or fp32 as float_dtype'
        )
    return rounded


def write(packed: Packed, path: str | os.PathLike) -> None:
    """Checks a network and writes it to a packed file.

    Args:
        packed (Packed): The network.
        path (str | os.PathLike): The file.

    Raises:
        PackedFileError: If a field is invalid; names the field.
        OSError: If the file cannot be written.
    """
    format.check(packed)
    spec = dict(
        version=format.version_of(packed),
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
    digest = format.digest(text, deserialize(save(tensors)))
    write_atomic(path, save(tensors, {'mmirnet': text, 'sha256': digest}))
