"""Residual blocks of binary ResNets, and their shortcuts."""

import torch.nn.functional as F
from mmcv.cnn import build_activation_layer, build_conv_layer, build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class PadShortcut(nn.Module):
    """Shortcut without weights: option A of the ResNet paper.

    Takes every ``stride``-th pixel and pads the channels with zeros, half of them
    on either side.

    Args:
        in_channels (int): Channels that come in.
        out_channels (int): Channels that go out, at least as many.
        stride (int): Step between the pixels taken.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.front = (out_channels - in_channels) // 2
        self.back = out_channels - in_channels - self.front

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in, H, W) to (N, out, H/stride, W/stride)."""
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.front, self.back))


def conv_shortcut(
    in_channels: int,
    out_channels: int,
    stride: int,
    conv_cfg: dict | None,
    norm_cfg: dict,
) -> nn.Sequential:
    """Shortcut of a 1x1 convolution and a norm: option B of the ResNet paper."""
    conv = build_conv_layer(
        conv_cfg, in_channels, out_channels, 1, stride=stride, bias=False
    )
    return nn.Sequential(conv, build_norm_layer(norm_cfg, out_channels)[1])


class _Block(BaseModule):
    """Two 3x3 convolutions with norms, an activation and a shortcut.

    Args:
        in_channels (int): Channels that come in.
        out_channels (int): Channels that go out.
        stride (int): Stride of the first convolution.
        downsample (nn.Module | None): The shortcut where the shape changes.
        conv_cfg (dict | None): Convolution layer.
        norm_cfg (dict): Norm layer.
        act_cfg (dict): Activation.
        with_cp (bool): Keep only the block's input for the backward pass, and
            compute the block again there.
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
        act_cfg: dict,
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
        self.act = build_activation_layer(act_cfg)
        self.downsample = downsample

    @property
    def norm1(self) -> nn.Module:
        """The norm after the first convolution."""
        return getattr(self, self.norm1_name)

    @property
    def norm2(self) -> nn.Module:
        """The norm after the second convolution."""
        return getattr(self, self.norm2_name)

    def shortcut(self, x: Tensor) -> Tensor:
        """The input, in the shape of the output."""
        return x if self.downsample is None else self.downsample(x)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in, H, W) to (N, out, H/stride, W/stride)."""
        if self.with_cp and x.requires_grad:
            return checkpoint(self._forward, x, use_reentrant=False)
        return self._forward(x)

    def _forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class NormalBlock(_Block):
    """ResNet's basic block: one shortcut around two convolutions."""

    def _forward(self, x: Tensor) -> Tensor:
        out = self.act(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        return self.act(out + self.shortcut(x))


class BiRealBlock(_Block):
    """Bi-Real Net's block: a shortcut around each convolution.

    Liu et al., `Bi-Real Net <https://arxiv.org/abs/1808.00278>`_, ECCV 2018.
    """

    def _forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm1(self.conv1(x)) + self.shortcut(x))
        return self.act(self.norm2(self.conv2(x)) + x)


#: What a backbone's ``structure`` may be.
STRUCTURES = {'bireal': BiRealBlock, 'normal': NormalBlock}


def make_stage(
    structure: str,
    num_blocks: int,
    in_channels: int,
    out_channels: int,
    downsample: nn.Module | None,
    **block_args,
) -> nn.Sequential:
    """Blocks of one width; with a downsample, the first halves the resolution.

    Args:
        structure (str): A key of :data:`STRUCTURES`.
        num_blocks (int): Number of blocks.
        in_channels (int): Channels that come in.
        out_channels (int): Channels of every block.
        downsample (nn.Module | None): Shortcut of the first block, stride 2.
        **block_args: conv_cfg, norm_cfg, act_cfg, with_cp of the blocks.

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
