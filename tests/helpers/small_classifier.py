"""A classifier of MMPretrain that trains in no time."""

from mmengine.model import BaseModule
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from torch import nn

from mmirnet.binary import IRConv2d

#: What the images are normalised with.
NORMALISED = dict(mean=[128.0, 64.0, 96.0], std=[64.0, 128.0, 64.0], to_rgb=True)
PARTS = dict(
    backbone=dict(type='SmallNet'),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='BNLinearClsHead', num_classes=3, in_channels=8),
)
CLASSIFIER = dict(type='ImageClassifier', **PARTS)


@MODELS.register_module(force=True)
class SmallNet(BaseModule):
    """Two convolutions, one of them binary."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(8)
        self.conv2 = IRConv2d(8, 8, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(8)

    def forward(self, x):
        x = self.norm1(self.conv1(x))
        return (self.norm2(self.conv2(x)) + x,)


def build(**options):
    """A classifier with other options, and with the default scope."""
    init_default_scope('mmpretrain')
    return MODELS.build(CLASSIFIER | options)
