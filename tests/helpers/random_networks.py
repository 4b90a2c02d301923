"""Small networks drawn at random from what people write in torch.

Not only what a packed file holds: arguments of all kinds, operations in place, control
flow, and much that has to be refused. Numbers are few and dyadic, so that most sums
are exact in float32.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mmirnet.binary import (
    BiPerConv2d,
    BNNConv2d,
    Hardtanh,
    IRConv2d,
    IRLinear,
    ReCUConv2d,
)
from mmirnet.errors import UnsupportedModelError
from mmirnet.models import Maxout, RPReLU
from mmirnet.packed import Simulation, pack
from mmirnet.runtime import Session

# Those whose scales are parameters, or none: with numbers that no order of sums rounds.
RECIPES = [BNNConv2d, ReCUConv2d, BiPerConv2d]
# What a schedule moves.
BUFFERS = 'ede', 'recu', 'biper', 'constant'


class RandomNetwork(nn.Module):
    """Steps, each (network, x, kept) -> x, where `kept` is an earlier value."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList()
        self.weights = nn.ParameterList()
        self.steps = []
        self.names = []

    def forward(self, x):
        kept = x
        for step in self.steps:
            x = step(self, x, kept)
            if isinstance(x, tuple):
                x, kept = x
        return x


def _dyadic(rng, shape, unit=4, most=3):
    values = rng.integers(-most * unit, most * unit + 1, shape) / unit
    return torch.tensor(values, dtype=torch.float32)


def _randomise(rng, module):
    """Weights, slopes and statistics: negative, zero and tiny ones among them."""
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if name.endswith('running_var'):
                eps = np.float32(1e-5)
                variance = rng.choice(
                    [1, 4, 0.25, 1e-10], tensor.shape, p=[0.5, 0.2, 0.2, 0.1]
                )
                tensor.copy_(torch.from_numpy(variance - eps * (variance > 0.1)))
            elif tensor.is_floating_point() and name not in BUFFERS:
                tensor.copy_(_dyadic(rng, tuple(tensor.shape)))
                if (
                    isinstance(module, nn.modules.batchnorm._BatchNorm)
                    and name == 'weight'
                ):
                    slope = rng.choice([-2, -1, -0.5, 0, 0.5, 1, 2], tensor.shape)
                    tensor.copy_(torch.tensor(slope))
    return module


def _side(rng, values):
    """One number, or two."""
    if rng.random() < 0.3:
        return tuple(int(v) for v in rng.choice(values, 2))
    return int(rng.choice(values))


def _conv(rng, channels, binary):
    groups = int(rng.choice([1, 1, 1, 2, channels]))
    if channels % groups:
        groups = 1
    out = groups * int(rng.integers(1, 5))
    args = dict(
        kernel_size=_side(rng, [1, 2, 3, 3, 5]),
        padding=_side(rng, [0, 0, 1, 1, 2]),
        dilation=_side(rng, [1, 1, 1, 2]),
        groups=groups,
        bias=bool(rng.random() < 0.4),
        padding_mode=str(rng.choice(['zeros'] * 9 + ['circular'])),
    )
    if rng.random() < 0.2:
        args['padding'] = str(rng.choice(['same', 'valid']))
    else:
        args['stride'] = _side(rng, [1, 1, 1, 2, 3])
    if not binary:
        return nn.Conv2d(channels, out, **args)
    options = dict(binarize_input=bool(rng.random() < 0.7))
    if rng.random() < 0.4:
        return RECIPES[rng.integers(len(RECIPES))](channels, out, **args, **options)
    options['scale'] = rng.choice(['shift', 'shift', 'shift', None])
    return IRConv2d(channels, out, **args, **options)


def _norm(rng, channels, dim):
    options = dict(
        affine=bool(rng.random() < 0.9), track_running_stats=bool(rng.random() < 0.95)
    )
    kinds = [nn.BatchNorm2d, nn.SyncBatchNorm] if dim == 4 else [nn.BatchNorm1d]
    if rng.random() < 0.05:
        return nn.GroupNorm(1, channels)
    return kinds[rng.integers(len(kinds))](channels, **options)


def _activation(rng):
    inplace = bool(rng.random() < 0.5)
    low, high = sorted(rng.integers(-3, 4, 2).tolist())
    return [
        lambda: nn.ReLU(inplace),
        lambda: nn.ReLU6(inplace),
        lambda: nn.Hardtanh(inplace=inplace),
        lambda: nn.Hardtanh(low, high + 1, inplace),
        lambda: Hardtanh(),
        lambda: nn.GELU(),
        lambda: nn.PReLU(),
        lambda: RPReLU(),
        lambda: Maxout(),
        lambda: nn.LeakyReLU(0.5, inplace),
        lambda: nn.Identity(),
        lambda: nn.Dropout(0.5, inplace),
    ][rng.integers(12)]()


def _layer(module):
    def add(network):
        index = len(network.layers)
        network.layers.append(module)
        return lambda net, x, kept: net.layers[index](x)

    return add


def _plain(step):
    return lambda network: step


def _weight(rng, shape, use):
    def add(network):
        index = len(network.weights)
        network.weights.append(nn.Parameter(_dyadic(rng, shape)))
        return lambda net, x, kept: use(x, net.weights[index])

    return add


def _elementwise(rng):
    """Functions of any shape."""
    number = float(rng.choice([-2, -1, 0.5, 1, 2, 3, 0.3]))
    integer = int(rng.integers(-2, 3))
    alpha = [1, 2, -1, 0.5, 3, 0][rng.integers(6)]
    low, high = sorted(rng.integers(-3, 4, 2).tolist())
    inplace = bool(rng.random() < 0.5)
    steps = {
        'relu': lambda net, x, kept: F.relu(x, inplace=inplace),
        'x.relu': lambda net, x, kept: x.relu(),
        'relu_': lambda net, x, kept: torch.relu_(x),
        'relu6': lambda net, x, kept: F.relu6(x, inplace),
        'hardtanh': lambda net, x, kept: F.hardtanh(x, low, high + 1, inplace),
        'clamp': lambda net, x, kept: x.clamp(low, high),
        'clamp min': lambda net, x, kept: torch.clamp(x, min=low),
        'clamp_': lambda net, x, kept: x.clamp_(max=high),
        'x + n': lambda net, x, kept: x + number,
        'n + x': lambda net, x, kept: integer + x,
        'n - x': lambda net, x, kept: number - x,
        'x * n': lambda net, x, kept: x * number,
        'x / n': lambda net, x, kept: x / number,
        'n / x': lambda net, x, kept: number / x,
        'x += n': lambda net, x, kept: x.add_(number),
        'neg': lambda net, x, kept: -x,
        'x + kept': lambda net, x, kept: x + kept,
        'x - kept': lambda net, x, kept: x - kept,
        'kept - x': lambda net, x, kept: kept - x,
        'add alpha': lambda net, x, kept: torch.add(x, kept, alpha=alpha),
        'add number alpha': lambda net, x, kept: x.add(integer, alpha=alpha),
        'sub alpha': lambda net, x, kept: x.sub(kept, alpha=alpha),
        'x += kept': lambda net, x, kept: x.add_(kept),
        'kept += x': lambda net, x, kept: kept.add_(x),
        'x + x': lambda net, x, kept: x + x,
        'sum': lambda net, x, kept: sum([x, kept]),
        'x * kept': lambda net, x, kept: x * kept,
        'x * x': lambda net, x, kept: torch.mul(x, x),
        'max': lambda net, x, kept: torch.maximum(x, kept),
        'abs': lambda net, x, kept: x.abs(),
        'clone': lambda net, x, kept: x.clone(),
        'detach': lambda net, x, kept: x.detach(),
        'contiguous': lambda net, x, kept: x.contiguous(),
        'float': lambda net, x, kept: x.float(),
        'double': lambda net, x, kept: x.double(),
        'half': lambda net, x, kept: x.half().float(),
        'data': lambda net, x, kept: x.data,
        'sigmoid': lambda net, x, kept: torch.sigmoid(x),
        'sign': lambda net, x, kept: torch.sign(x),
        'dropout': lambda net, x, kept: F.dropout(x, 0.5, net.training),
        'dropout on': lambda net, x, kept: F.dropout(x, 0.5),
        'dropout2d': lambda net, x, kept: F.dropout2d(x, 0.1, training=False),
        'keep': lambda net, x, kept: (x, x),
        'swap': lambda net, x, kept: (kept, x),
        'setitem': lambda net, x, kept: x.__setitem__(0, 0) or x,
        'values': lambda net, x, kept: x if x.sum() > 0 else -x,
        'shape': lambda net, x, kept: x if x.shape[1] > 3 else -x,
        'batch': lambda net, x, kept: -x if len(x) == 3 else x,
        'item': lambda net, x, kept: x + x[0].max().item(),
        'numpy': lambda net, x, kept: torch.from_numpy(x.numpy() * 2),
        'random': lambda net, x, kept: x + torch.rand(1),
        'assert': lambda net, x, kept: torch._assert(x.dim() > 1, 'dim') or x,
    }
    name = str(rng.choice([*steps, 'keep', 'keep', 'x + kept']))
    return name, _plain(steps[name])


def _on_maps(rng, shape):
    channels, height, width = shape
    binary = bool(rng.random() < 0.5)
    kernel, stride = _side(rng, [1, 2, 3, 5]), _side(rng, [1, 2, 3])
    padding = _side(rng, [0, 0, 1, 2])
    ceil, include = bool(rng.random() < 0.3), bool(rng.random() < 0.5)
    size = [1, (1, 1), 2, (2, None), (height, width), (1, width), 3][rng.integers(7)]
    out = int(rng.integers(1, 5))
    steps = [
        ('conv', lambda: _layer(_randomise(rng, _conv(rng, channels, binary)))),
        ('conv', lambda: _layer(_randomise(rng, _conv(rng, channels, True)))),
        ('conv', lambda: _layer(_randomise(rng, _conv(rng, channels, binary)))),
        (
            'F.conv2d',
            lambda: _weight(
                rng, (out, channels, 3, 3), lambda x, w: F.conv2d(x, w, padding='same')
            ),
        ),
        (
            'F.conv2d of twice the weight',
            lambda: _weight(
                rng, (out, channels, 1, 1), lambda x, w: F.conv2d(x, 2 * w, None, 2)
            ),
        ),
        (
            'x + weight',
            lambda: _weight(rng, (channels, 1, 1), lambda x, w: x + w),
        ),
        ('norm', lambda: _layer(_randomise(rng, _norm(rng, channels, 4)))),
        ('norm', lambda: _layer(_randomise(rng, _norm(rng, channels, 4)))),
        ('act', lambda: _layer(_randomise(rng, _activation(rng)))),
        ('act', lambda: _layer(_randomise(rng, _activation(rng)))),
        (
            'MaxPool2d',
            lambda: _layer(nn.MaxPool2d(kernel, stride, padding, 1, False, ceil)),
        ),
        (
            'AvgPool2d',
            lambda: _layer(nn.AvgPool2d(kernel, stride, padding, ceil, include)),
        ),
        (
            'max_pool2d',
            lambda: _plain(
                lambda net, x, kept: F.max_pool2d(
                    x, kernel, padding=padding, ceil_mode=ceil
                )
            ),
        ),
        (
            'avg_pool2d',
            lambda: _plain(
                lambda net, x, kept: F.avg_pool2d(
                    x, kernel, stride, divisor_override=3 if ceil else None
                )
            ),
        ),
        ('AdaptiveAvgPool2d', lambda: _layer(nn.AdaptiveAvgPool2d(size))),
        (
            'adaptive_max_pool2d',
            lambda: _plain(lambda net, x, kept: F.adaptive_max_pool2d(x, size)),
        ),
        ('mean', lambda: _plain(lambda net, x, kept: x.mean([2, 3]))),
        (
            'mean keepdim',
            lambda: _plain(lambda net, x, kept: torch.mean(x, (-1, -2), keepdim=True)),
        ),
        ('mean 1', lambda: _plain(lambda net, x, kept: x.mean(1, keepdim=True))),
        ('flatten', lambda: _plain(lambda net, x, kept: x.flatten(1))),
        ('nn.Flatten', lambda: _layer(nn.Flatten())),
        ('flatten 0', lambda: _plain(lambda net, x, kept: x.flatten(0))),
        ('flatten 2', lambda: _plain(lambda net, x, kept: x.flatten(2))),
        (
            'view',
            lambda: _plain(lambda net, x, kept: x.view(x.size(0), -1)),
        ),
        ('view 2', lambda: _plain(lambda net, x, kept: x.view(2, -1))),
        ('view -1', lambda: _plain(lambda net, x, kept: x.view(-1))),
        (
            'reshape',
            lambda: _plain(
                lambda net, x, kept: x.reshape(-1, x.shape[1] * x.shape[2] * x.shape[3])
            ),
        ),
        (
            'reshape maps',
            lambda: _plain(lambda net, x, kept: x.reshape(len(x), -1, 1, 1)),
        ),
        (
            'reshape rows',
            lambda: _plain(lambda net, x, kept: x.reshape(len(x), 1, -1, x.shape[-1])),
        ),
        ('permute', lambda: _plain(lambda net, x, kept: x.permute(0, 2, 3, 1))),
        ('transpose', lambda: _plain(lambda net, x, kept: x.transpose(2, 3))),
        ('squeeze', lambda: _plain(lambda net, x, kept: x.squeeze())),
        ('stride', lambda: _plain(lambda net, x, kept: x[:, :, ::2, ::2])),
        ('stride 2', lambda: _plain(lambda net, x, kept: x[..., ::2])),
        ('part', lambda: _plain(lambda net, x, kept: x[:, :1])),
        ('chunk', lambda: _plain(lambda net, x, kept: x.chunk(2, 1)[0])),
        ('cat', lambda: _plain(lambda net, x, kept: torch.cat([x, kept], 1))),
        (
            'pad channels',
            lambda: _plain(lambda net, x, kept: F.pad(x, (0, 0, 0, 0, 1, 2))),
        ),
        ('pad', lambda: _plain(lambda net, x, kept: F.pad(x, (1, 1, 1, 1)))),
        (
            'interpolate',
            lambda: _plain(lambda net, x, kept: F.interpolate(x, scale_factor=2)),
        ),
    ]
    name, make = steps[rng.integers(len(steps))]
    return name, make()


def _on_features(rng, features):
    out = int(rng.integers(1, 9))
    bias = bool(rng.random() < 0.7)
    binarize = bool(rng.random() < 0.7)
    steps = [
        ('linear', lambda: _layer(_randomise(rng, nn.Linear(features, out, bias)))),
        (
            'IRLinear',
            lambda: _layer(
                _randomise(rng, IRLinear(features, out, bias, binarize_input=binarize))
            ),
        ),
        ('norm', lambda: _layer(_randomise(rng, _norm(rng, features, 2)))),
        ('act', lambda: _layer(_activation(rng))),
        (
            'F.linear',
            lambda: _weight(rng, (out, features), lambda x, w: F.linear(x, w)),
        ),
        ('matmul', lambda: _weight(rng, (features, out), lambda x, w: x @ w)),
        ('unsqueeze', lambda: _plain(lambda net, x, kept: x[:, :, None, None])),
        ('maps', lambda: _plain(lambda net, x, kept: x.view(len(x), -1, 1, 1))),
        ('like', lambda: _plain(lambda net, x, kept: x.view_as(kept))),
        ('back', lambda: _plain(lambda net, x, kept: x.view(kept.shape))),
        ('softmax', lambda: _plain(lambda net, x, kept: x.softmax(1))),
    ]
    name, make = steps[rng.integers(len(steps))]
    return name, make()


def random_network(seed):
    """A network in evaluation mode, and the shape (C, H, W) of its images."""
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers((1, 1, 1), (5, 10, 10)))
    network = RandomNetwork().eval()
    x = torch.zeros(2, *shape)
    length = int(rng.integers(1, 9))
    for tries in range(100):
        closing = len(network.steps) >= length
        if closing and x.dim() == 2:
            break
        if closing and tries > 50:
            break
        try:  # torch itself has not every such network
            if rng.random() < 0.25:
                name, add = _elementwise(rng)
            elif x.dim() == 4:
                name, add = _on_maps(rng, tuple(x.shape[1:]))
            elif x.dim() == 2:
                name, add = _on_features(rng, x.shape[1])
            else:
                break
            # A network of nothing but what is refused would say little.
            if name not in _COMMON and rng.random() < 0.95:
                continue
            network.steps.append(add(network))
            network.eval()
            with torch.no_grad():
                y = network(torch.zeros(2, *shape))
            if not 0 < y.numel() < 5000:
                raise ValueError(f'{y.numel()} values')
        except (RuntimeError, ValueError, LookupError, TypeError, AssertionError):
            del network.steps[len(network.names) :]
            continue
        x = y
        network.names.append(name)
    return network, shape


_COMMON = {
    *(
        'conv',
        'norm',
        'act',
        'linear',
        'IRLinear',
        'keep',
        'x + kept',
        'sum',
        'flatten',
    ),
    *(
        'MaxPool2d',
        'AvgPool2d',
        'max_pool2d',
        'avg_pool2d',
        'relu',
        'hardtanh',
        'clamp',
    ),
    *('AdaptiveAvgPool2d', 'mean', 'x + n', 'x * n', 'x += kept', 'clone', 'stride'),
    *('pad channels', 'reshape', 'nn.Flatten', 'dropout', 'maps', 'shape', 'F.conv2d'),
    *('relu_', 'view', 'keep', 'back', 'F.linear', 'swap', 'x - kept', 'clamp_'),
}


def images(seed, count, shape):
    """Random images of multiples of 1/4, zeros among them."""
    return _dyadic(np.random.default_rng(seed), (count, *shape), most=2)


def agrees(network, shape, seed):
    """Whether a network packs; what does is compared, in torch and on the runtime."""
    try:
        packed = pack(network, shape[1:])
    except UnsupportedModelError as error:
        assert '\n' not in str(error)
        return False
    x = images(seed, 3, (packed.input['channels'], *shape[1:]))
    with torch.no_grad():
        wanted = network(x.clone()).flatten(1)
        got = Simulation(packed)(x)
    scale = wanted.abs().max().item() + 1e-30
    np.testing.assert_allclose(got / scale, wanted / scale, rtol=0, atol=1e-5)
    engine = Session(packed, threads=1).predict(x)
    np.testing.assert_allclose(engine / scale, got / scale, rtol=0, atol=1e-5)
    return True
