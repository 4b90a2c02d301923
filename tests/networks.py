"""Small packed networks and their answers, for the tests of the engine."""

import numpy as np
import torch
from torch import nn

from mmirnet.binary import IRConv2d


def warm_up(model, *shape):
    """Statistics, slopes of both signs and offsets as training leaves them."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None
            module.reset_running_stats()
            nn.init.normal_(module.weight, 0.3, 0.5)
            nn.init.normal_(module.bias, 0, 0.3)
    model.train()
    with torch.no_grad():
        model(torch.randn(8, *shape))
    return model.eval()


def mixed_network(channels=24, classes=5):
    """Every step that the engine fuses, in 20 thousand parameters."""
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.Hardtanh(),
        IRConv2d(channels, 2 * channels, 3, padding=1, bias=False),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(2 * channels),
        nn.Hardtanh(),
        IRConv2d(2 * channels, 40, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(40),
        nn.Hardtanh(),
        IRConv2d(40, 70, 1, bias=False),
        nn.BatchNorm2d(70),
        nn.ReLU(),
        IRConv2d(70, 16, 3, padding=1, bias=False, binarize_input=False),
        nn.BatchNorm2d(16),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, classes),
    )


def dyadic(packed):
    """The network with numbers that no order of summation rounds.

    Slopes become powers of two, the rest multiples of 2**-6, so that other
    software gives the same bits, and sums of exactly zero are common.
    """
    for name, tensor in packed.tensors.items():
        if name.endswith('.affine'):
            slope, offset = tensor
            slope = np.copysign(np.exp2(np.round(np.log2(abs(slope)))), slope)
            packed.tensors[name] = np.stack([slope, np.round(64 * offset) / 64])
        elif name.endswith('conv1.weight') or name == '0.weight':
            packed.tensors[name] = np.round(64 * tensor) / 64
    return packed


def dyadic_images(*shape):
    """Random images of multiples of 1/8."""
    return torch.randn(*shape).mul(8).round().div(8)
