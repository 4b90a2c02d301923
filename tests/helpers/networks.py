"""Small packed networks and their answers, for the tests of the runtime."""

import numpy as np
import torch
from torch import nn

from mmirnet.binary import AdaBinConv2d, IRConv2d, IRLinear
from mmirnet.models.blocks import PadShortcut


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
    """Every step that the runtime fuses, in 20 thousand parameters."""
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


class EveryOperation(nn.Module):
    """What `mixed_network` leaves out of the packed format, on images of 9x9."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.first = IRConv2d(3, 8, 3, stride=2, padding=1)
        self.grouped = IRConv2d(8, 8, (3, 1), padding=(1, 0), groups=8)
        self.spread = nn.Conv2d(8, 6, 2, dilation=2, padding='same')
        self.terms = AdaBinConv2d(6, 6, 3, padding=1, bias=False)
        self.shortcut = PadShortcut(6, 12, 1)
        self.clamp = nn.ReLU6()
        self.max_pool = nn.MaxPool2d(2, ceil_mode=True)
        self.avg_pool = nn.AvgPool2d(2, 1)
        self.features = nn.BatchNorm1d(48)
        self.binary = IRLinear(48, 10)
        self.slopes = nn.PReLU(10)
        self.fc = nn.Linear(10, 5)

    def forward(self, x):
        """Logits (N, 5)."""
        x = self.first(self.norm(x))
        x = self.terms(self.spread(x - 2 * self.grouped(x)))
        x = self.clamp(self.shortcut(x))
        x = self.avg_pool(self.max_pool(x))
        return self.fc(self.slopes(self.binary(self.features(x.flatten(1)))))


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
