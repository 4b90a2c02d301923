"""Residual blocks and shortcuts of binary ResNets."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from mmcv.cnn import build_activation_layer, build_conv_layer, build_norm_layer
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from ..errors import ConfigError, check_choice
from ..registry import find_class
from .activations import ChannelActivation


def build_activation(act_cfg: dict | None, channels: int) -> nn.Module:
    """Builds an activation.

    Each activation is a separate module, because a shared PReLU would share weights.

    Args:
        act_cfg (dict | None): Config of the activation; None means no activation. For
            PReLU, ``num_parameters`` other than 1 means one slope per channel, whatever
            the number. RPReLU and Maxout have one number per channel unless
            ``num_parameters`` is 1.
        channels (int): Number of channels.

    Returns:
        nn.Module: The activation.

    Example:
        >>> build_activation(dict(type='PReLU', num_parameters=64), 128)
        PReLU(num_parameters=128)
    """
    if act_cfg is None:
        return nn.Identity()
    number = act_cfg.get('num_parameters', _default_number(act_cfg))
    integer = isinstance(number, int) and not isinstance(number, bool)
    if number is not None and not (integer and number > 0):
        raise ConfigError(
            f'act_cfg.num_parameters must be a positive integer, got {number!r}'
        )
    if number != 1:
        act_cfg = {**act_cfg, 'num_parameters': channels}
    return build_activation_layer(act_cfg)


def _default_number(act_cfg: dict) -> int | None:
    """Returns ``num_parameters`` of a config without it; None: one per channel."""
    kind = find_class(MODELS, act_cfg.get('type', ''))
    per_channel = isinstance(kind, type) and issubclass(kind, ChannelActivation)
    return None if per_channel else 1


def recomputed(module: nn.Module, forward: Callable, x: Tensor) -> Tensor:
    """Saves only x for the backward pass, which computes the module again.

    Args:
        module (nn.Module): The module. Its batch norms count each batch once.
        forward (Callable): The function to compute.
        x (Tensor): Its input.

    Returns:
        Tensor: ``forward(x)``.
    """
    options = {}
    if not torch.compiler.is_compiling():  # compilation does not support the context
        options['context_fn'] = lambda: (
            contextlib.nullcontext(),
            _kept_statistics(module),
        )
    return checkpoint(forward, x, use_reentrant=False, **options)


@contextlib.contextmanager
def _kept_statistics(module: nn.Module) -> Iterator[None]:
    norms = [
        (norm, norm.momentum, norm.num_batches_tracked.clone())
        for norm in module.modules()
        if isinstance(norm, _BatchNorm) and norm.training and norm.track_running_stats
    ]
    for norm, _, _ in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, batches in norms:
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(batches)


class PadShortcut(nn.Module):
    """Shortcut without weights (option A of the ResNet paper).

    It takes every ``stride``-th pixel and pads the channels with zeros, half of them
    on either side.

    Args:
        in_channels (int): Number of input channels.
        out_channels (int): Number of output channels, at least ``in_channels``.
        stride (int): Stride.

    Raises:
        ValueError: If there are fewer output channels than input channels.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        if out_channels < in_channels:
            raise ConfigError(
                f'PadShortcut adds channels, and {in_channels} cannot become '
                f'{out_channels}'
            )
        self.stride = stride
        self.front = (out_channels - in_channels) // 2
        self.back = out_channels - in_channels - self.front

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, in, H, W) to (N, out, H/stride, W/stride)."""
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.front, self.back))


def conv_shortcut(
    in_channels: int,
    out_channels: int,
    stride: int,
    conv_cfg: dict | None,
    norm_cfg: dict,
) -> nn.Sequential:
    """Builds a shortcut of 1x1 convolution and norm (option B of the ResNet paper)."""
    conv = build_conv_layer(
        conv_cfg, in_channels, out_channels, 1, stride=stride, bias=False
    )
    return nn.Sequential(conv, build_norm_layer(norm_cfg, out_channels)[1])


#: Values of a backbone's ``shortcut``: what changes the shape where a stage begins.
SHORTCUTS = ('pad', 'conv', 'avg_pad', 'avg_conv')


def check_shortcut(depth: int, shortcut: str, downsample_conv_cfg: dict | None) -> None:
    """Checks a backbone's ``shortcut``.

    Args:
        depth (int): Depth of the backbone.
        shortcut (str): Given or default value.
        downsample_conv_cfg (dict | None): Config of its convolution.

    Raises:
        ConfigError: If the value is unknown, or has no convolution to configure.
    """
    check_choice('shortcut', shortcut, SHORTCUTS)
    if downsample_conv_cfg is not None and shortcut.endswith('pad'):
        raise ConfigError(
            f'downsample_conv_cfg: the shortcuts of ResNet-{depth} have no convolution '
            f"(shortcut='{shortcut}'); leave it out, or set shortcut='conv' or "
            "'avg_conv'"
        )


def build_shortcut(
    shortcut: str,
    in_channels: int,
    out_channels: int,
    conv_cfg: dict | None,
    norm_cfg: dict,
) -> nn.Module:
    """Builds a shortcut that halves the resolution.

    ========== ============================================ ==================
    shortcut   layers                                       source
    ========== ============================================ ==================
    'pad'      every second pixel, channels of zeros        ResNet, option A
    'conv'     1x1 convolution with stride 2, norm          ResNet, option B
    'avg_pad'  2x2 average pooling, channels of zeros       ReCU
    'avg_conv' 2x2 average pooling, 1x1 convolution, norm   ReActNet
    ========== ============================================ ==================

    Where the number of pixels is odd, the last window is the mean of the pixels in it.

    Args:
        shortcut (str): A value of :data:`SHORTCUTS`.
        in_channels (int): Number of input channels.
        out_channels (int): Number of output channels.
        conv_cfg (dict | None): Config of the convolution.
        norm_cfg (dict): Config of the norm.

    Returns:
        nn.Module: The shortcut.

    Example:
        >>> x = torch.zeros(1, 16, 7, 6)
        >>> build_shortcut('avg_pad', 16, 32, None, dict(type='BN'))(x).shape
        torch.Size([1, 32, 4, 3])
    """
    if shortcut == 'pad':
        return PadShortcut(in_channels, out_channels, 2)
    if shortcut == 'conv':
        return conv_shortcut(in_channels, out_channels, 2, conv_cfg, norm_cfg)
    pool = nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False)
    if shortcut == 'avg_pad':
        return nn.Sequential(pool, PadShortcut(in_channels, out_channels, 1))
    convolution = conv_shortcut(in_channels, out_channels, 1, conv_cfg, norm_cfg)
    return nn.Sequential(pool, *convolution)


class _Block(BaseModule):
    """Two 3x3 convolutions with norms, an activation and a shortcut.

    Args:
        in_channels (int): Number of input channels.
        out_channels (int): Number of output channels.
        stride (int): Stride of the first convolution.
        downsample (nn.Module | None): Shortcut if the shape changes.
        conv_cfg (dict | None): Config of the convolutions.
        norm_cfg (dict): Config of the norms.
        act_cfg (dict | None): Config of the activations; None leaves them out.
        with_cp (bool): Whether to use gradient checkpointing: the block saves only its
            input and is computed again in the backward pass.
        init_cfg (dict | None): Initialisation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        downsample: nn.Module | None,
        conv_cfg: dict | None,
        norm_cfg: dict,
        act_cfg: dict | None,
        with_cp: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.with_cp = with_cp
        self.conv1 = build_conv_layer(
            conv_cfg, in_channels, out_channels, 3, stride, padding=1, bias=False
        )
        self.norm1_name, norm1 = build_norm_layer(norm_cfg, out_channels, postfix=1)
        self.add_module(self.norm1_name, norm1)
        self.conv2 = build_conv_layer(
            conv_cfg, out_channels, out_channels, 3, padding=1, bias=False
        )
        self.norm2_name, norm2 = build_norm_layer(norm_cfg, out_channels, postfix=2)
        self.add_module(self.norm2_name, norm2)
        self.act1 = build_activation(act_cfg, out_channels)
        self.act2 = build_activation(act_cfg, out_channels)
        self.downsample = downsample

    @property
    def norm1(self) -> nn.Module:
        """Returns the norm after the first convolution."""
        return getattr(self, self.norm1_name)

    @property
    def norm2(self) -> nn.Module:
        """Returns the norm after the second convolution."""
        return getattr(self, self.norm2_name)

    def shortcut(self, x: Tensor) -> Tensor:
        """Returns the input with the shape of the output."""
        return x if self.downsample is None else self.downsample(x)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, in, H, W) to (N, out, H/stride, W/stride)."""
        if self.with_cp and x.requires_grad:
            return recomputed(self, self._forward, x)
        return self._forward(x)

    def _forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class NormalBlock(_Block):
    """ResNet's basic block: one shortcut around two convolutions."""

    def _forward(self, x: Tensor) -> Tensor:
        out = self.act1(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        return self.act2(out + self.shortcut(x))


class BiRealBlock(_Block):
    """Bi-Real Net's block: a shortcut around each convolution.

    Liu et al., `Bi-Real Net <https://arxiv.org/abs/1808.00278>`_, ECCV 2018.
    """

    def _forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.norm1(self.conv1(x)) + self.shortcut(x))
        return self.act2(self.norm2(self.conv2(x)) + x)


#: Values of a backbone's ``structure``.
STRUCTURES = {'bireal': BiRealBlock, 'normal': NormalBlock}


def make_stage(
    structure: str,
    num_blocks: int,
    in_channels: int,
    out_channels: int,
    downsample: nn.Module | None,
    **block_args,
) -> nn.Sequential:
    """Builds blocks of one width. With a downsample, the first halves the resolution.

    Args:
        structure (str): A key of :data:`STRUCTURES`.
        num_blocks (int): Number of blocks.
        in_channels (int): Number of input channels.
        out_channels (int): Number of channels of every block.
        downsample (nn.Module | None): Shortcut of the first block, with stride 2.
        **block_args: conv_cfg, norm_cfg, act_cfg and with_cp of the blocks.

    Returns:
        nn.Sequential: The stage.
    """
    block = STRUCTURES[structure]
    stride = 1 if downsample is None else 2
    first = block(in_channels, out_channels, stride, downsample, **block_args)
    rest = [
        block(out_channels, out_channels, 1, None, **block_args)
        for _ in range(num_blocks - 1)
    ]
    return nn.Sequential(first, *rest)


def make_stages(
    structure: str,
    num_blocks: Sequence[int],
    channels: Sequence[int],
    shortcut: str,
    downsample_conv_cfg: dict | None,
    norm_cfg: dict,
    **block_args,
) -> list[nn.Sequential]:
    """Builds the stages of a ResNet, of which each after the first halves the image.

    Args:
        structure (str): A key of :data:`STRUCTURES`.
        num_blocks (Sequence[int]): Number of blocks of each stage.
        channels (Sequence[int]): Channels of each stage; the first has as many inputs.
        shortcut (str): A value of :data:`SHORTCUTS`, see :func:`build_shortcut`.
        downsample_conv_cfg (dict | None): Config of the convolutions in shortcuts.
        norm_cfg (dict): Config of the norms of blocks and shortcuts.
        **block_args: conv_cfg, act_cfg and with_cp of the blocks.

    Returns:
        list[nn.Sequential]: The stages.
    """
    stages, width = [], channels[0]
    for number, out_channels in zip(num_blocks, channels, strict=True):
        downsample = None
        if stages:
            downsample = build_shortcut(
                shortcut, width, out_channels, downsample_conv_cfg, norm_cfg
            )
        args = dict(block_args, norm_cfg=norm_cfg)
        stages.append(
            make_stage(structure, number, width, out_channels, downsample, **args)
        )
        width = out_channels
    return stages
