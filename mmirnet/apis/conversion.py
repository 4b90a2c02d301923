"""Converts checkpoints of the released code of IR-Net, AdaBin and ReActNet.

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
_ADABIN = (
    (r'nonlinear1\.pos_scale$', 'backbone.act.positive'),
    (r'nonlinear1\.neg_scale$', 'backbone.act.negative'),
    (r'(layer\d\.\d\.)nonlinear([12])\.pos_scale$', r'backbone.\1act\2.positive'),
    (r'(layer\d\.\d\.)nonlinear([12])\.neg_scale$', r'backbone.\1act\2.negative'),
    (r'(layer\d\.\d\.conv[12]\.)binary_a\.((alpha|beta)_a)$', r'backbone.\1\2'),
)


def _reactnet(block: int) -> tuple[tuple[str, str], ...]:
    """Returns the names in a block of the released ReActNet, half of one of ours."""
    theirs, ours = rf'(layer\d)\.{block}\.', rf'backbone.\1.{block // 2}.'
    half = block % 2 + 1
    return (
        (rf'{theirs}move0\.bias$', rf'{ours}conv{half}.shift'),
        (rf'{theirs}binary_conv\.weights?$', rf'{ours}conv{half}.weight'),
        (rf'{theirs}bn1\.', rf'{ours}bn{half}.'),
        (rf'{theirs}move1\.bias$', rf'{ours}act{half}.shift_in'),
        (rf'{theirs}prelu\.weight$', rf'{ours}act{half}.weight'),
        (rf'{theirs}move2\.bias$', rf'{ours}act{half}.shift_out'),
    )


_REACTNET = (
    *(pair for block in range(4) for pair in _reactnet(block)),
    (r'(layer\d\.0\.downsample\.[12]\.)', r'backbone.\1'),
    (r'fc\.', 'head.fc.'),
)


class _Architecture(NamedTuple):
    model: str  # a config in configs/_base_/models
    names: tuple[tuple[str, str], ...]  # pattern of the released name, and our name
    unused: str | None = None  # pattern of names that are not used
    changes: dict[str, dict] = {}  # to the config, by part of the model
    # Pattern of names whose tensors may be columns, or have dimensions of length 1.
    reshaped: str | None = None


#: Values of ``arch``. Structure and W/A bits do not change the names of weights.
ARCHITECTURES = {
    'resnet20': _Architecture('resnet20_cifar', _STEM + _BLOCKS + _HEAD),
    'resnet18-cifar': _Architecture('resnet18_cifar', _STEM + _BLOCKS + _HEAD),
    'resnet18': _Architecture('resnet18', _STEM + _BLOCKS + _HEAD, r'bn3\.'),
    'resnet34': _Architecture('resnet34', _STEM + _BLOCKS + _HEAD, r'bn3\.'),
    'vgg-small': _Architecture('vgg-small_cifar', (*_VGG, _HEAD[1])),
    'adabin-resnet20': _Architecture(
        'resnet20_cifar',
        _ADABIN + _STEM + _BLOCKS + _HEAD,
        changes=dict(
            backbone=dict(
                conv_cfg=dict(type='AdaBinConv2d'), act_cfg=dict(type='Maxout')
            )
        ),
        reshaped=r'.*(pos_scale|neg_scale|alpha_a|beta_a)$',
    ),
    'reactnet-resnet18': _Architecture(
        'resnet18',
        _STEM + _REACTNET,
        changes=dict(
            backbone=dict(
                conv_cfg=dict(type='ReActConv2d'),
                act_cfg=dict(type='RPReLU'),
                shortcut='avg_conv',
                stem_act=False,
            ),
            head=dict(type='LinearClsHead'),
        ),
        reshaped=r'.*(move\d\.bias|prelu\.weight|binary_conv\.weights?)$',
    ),
}


def _renamed(name: str, names: tuple[tuple[str, str], ...]) -> str | None:
    for theirs, ours in names:
        if match := re.match(theirs, name):
            return match.expand(ours) + name[match.end() :]
    return None


def _weights(checkpoint: dict, arch: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Returns the network's tensors without prefix, and the rest with the reason."""
    weights = checkpoint.get('state_dict', checkpoint)
    if not isinstance(weights, dict) or not all(isinstance(n, str) for n in weights):
        raise CheckpointError('it holds no state dict')
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
    for part, changes in ARCHITECTURES[arch].changes.items():
        cfg.model[part].update(changes)
    cfg.model.head.num_classes = classes
    cfg.model.head.topk = (1,)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _fitted(name: str, tensor: Tensor, shape: torch.Size, arch: str) -> Tensor | None:
    """Returns a tensor in the shape that it has here; None if it does not fit."""
    if tensor.shape == shape:
        return tensor
    reshaped = ARCHITECTURES[arch].reshaped
    if not reshaped or not re.match(reshaped, name) or tensor.numel() != shape.numel():
        return None
    # One number per channel, or a filter bank as a column.
    is_vector = len(shape) == 1 and max(tensor.shape, default=1) == tensor.numel()
    is_column = tensor.shape == (tensor.numel(), 1)
    return tensor.reshape(shape) if is_vector or is_column else None


def _converted(weights: dict[str, Tensor], arch: str) -> dict[str, Tensor]:
    """Renames the tensors; the error is the first difference from the architecture."""
    if no_tensor := [n for n, w in weights.items() if not isinstance(w, Tensor)]:
        raise CheckpointError(f'{no_tensor[0]} is no tensor')
    names = {name: _renamed(name, ARCHITECTURES[arch].names) for name in weights}
    for name, ours in names.items():
        if ours is None:
            raise CheckpointError(f'{name} has no place in it')
    bias = next((t for n, t in weights.items() if names[n] == 'head.fc.bias'), None)
    if bias is None:
        raise CheckpointError('the classifier (linear or fc) is missing')
    if bias.dim() != 1:
        raise CheckpointError(f'the classifier has a bias of shape {tuple(bias.shape)}')
    expected = _expected(arch, len(bias))
    state: dict[str, Tensor] = {}
    for name, ours in names.items():
        if ours not in expected:
            raise CheckpointError(f'{name} has no place in it')
        tensor = _fitted(name, weights[name], expected[ours], arch)
        if tensor is None:
            raise CheckpointError(
                f'{name} has shape {tuple(weights[name].shape)}, not '
                f'{tuple(expected[ours])}'
            )
        if ours in state:
            twice = 'two classifiers, linear and fc'
            if not ours.startswith('head.'):
                twice = ' and '.join(n for n, place in names.items() if place == ours)
                twice += ', which are one tensor'
            raise CheckpointError(f'it has {twice}')
        state[ours] = tensor
    if missing := expected.keys() - state.keys():
        raise CheckpointError(f'{min(missing)} is missing')
    return state


def _fits(checkpoint: dict, arch: str) -> bool:
    try:
        _converted(_weights(checkpoint, arch)[0], arch)
    except CheckpointError:
        return False
    return True


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
    try:
        return _converted(weights, arch), dropped
    except CheckpointError as error:
        why = error
    fitting = [other for other in ARCHITECTURES if _fits(checkpoint, other)]
    if fitting:
        raise CheckpointError(f'looks like {fitting[0]}, not {arch}: {why}')
    raise CheckpointError(f'not a {arch}: {why}')


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
