"""The networks of IR-Net's released code, written down operation by operation.

Plain torch, with the released names of parameters and nothing of mmirnet: what the
configs and the converter are compared with. Two operations differ from the released
code on purpose: none of sign's arguments is zero here, and there is no LogSoftmax,
which changes neither the loss nor the ranking.
"""

import torch
import torch.nn.functional as F
from torch import nn


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, t, k):
        ctx.save_for_backward(x, t, k)
        return torch.sign(x)

    @staticmethod
    def backward(ctx, grad):
        x, t, k = ctx.saved_tensors
        return k * t * (1 - torch.pow(torch.tanh(x * t), 2)) * grad, None, None


class BinaryConv(nn.Conv2d):
    """Libra-PB's weights; the sign of the input unless W/A bits are 1/32."""

    t, k = torch.tensor(0.7), torch.tensor(1 / 0.7)

    def __init__(self, inputs, outputs, stride=1, activations=True):
        super().__init__(inputs, outputs, 3, stride, padding=1, bias=False)
        self.activations = activations

    def forward(self, x):
        w = self.weight
        n = w.size(0)
        w = w - w.view(n, -1).mean(-1).view(n, 1, 1, 1)
        w = w / w.view(n, -1).std(-1).view(n, 1, 1, 1)
        s = torch.log2(w.abs().view(n, -1).mean(-1)).round().exp2().view(n, 1, 1, 1)
        w = Sign.apply(w, self.t, self.k) * s.detach()
        if self.activations:
            x = Sign.apply(x, self.t, self.k)
        return F.conv2d(x, w, None, self.stride, self.padding)


class Block(nn.Module):
    """Two convolutions; ``shortcut`` is the name of what changes the shape."""

    def __init__(self, inputs, planes, stride, act, activations, shortcut):
        super().__init__()
        self.conv1 = BinaryConv(inputs, planes, stride, activations)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = BinaryConv(planes, planes, 1, activations)
        self.bn2 = nn.BatchNorm2d(planes)
        self.act, self.stride, self.planes = act, stride, planes
        self.changes = stride != 1 or inputs != planes
        self.name = shortcut
        if self.changes and shortcut:
            conv = nn.Conv2d(inputs, planes, 1, stride, bias=False)
            setattr(self, shortcut, nn.Sequential(conv, nn.BatchNorm2d(planes)))

    def identity(self, x):
        if not self.changes:
            return x
        if self.name:
            return getattr(self, self.name)(x)
        pads = (0, 0, 0, 0, self.planes // 4, self.planes // 4)
        return F.pad(x[:, :, ::2, ::2], pads, 'constant', 0)


class Normal(Block):
    def forward(self, x):
        y = self.act(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.act(y + self.identity(x))


class BiReal(Block):
    def forward(self, x):
        x = self.act(self.bn1(self.conv1(x)) + self.identity(x))
        return self.act(self.bn2(self.conv2(x)) + x)


def stages(net, block, widths, numbers, *args):
    """layer1, layer2, ...; every stage but the first halves the resolution."""
    inputs = widths[0]
    for i, (width, number) in enumerate(zip(widths, numbers, strict=True), 1):
        blocks = []
        for j in range(number):
            stride = 2 if i > 1 and j == 0 else 1
            blocks.append(block(inputs, width, stride, *args))
            inputs = width
        setattr(net, f'layer{i}', nn.Sequential(*blocks))


class ResNet20(nn.Module):
    """For CIFAR-10; bits 1/32 have no activation in the stem and ReLU elsewhere."""

    def __init__(self, block, activations):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.activations = activations
        act = F.hardtanh if activations else F.relu
        stages(self, block, (16, 32, 64), (3, 3, 3), act, activations, None)
        self.bn2 = nn.BatchNorm1d(64)
        self.linear = nn.Linear(64, 10)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x):
        x = self.bn1(self.conv1(x))
        if self.activations:
            x = F.hardtanh(x)
        x = self.layer3(self.layer2(self.layer1(x)))
        x = self.bn2(F.avg_pool2d(x, x.size(3)).flatten(1))
        if not self.activations:
            x = F.relu(x)
        return self.linear(x)


class ResNet18CIFAR(nn.Module):
    """No activation in the stem; 1x1 shortcuts in full precision."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        widths, numbers = (64, 128, 256, 512), (2, 2, 2, 2)
        stages(self, Normal, widths, numbers, F.hardtanh, True, 'shortcut')
        self.bn2 = nn.BatchNorm1d(512)
        self.linear = nn.Linear(512, 10)

    def forward(self, x):
        x = self.bn1(self.conv1(x))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(self.bn2(F.avg_pool2d(x, 4).flatten(1)))


class VGGSmall(nn.Module):
    def __init__(self):
        super().__init__()
        widths = (3, 128, 128, 256, 256, 512, 512)
        for i in range(6):
            conv = (
                BinaryConv(widths[i], widths[i + 1])
                if i
                else nn.Conv2d(3, 128, 3, padding=1, bias=False)
            )
            setattr(self, f'conv{i}', conv)
            setattr(self, f'bn{i}', nn.BatchNorm2d(widths[i + 1]))
        self.fc = nn.Linear(512 * 4 * 4, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0, conv_std(module))
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x):
        x = F.hardtanh(self.bn0(self.conv0(x)))
        x = F.hardtanh(self.bn1(F.max_pool2d(self.conv1(x), 2)))
        x = F.hardtanh(self.bn2(self.conv2(x)))
        x = F.hardtanh(self.bn3(F.max_pool2d(self.conv3(x), 2)))
        x = F.hardtanh(self.bn4(self.conv4(x)))
        x = F.hardtanh(self.bn5(F.max_pool2d(self.conv5(x), 2)))
        return self.fc(x.flatten(1))


class ResNetImageNet(nn.Module):
    """Of 18 or 34 layers; bits 1/32 are normal blocks with ReLU everywhere."""

    def __init__(self, numbers, block, activations):
        super().__init__()
        self.act = F.hardtanh if activations else F.relu
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        widths = (64, 128, 256, 512)
        stages(self, block, widths, numbers, self.act, activations, 'downsample')
        self.bn2 = nn.BatchNorm1d(512)
        self.fc = nn.Linear(512, 1000)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0, conv_std(module))

    def forward(self, x):
        x = F.max_pool2d(self.act(self.bn1(self.conv1(x))), 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.bn2(F.avg_pool2d(x, x.size(3)).flatten(1)))


def conv_std(conv):
    height, width = conv.kernel_size
    return (2 / (height * width * conv.out_channels)) ** 0.5


#: By config: how the released network is built, and what the converter calls it.
RELEASED = {
    'resnet20_bireal_cifar10': (lambda: ResNet20(BiReal, True), 'resnet20'),
    'resnet20_normal_cifar10': (lambda: ResNet20(Normal, True), 'resnet20'),
    'resnet20_w1a32_cifar10': (lambda: ResNet20(Normal, False), 'resnet20'),
    'resnet18_normal_cifar10': (ResNet18CIFAR, 'resnet18-cifar'),
    'vgg-small_cifar10': (VGGSmall, 'vgg-small'),
    'resnet18_bireal_in1k': (
        lambda: ResNetImageNet((2, 2, 2, 2), BiReal, True),
        'resnet18',
    ),
    'resnet34_bireal_in1k': (
        lambda: ResNetImageNet((3, 4, 6, 3), BiReal, True),
        'resnet34',
    ),
    'resnet18_w1a32_in1k': (
        lambda: ResNetImageNet((2, 2, 2, 2), Normal, False),
        'resnet18',
    ),
    'resnet34_w1a32_in1k': (
        lambda: ResNetImageNet((3, 4, 6, 3), Normal, False),
        'resnet34',
    ),
}
