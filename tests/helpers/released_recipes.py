"""The networks of AdaBin's and ReActNet's released code, from their formulas.

Plain torch, with the released names of parameters and nothing of mmirnet. None of
sign's arguments is zero here.
"""

import torch
import torch.nn.functional as F
from torch import nn


class Numbers(nn.Module):
    """Parameters by name, and nothing else."""

    def __init__(self, **numbers):
        super().__init__()
        for name, number in numbers.items():
            self.register_parameter(name, nn.Parameter(number))


class AdaBinConv(nn.Conv2d):
    def __init__(self, inputs, outputs, stride):
        super().__init__(inputs, outputs, 3, stride, padding=1, bias=False)
        self.binary_a = Numbers(alpha_a=torch.ones(1), beta_a=torch.zeros(1))

    def forward(self, x):
        w = self.weight
        beta = w.mean((1, 2, 3), keepdim=True)
        alpha = (w - beta).square().mean((1, 2, 3), keepdim=True).sqrt()
        w = alpha * torch.sign((w - beta) / alpha) + beta
        alpha_a, beta_a = self.binary_a.alpha_a, self.binary_a.beta_a
        x = alpha_a * (torch.sign((x - beta_a) / alpha_a) + beta_a)
        return F.conv2d(x, w, None, self.stride, self.padding)


class Maxout(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.neg_scale = nn.Parameter(torch.full((1, channels, 1, 1), 0.25))
        self.pos_scale = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x):
        return self.pos_scale * F.relu(x) - self.neg_scale * F.relu(-x)


class AdaBinBlock(nn.Module):
    def __init__(self, inputs, planes, stride):
        super().__init__()
        self.conv1 = AdaBinConv(inputs, planes, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.nonlinear1 = Maxout(planes)
        self.conv2 = AdaBinConv(planes, planes, 1)
        self.bn2 = nn.BatchNorm2d(planes)
        self.nonlinear2 = Maxout(planes)
        self.added = planes - inputs

    def forward(self, x):
        identity = x
        if self.added:
            sides = (self.added // 2,) * 2
            identity = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, *sides))
        x = self.nonlinear1(self.bn1(self.conv1(x)) + identity)
        return self.nonlinear2(self.bn2(self.conv2(x)) + x)


class AdaBinResNet20(nn.Module):
    """For CIFAR-10."""

    def __init__(self, classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.nonlinear1 = Maxout(16)
        inputs = 16
        for stage, planes in enumerate((16, 32, 64), 1):
            blocks = [AdaBinBlock(inputs, planes, 1 + (planes > inputs))]
            blocks += [AdaBinBlock(planes, planes, 1) for _ in range(2)]
            setattr(self, f'layer{stage}', nn.Sequential(*blocks))
            inputs = planes
        self.bn2 = nn.BatchNorm1d(64)
        self.linear = nn.Linear(64, classes)

    def forward(self, x):
        x = self.nonlinear1(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(self.bn2(x.mean((2, 3))))


class ReActNetConv(nn.Conv2d):
    """Without the sign of the input; ``real`` weights are those of the first step."""

    real = False

    def __init__(self, inputs, outputs, stride):
        super().__init__(inputs, outputs, 3, stride, padding=1, bias=False)

    def forward(self, x):
        w = self.weight
        if not self.real:
            w = torch.sign(w) * w.abs().mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, w, None, self.stride, self.padding)


def shift(channels):
    return Numbers(bias=torch.zeros(1, channels, 1, 1))


class ReActNetBlock(nn.Module):
    """One convolution."""

    def __init__(self, inputs, planes, stride):
        super().__init__()
        self.move0 = shift(inputs)
        self.binary_conv = ReActNetConv(inputs, planes, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        if inputs != planes:
            self.downsample = nn.Sequential(
                nn.AvgPool2d(2, stride),
                nn.Conv2d(inputs, planes, 1, bias=False),
                nn.BatchNorm2d(planes),
            )
        self.move1 = shift(planes)
        self.prelu = nn.PReLU(planes)
        self.move2 = shift(planes)

    def forward(self, x):
        identity = self.downsample(x) if hasattr(self, 'downsample') else x
        y = self.bn1(self.binary_conv(torch.sign(x + self.move0.bias)))
        return self.prelu(y + identity + self.move1.bias) + self.move2.bias


class ReActNetResNet18(nn.Module):
    """For ImageNet."""

    def __init__(self, classes=1000):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        inputs = 64
        for stage, planes in enumerate((64, 128, 256, 512), 1):
            blocks = [ReActNetBlock(inputs, planes, 1 + (planes > inputs))]
            blocks += [ReActNetBlock(planes, planes, 1) for _ in range(3)]
            setattr(self, f'layer{stage}', nn.Sequential(*blocks))
            inputs = planes
        self.fc = nn.Linear(512, classes)

    def forward(self, x):
        x = F.max_pool2d(self.bn1(self.conv1(x)), 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))
