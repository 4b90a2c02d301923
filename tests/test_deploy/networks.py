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


def rng(*key):
    """A numpy generator of its own for each case."""
    return np.random.default_rng(abs(hash(key)) % 2**32)
