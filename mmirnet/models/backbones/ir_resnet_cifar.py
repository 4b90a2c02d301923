"""IR-Net's ResNets for images of 32x32 (section 4 of the paper)."""

from collections.abc import Sequence
from typing import NamedTuple

from mmcv.cnn import build_conv_layer, build_norm_layer
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ...errors import check_choice
from ..blocks import STRUCTURES, build_activation, check_shortcut, make_stages
from .staged import StagedBackbone


class _Arch(NamedTuple):
    blocks: int  # per stage
    channels: tuple[int, ...]
    shortcut: str  # unless given
    init_cfg: dict | None


@MODELS.register_module()
class IRResNet_CIFAR(StagedBackbone):
    """ResNet-20 and -18 with binary 3x3 convolutions.

    ====== ============================ ===================== ==================
    part   ResNet-20                    ResNet-18             stride
    ====== ============================ ===================== ==================
    stem   3x3 conv (FP), BN, act       3x3 conv (FP), BN     1
    stages 3 x 3 blocks of 16, 32, 64   4 x 2 blocks of 64,   1, 2, 4 (, 8)
           channels                     128, 256, 512
    short- pixels taken, channels       1x1 conv (FP), BN
    cuts   padded with zeros (A)        (B)
    ====== ============================ ===================== ==================

    Args:
        depth (int): 20 or 18.
        structure (str): 'bireal', a shortcut around each convolution, or
            'normal', one around two.
        in_channels (int): Channels of the image.
        conv_cfg (dict | None): Config of the 3x3 convolutions after the stem. None
            means full precision.
        downsample_conv_cfg (dict | None): Config of the 1x1 convolutions in shortcuts.
            None means full precision.
        norm_cfg (dict): Config of the norms.
        act_cfg (dict | None): Config of the activations; None leaves them out. For
            PReLU, ``num_parameters`` other than 1 means one slope per channel. RPReLU
            and Maxout have one number per channel unless ``num_parameters`` is 1.
        stem_act (bool): Whether the stem has an activation. The released ResNet-18 and
            ResNet-20 1/32 have none.
        out_indices (Sequence[int]): Stages to return.
        frozen_stages (int): Stem and stages up to this one are frozen.
        norm_eval (bool): Whether to freeze the statistics of all batch norms.
        with_cp (bool): Whether to use gradient checkpointing.
        init_cfg (dict | list[dict] | None): Initialisation. None means that of the
            released code: Kaiming normal (fan-in) for ResNet-20, torch's default for
            ResNet-18.
        shortcut (str | None): 'pad', 'conv', 'avg_pad' or 'avg_conv', see
            :func:`~mmirnet.models.blocks.build_shortcut`. None means 'pad' for
            ResNet-20 and 'conv' for ResNet-18.

    Raises:
        ValueError: If ``depth``, ``structure``, ``shortcut``, ``out_indices`` or
            ``frozen_stages`` is out of range, or ``downsample_conv_cfg`` is given
            for a shortcut without convolution.

    Example:
        >>> import torch
        >>> net = IRResNet_CIFAR(depth=20, out_indices=(0, 1, 2))
        >>> [tuple(f.shape) for f in net(torch.randn(1, 3, 32, 32))]
        [(1, 16, 32, 32), (1, 32, 16, 16), (1, 64, 8, 8)]
    """

    archs = {
        20: _Arch(
            3, (16, 32, 64), 'pad', dict(type='Kaiming', layer='Conv2d', mode='fan_in')
        ),
        18: _Arch(2, (64, 128, 256, 512), 'conv', None),
    }

    def __init__(
        self,
        depth: int,
        structure: str = 'bireal',
        in_channels: int = 3,
        conv_cfg: dict | None = dict(type='IRConv2d'),
        downsample_conv_cfg: dict | None = None,
        norm_cfg: dict = dict(type='BN'),
        act_cfg: dict | None = dict(type='Hardtanh', inplace=True),
        stem_act: bool = True,
        out_indices: Sequence[int] = (-1,),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
        shortcut: str | None = None,
    ) -> None:
        check_choice('depth', depth, self.archs)
        check_choice('structure', structure, STRUCTURES)
        arch = self.archs[depth]
        shortcut = arch.shortcut if shortcut is None else shortcut
        check_shortcut(depth, shortcut, downsample_conv_cfg)
        init_cfg = arch.init_cfg if init_cfg is None else init_cfg
        super().__init__(out_indices, frozen_stages, norm_eval, init_cfg)
        width = arch.channels[0]
        self.conv1 = build_conv_layer(
            None, in_channels, width, 3, padding=1, bias=False
        )
        self.norm1_name, norm1 = build_norm_layer(norm_cfg, width, postfix=1)
        self.add_module(self.norm1_name, norm1)
        self.act = build_activation(act_cfg, width) if stem_act else nn.Identity()
        self.add_stages(
            make_stages(
                structure,
                [arch.blocks] * len(arch.channels),
                arch.channels,
                shortcut,
                downsample_conv_cfg,
                norm_cfg,
                conv_cfg=conv_cfg,
                act_cfg=act_cfg,
                with_cp=with_cp,
            )
        )

    def stem_modules(self) -> list[nn.Module]:
        """Returns the first convolution, its norm and activation."""
        return [self.conv1, getattr(self, self.norm1_name), self.act]

    def stem(self, x: Tensor) -> Tensor:
        """Maps (N, 3, H, W) to (N, width, H, W)."""
        return self.act(getattr(self, self.norm1_name)(self.conv1(x)))
