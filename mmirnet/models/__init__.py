"""Backbones, blocks and heads in MMPretrain's registry; layers in MMEngine's."""

from ..compat import check_versions

check_versions()

from mmengine.registry import MODELS

from .. import binary
from ..binary import Hardtanh, IRConv2d, IRLinear
from .activations import Maxout, RPReLU
from .backbones import IRResNet, IRResNet_CIFAR, IRVGGSmall
from .blocks import BiRealBlock, NormalBlock
from .distillation import BinaryClassifier, BiPerRegulariser, DistillationLoss
from .heads import BNLinearClsHead, FlattenNeck

# MMEngine's registry, which mmcv's build_conv_layer and build_activation_layer use.
_recipes = [getattr(binary, name) for name in binary.recipes.__all__]
for _layer in (IRConv2d, IRLinear, Hardtanh, Maxout, RPReLU, *_recipes):
    if _layer.__name__ not in MODELS.module_dict:
        MODELS.register_module(module=_layer)

__all__ = [
    'BNLinearClsHead',
    'BiPerRegulariser',
    'BiRealBlock',
    'BinaryClassifier',
    'DistillationLoss',
    'FlattenNeck',
    'IRResNet',
    'IRResNet_CIFAR',
    'IRVGGSmall',
    'Maxout',
    'NormalBlock',
    'RPReLU',
]
