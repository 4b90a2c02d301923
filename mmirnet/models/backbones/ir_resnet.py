"""IR-Net's ResNets for ImageNet (section 4 of the paper)."""

from collections.abc import Sequence

from mmcv.cnn import build_conv_layer, build_norm_layer
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ...errors import check_choice
from ..blocks import STRUCTURES, build_activation, check_shortcut, make_stages
from .staged import StagedBackbone


@MODELS.register_module()
class IRResNet(StagedBackbone):
    """ResNet-18 and -34 with binary 3x3 convolutions.

    ========== ====== ==================================== ======== ======
    part       blocks layers                               channels stride
    ========== ====== ==================================== ======== ======
    stem              7x7/2 conv (FP), BN, act, 3x3/2 pool 64       4
    layer1     2 | 3  3x3 binary convs                     64       4
    layer2     2 | 4  3x3 binary convs                     128      8
    layer3     2 | 6  3x3 binary convs                     256      16
    layer4     2 | 3  3x3 binary convs                     512      32
    ========== ====== ==================================== ======== ======

    The stem stays in full precision, and so do the 1x1 shortcuts unless
    ``downsample_conv_cfg`` is set. For W/A bits 1/32, set
    ``conv_cfg=dict(type='IRConv2d', binarize_input=False)``,
    ``structure='normal'`` and ReLU.

    Args:
        depth (int): 18 or 34.
        structure (str): 'bireal', a shortcut around each convolution, or
            'normal', one around two.
        in_channels (int): Channels of the image.
        conv_cfg (dict | None): Config of the 3x3 convolutions after the stem. None
            means full precision.
        downsample_conv_cfg (dict | None): Config of the 1x1 convolutions in shortcuts.
            None means full precision, as in the released code.
        norm_cfg (dict): Config of the norms.
        act_cfg (dict | None): Config of the activations; None leaves them out. For
            PReLU, ``num_parameters`` other than 1 means one slope per channel. RPReLU
            and Maxout have one number per channel unless ``num_parameters`` is 1.
        out_indices (Sequence[int]): Stages to return, 0 to 3.
        frozen_stages (int): Stem and stages up to this one are frozen.
        norm_eval (bool): Whether to freeze the statistics of all batch norms.
        with_cp (bool): Whether to use gradient checkpointing.
        init_cfg (dict | list[dict] | None): Initialisation. By default convolutions are
            normal with variance 2 / (kh kw out).
        shortcut (str | None): 'pad', 'conv', 'avg_pad' or 'avg_conv', see
            :func:`~mmirnet.models.blocks.build_shortcut`. None means 'conv'.
        stem_act (bool): Whether the stem has an activation. The released ReActNet has
            none.

    Raises:
        ValueError: If ``depth``, ``structure``, ``shortcut``, ``out_indices`` or
            ``frozen_stages`` is out of range, or ``downsample_conv_cfg`` is given
            for a shortcut without convolution.

    Example:
        >>> import torch
        >>> net = IRResNet(depth=18, out_indices=(0, 3))
        >>> [tuple(f.shape) for f in net(torch.randn(1, 3, 64, 64))]
        [(1, 64, 16, 16), (1, 512, 2, 2)]
    """

    blocks = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
    channels = (64, 128, 256, 512)

    def __init__(
        self,
        depth: int,
        structure: str = 'bireal',
        in_channels: int = 3,
        conv_cfg: dict | None = dict(type='IRConv2d'),
        downsample_conv_cfg: dict | None = None,
        norm_cfg: dict = dict(type='BN'),
        act_cfg: dict | None = dict(type='Hardtanh', inplace=True),
        out_indices: Sequence[int] = (3,),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = dict(type='Kaiming', layer='Conv2d'),
        shortcut: str | None = None,
        stem_act: bool = True,
    ) -> None:
        super().__init__(out_indices, frozen_stages, norm_eval, init_cfg)
        check_choice('depth', depth, self.blocks)
        check_choice('structure', structure, STRUCTURES)
        shortcut = 'conv' if shortcut is None else shortcut
        check_shortcut(depth, shortcut, downsample_conv_cfg)
        width = self.channels[0]
        self.conv1 = build_conv_layer(
            None, in_channels, width, 7, stride=2, padding=3, bias=False
        )
        self.norm1_name, norm1 = build_norm_layer(norm_cfg, width, postfix=1)
        self.add_module(self.norm1_name, norm1)
        self.act = build_activation(act_cfg, width) if stem_act else nn.Identity()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.add_stages(
            make_stages(
                structure,
                self.blocks[depth],
                self.channels,
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
        """Maps (N, 3, H, W) to (N, 64, H/4, W/4)."""
        return self.maxpool(self.act(getattr(self, self.norm1_name)(self.conv1(x))))
