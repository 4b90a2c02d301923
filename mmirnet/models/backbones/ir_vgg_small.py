"""IR-Net's VGG-Small (section 4 of the paper)."""

from collections.abc import Sequence

from mmcv.cnn import build_conv_layer, build_norm_layer
from mmengine.model import BaseModule
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ..blocks import build_activation, recomputed
from .staged import StagedBackbone


class _ConvBlock(BaseModule):
    """3x3 convolution, optional 2x2 max-pooling, norm, activation."""

    def __init__(
        self, in_channels, out_channels, pool, conv_cfg, norm_cfg, act_cfg, with_cp
    ) -> None:
        super().__init__()
        self.with_cp = with_cp
        self.conv = build_conv_layer(
            conv_cfg, in_channels, out_channels, 3, padding=1, bias=False
        )
        # The released code pools before the norm.
        self.pool = nn.MaxPool2d(2) if pool else nn.Identity()
        self.norm_name, norm = build_norm_layer(norm_cfg, out_channels)
        self.add_module(self.norm_name, norm)
        self.act = build_activation(act_cfg, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, in, H, W) to (N, out, H, W), or to half of H and W if it pools."""
        if self.with_cp and x.requires_grad:
            return recomputed(self, self._forward, x)
        return self._forward(x)

    def _forward(self, x: Tensor) -> Tensor:
        return self.act(getattr(self, self.norm_name)(self.pool(self.conv(x))))


@MODELS.register_module()
class IRVGGSmall(StagedBackbone):
    """VGG-Small with binary convolutions behind the first.

    ====== ======================================= ======== ======
    part   layers                                  channels stride
    ====== ======================================= ======== ======
    stem   3x3 conv (FP), BN, act                  128      1
    layer1 3x3 conv, pool, BN, act                 128      2
    layer2 3x3 conv, BN, act; conv, pool, BN, act  256      4
    layer3 3x3 conv, BN, act; conv, pool, BN, act  512      8
    ====== ======================================= ======== ======

    For images of 32x32 the output is 512x4x4. ``FlattenNeck`` and a linear head with
    8192 inputs classify it.

    Args:
        in_channels (int): Channels of the image.
        conv_cfg (dict | None): Config of the convolutions after the stem. None means
            full precision.
        norm_cfg (dict): Config of the norms.
        act_cfg (dict | None): Config of the activations; None leaves them out. For
            PReLU, ``num_parameters`` other than 1 means one slope per channel. RPReLU
            and Maxout have one number per channel unless ``num_parameters`` is 1.
        out_indices (Sequence[int]): Stages to return, 0 to 2.
        frozen_stages (int): Stem and stages up to this one are frozen.
        norm_eval (bool): Whether to freeze the statistics of all batch norms.
        with_cp (bool): Whether to use gradient checkpointing.
        init_cfg (dict | list[dict] | None): Initialisation. By default convolutions are
            normal with variance 2 / (kh kw out).

    Raises:
        ValueError: If ``out_indices`` or ``frozen_stages`` is out of range.

    Example:
        >>> import torch
        >>> [tuple(f.shape) for f in IRVGGSmall()(torch.randn(1, 3, 32, 32))]
        [(1, 512, 4, 4)]
    """

    stages = ((128,), (256, 256), (512, 512))

    def __init__(
        self,
        in_channels: int = 3,
        conv_cfg: dict | None = dict(type='IRConv2d'),
        norm_cfg: dict = dict(type='BN'),
        act_cfg: dict | None = dict(type='Hardtanh', inplace=True),
        out_indices: Sequence[int] = (2,),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = dict(type='Kaiming', layer='Conv2d'),
    ) -> None:
        super().__init__(out_indices, frozen_stages, norm_eval, init_cfg)
        width = 128
        self.conv0 = _ConvBlock(
            in_channels, width, False, None, norm_cfg, act_cfg, with_cp
        )
        stages = []
        for channels in self.stages:
            stage = []
            for j, out_channels in enumerate(channels):
                pool = j == len(channels) - 1
                stage.append(
                    _ConvBlock(
                        width, out_channels, pool, conv_cfg, norm_cfg, act_cfg, with_cp
                    )
                )
                width = out_channels
            stages.append(nn.Sequential(*stage))
        self.add_stages(stages)

    def stem_modules(self) -> list[nn.Module]:
        """Returns the block of the first convolution."""
        return [self.conv0]

    def stem(self, x: Tensor) -> Tensor:
        """Maps (N, 3, H, W) to (N, 128, H, W)."""
        return self.conv0(x)
