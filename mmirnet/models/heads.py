"""Neck and head of IR-Net's classifiers."""

from mmengine.model import BaseModule
from mmpretrain.models.heads import LinearClsHead
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from .blocks import build_activation


@MODELS.register_module()
class FlattenNeck(BaseModule):
    """Flattens feature maps (N, C, H, W) to vectors (N, C*H*W), for VGG-Small.

    Example:
        >>> import torch
        >>> FlattenNeck()((torch.zeros(2, 512, 4, 4),))[0].shape
        torch.Size([2, 8192])
    """

    def forward(self, feats: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Flattens each feature map."""
        return tuple(feat.flatten(1) for feat in feats)


@MODELS.register_module()
class BNLinearClsHead(LinearClsHead):
    """Linear classifier after a BatchNorm1d, as in IR-Net's ResNets.

    Args:
        num_classes (int): Number of classes.
        in_channels (int): Length of the feature vector.
        act_cfg (dict | None): Activation between the BatchNorm1d and the classifier.
            Defaults to None, no activation. The released ResNet-20 1/32 has a ReLU.
        init_cfg (dict | None): Initialisation. None means torch's default, as in the
            released ResNet-18 and -34.
        **kwargs: Arguments of MMPretrain's ``LinearClsHead``: ``loss``, ``topk``,
            ``cal_acc``.

    Example:
        >>> import torch
        >>> head = BNLinearClsHead(num_classes=10, in_channels=64)
        >>> head((torch.randn(4, 64),)).shape
        torch.Size([4, 10])
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        act_cfg: dict | None = None,
        init_cfg: dict | None = None,
        **kwargs,
    ) -> None:
        super().__init__(num_classes, in_channels, init_cfg=init_cfg, **kwargs)
        self.bn = nn.BatchNorm1d(in_channels)
        self.act = build_activation(act_cfg, in_channels)

    def pre_logits(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Returns normalised, activated features of the last stage, (N, channels)."""
        return self.act(self.bn(super().pre_logits(feats)))
