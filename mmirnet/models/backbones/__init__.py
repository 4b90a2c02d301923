from .ir_resnet import IRResNet
from .ir_resnet_cifar import IRResNet_CIFAR
from .ir_vgg_small import IRVGGSmall

__all__ = ['IRResNet', 'IRResNet_CIFAR', 'IRVGGSmall']
