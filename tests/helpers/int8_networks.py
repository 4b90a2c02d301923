"""Networks of 8-bit layers, of which each test chooses the shape."""

import numpy as np
import torch
from torch import nn

from mmirnet.binary import IRConv2d
from mmirnet.packed import pack
from mmirnet.packed.quantising import quantise

MEAN, STD = [123.675, 116.28, 103.53, 20.0], [58.395, 57.12, 57.375, 31.0]


def normalised(pixels, spec):
    """uint8 (N, H, W, C) as the network takes floats."""
    mean, std = (np.float32(spec[name]) for name in ('mean', 'std'))
    return np.ascontiguousarray(((pixels - mean) / std).transpose(0, 3, 1, 2))


def pixels_of(packed, count=2, seed=0):
    """Random images of a network's size."""
    channels, height, width = packed.shapes['input']
    shape = count, height, width, channels
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def with_statistics(network, size):
    """A packed network of images of 1 to 4 channels, with mean and std of its own."""
    packed = pack(network.eval(), size)
    channels = packed.input['channels']
    packed.input |= dict(mean=MEAN[:channels], std=STD[:channels])
    return packed


def int8_network(channels, out, size, kernel=3, **window):
    """A first convolution, one like it behind it, 1-bit weights and a classifier."""
    torch.manual_seed(channels + out)
    network = nn.Sequential(
        nn.Conv2d(channels, out, kernel, **window),
        nn.Hardtanh(),
        nn.Conv2d(out, out, kernel, **window),
        nn.BatchNorm2d(out),
        nn.ReLU(),
        IRConv2d(out, out, 1, bias=False, binarize_input=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(out, 5),
    )
    packed = with_statistics(network, size)
    images = normalised(pixels_of(packed), packed.input)
    return quantise(packed, [images], activations=True)
