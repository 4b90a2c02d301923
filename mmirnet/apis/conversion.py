"""Converts checkpoints of IR-Net's released code (2020).

The layers are the same under other names, and the weights do not change. One operation
differs: sign(0) is +1 here and 0 in the released code, for weights and activations.
Exact zeros are rare in trained networks.
"""

import io
import os
import re
from typing import NamedTuple

import torch
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from torch import Tensor

from ..engine.checkpoint import load_checkpoint_file, sealed
from ..engine.config import load_config
from ..errors import CheckpointError, check_choice
from ..files import check_writable, write_atomic

_HEAD = ((r'bn2\.', 'head.bn.'), (r'(linear|fc)\.', 'head.fc.'))
_STEM = ((r'conv1\.', 'backbone.conv1.'), (r'bn1\.', 'backbone.bn1.'))
_BLOCKS = (
    (r'(layer\d\.\d+\.(conv|bn)[12]\.)', r'backbone.\1'),
    (r'(layer\d\.0\.)(shortcut|downsample)\.([01]\.)', r'backbone.\1downsample.\3'),
)
_VGG = tuple(
    (rf'{layer}{i}\.', f'backbone.{block}.{layer}.')
    for layer in ('conv', 'bn')
    for i, block in enumerate(
        ('conv0', 'layer1.0', 'layer2.0', 'layer2.1', 'layer3.0', 'layer3.1')
    )
)


class _Architecture(NamedTuple):
    model: str  # its config in configs/_base_/models
    names: tuple[tuple[str, str], ...]  # pattern of the released name, and our name
    unused: str | None = None  # pattern of names that are not used


#: Values of ``arch``. Structure and W/A bits do not change the names of weights.
ARCHITECTURES = {
    'resnet20': _Architecture('resnet20_cifar', _STEM + _BLOCKS + _HEAD),
    'resnet18-cifar': _Architecture('resnet18_cifar', _STEM + _BLOCKS + _HEAD),
    'resnet18': _Architecture('resnet18', _STEM + _BLOCKS + _HEAD, r'bn3\.'),
    'resnet34': _Architecture('resnet34', _STEM + _BLOCKS + _HEAD, r'bn3\.'),
    'vgg-small': _Architecture('vgg-small_cifar', (*_VGG, _HEAD[1])),
}


def _renamed(name: str, names: tuple[tuple[str, str], ...]) -> str | None:
    for theirs, ours in names:
        if match := re.match(theirs, name):
            return match.expand(ours) + name[match.end() :]
    return None


def _weights(checkpoint: dict, arch: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Returns the network's tensors without prefix, and the rest with the reason."""
    weights = checkpoint.get('state_dict', checkpoint)
    dropped = {}
    if weights is not checkpoint:
        dropped = {n: 'of the training' for n in checkpoint if n != 'state_dict'}
    weights = {name.removeprefix('module.'): w for name, w in weights.items()}
    if unused := ARCHITECTURES[arch].unused:
        reason = 'built and never used by the released code'
        dropped |= {name: reason for name in weights if re.match(unused, name)}
    return {n: w for n, w in weights.items() if n not in dropped}, dropped


def _expected(arch: str, classes: int) -> dict[str, torch.Size]:
    cfg = load_config(
        f'mmirnet::_base_/models/{ARCHITECTURES[arch].model}.py', None, 'none'
    )
    init_default_scope('mmpretrain')
    cfg.model.head.num_classes = classes
    cfg.model.head.topk = (1,)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _difference(weights: dict[str, Tensor], arch: str) -> str | None:
    """Describes the first difference from an architecture; None if there is none."""
    if no_tensor := [n for n, w in weights.items() if not isinstance(w, Tensor)]:
        return f'{no_tensor[0]} is no tensor'
    names = {name: _renamed(name, ARCHITECTURES[arch].names) for name in weights}
    for name, ours in names.items():
        if ours is None:
            return f'{name} has no place in it'
    bias = next((t for n, t in weights.items() if names[n] == 'head.fc.bias'), None)
    if bias is None:
        return 'the classifier (linear or fc) is missing'
    expected = _expected(arch, len(bias))
    for name, ours in names.items():
        if ours not in expected:
            return f'{name} has no place in it'
        if weights[name].shape != expected[ours]:
            return (
                f'{name} has shape {tuple(weights[name].shape)}, not '
                f'{tuple(expected[ours])}'
            )
    if missing := expected.keys() - names.values():
        return f'{min(missing)} is missing'
    if len(names) > len(expected):
        return 'it has two classifiers, linear and fc'
    return None


def convert_state_dict(
    checkpoint: dict, arch: str
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Renames the weights of the released code to the names of this package.

    Args:
        checkpoint (dict): A state dict, or a dict with one under ``state_dict``. Names
            may start with DataParallel's ``module.``.
        arch (str): A key of :data:`ARCHITECTURES`.

    Returns:
        tuple[dict[str, Tensor], dict[str, str]]: State dict of an MMPretrain
        classifier, and the dropped tensors with the reason.

    Raises:
        ValueError: If the architecture is unknown, or if a tensor is missing,
            unexpected or of another shape. Names the architecture that fits, if any.

    Example:
        >>> try:
        ...     convert_state_dict({'bn1.weight': torch.zeros(16)}, 'resnet20')
        ... except ValueError as error:
        ...     print(error)
        not a resnet20: the classifier (linear or fc) is missing
    """
    check_choice('arch', arch, ARCHITECTURES)
    weights, dropped = _weights(checkpoint, arch)
    if any(name.startswith('backbone.') for name in weights):
        raise CheckpointError(
            'it has the names of this package already, and needs no conversion'
        )
    if why := _difference(weights, arch):
        for other in ARCHITECTURES:
            if not _difference(_weights(checkpoint, other)[0], other):
                raise CheckpointError(f'looks like {other}, not {arch}: {why}')
        raise CheckpointError(f'not a {arch}: {why}')
    names = ARCHITECTURES[arch].names
    return {_renamed(n, names): t for n, t in weights.items()}, dropped


def convert(src: str | os.PathLike, dst: str | os.PathLike, arch: str) -> str:
    """Converts a checkpoint file of the released code.

    Args:
        src (str | os.PathLike): Checkpoint of the released code. Files that contain
            more than data are refused.
        dst (str | os.PathLike): Checkpoint to write, for ``tools/test.py`` and others.
        arch (str): A key of :data:`ARCHITECTURES`.

    Returns:
        str: A report with the number of converted tensors, and the dropped ones with
        the reason.

    Raises:
        ValueError: As for :func:`convert_state_dict`, or if the file is damaged.
        FileNotFoundError: If the file does not exist.

    Example:
        >>> convert('model_best.pth', 'resnet20.pth', 'resnet20')  # doctest: +SKIP
    """
    check_writable(dst, src)
    checkpoint = load_checkpoint_file(str(src), map_location='cpu')
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f'{src} holds no state dict')
    try:
        state, dropped = convert_state_dict(checkpoint, arch)
    except ValueError as error:
        raise CheckpointError(f'{src}: {error}') from None
    buffer = io.BytesIO()
    torch.save({'state_dict': state, 'meta': {}}, buffer)
    write_atomic(dst, sealed(buffer.getvalue()))
    lines = [f'{dst}: {len(state)} tensors of a {arch}']
    lines += [f'dropped {name}: {reason}' for name, reason in dropped.items()]
    return '\n'.join(lines)
