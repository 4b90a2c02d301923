"""What a network computes is packed with all its arguments, or refused by name."""

import copy
import random
import warnings
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.model import ExponentialMovingAverage
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS as REGISTRY
from networks import mixed_network, warm_up
from random_networks import agrees, random_network
from torch import nn
from torch.nn.utils import parametrizations, prune

from mmirnet.binary import Hardtanh, IRConv2d, IRLinear
from mmirnet.errors import UnsupportedModelError
from mmirnet.packed import Simulation, pack
from mmirnet.packed.latent import latent_state_dict
from mmirnet.runtime import Session


def build(forward, *layers):
    """A network of 3 channels to logits around one function."""

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(3, 4, 1)
            self.layers = nn.ModuleList(layers)
            self.weight = nn.Parameter(torch.randn(4, 4, 3, 3))
            self.shift = nn.Parameter(torch.randn(1, 4, 1, 1))
            self.features = nn.Parameter(torch.randn(4))
            self.number = nn.Parameter(torch.randn(1))
            self.fc = nn.LazyLinear(5)

        def forward(self, x):
            y = forward(self, self.first(x))
            return self.fc(y.flatten(1))

    torch.manual_seed(0)
    network = Network().eval()
    with torch.no_grad():
        for buffer in network.buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.5, 2)
        network(torch.zeros(2, 3, 8, 6))
    return network


def check_equal(network, size):
    """Simulation, engine and file agree with the network; gives the packed network."""
    network.eval()
    packed = pack(network, size)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, packed.input['channels'], *size, generator=generator)
    with torch.no_grad():
        wanted = network(x.clone())
        got = Simulation(packed)(x)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    engine = Session(packed, threads=1).predict(x)
    np.testing.assert_allclose(engine, got, rtol=1e-5, atol=2e-5)
    return packed


TAKEN = {
    'x + y': lambda net, x: x + x.relu(),
    'x + x': lambda net, x: x + x,
    'sum': lambda net, x: sum([x, x.relu(), x]),
    'alpha=2': lambda net, x: torch.add(x, x.relu(), alpha=2),
    'alpha=-0.5': lambda net, x: x.add(x.relu(), alpha=-0.5),
    'x + 1': lambda net, x: x + 1,
    '1 - x': lambda net, x: 1 - x,
    'x - y': lambda net, x: x - x.relu(),
    '0.3 * x': lambda net, x: 0.3 * x,
    'x * np.float32': lambda net, x: x * np.float32(0.3),
    'np.int64 * x': lambda net, x: np.int64(3) * x,
    'x - np.float16': lambda net, x: x - np.float16(0.3),
    'clamp of np.float32': lambda net, x: x.clamp(min=np.float32(-0.5)),
    'x / 4': lambda net, x: x / 4,
    '-x': lambda net, x: -x,
    'flatten(1)': lambda net, x: torch.flatten(x, 1),
    'view': lambda net, x: x.view(x.size(0), -1),
    'reshape': lambda net, x: x.reshape(x.shape[0], x.shape[1] * 48),
    'mean([2, 3])': lambda net, x: x.mean([2, 3]),
    'mean(-1, -2)': lambda net, x: torch.mean(x, dim=(-1, -2), keepdim=True),
    'squeeze()': lambda net, x: x.mean([2, 3], keepdim=True).squeeze(),
    'relu in place': lambda net, x: F.relu(x, inplace=True),
    'relu6': lambda net, x: F.relu6(x),
    'x.relu()': lambda net, x: x.relu(),
    'hardtanh(-2, 2)': lambda net, x: F.hardtanh(x, -2, 2),
    'clamp': lambda net, x: x.clamp(-0.5, 1),
    'clamp from below': lambda net, x: torch.clamp(x, min=0.25),
    'conv2d': lambda net, x: F.conv2d(x, net.weight, padding=1),
    'conv2d same': lambda net, x: F.conv2d(x, net.weight, padding='same', dilation=2),
    'avg_pool2d': lambda net, x: F.avg_pool2d(x, 3, 2, 1),
    'avg_pool2d without the padding': lambda net, x: F.avg_pool2d(
        x, (2, 3), 2, (1, 0), count_include_pad=False
    ),
    'avg_pool2d up': lambda net, x: F.avg_pool2d(x, 3, ceil_mode=True),
    'max_pool2d': lambda net, x: F.max_pool2d(x, (3, 2), stride=2, padding=(1, 0)),
    'max_pool2d up': lambda net, x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
    'adaptive_avg_pool2d': lambda net, x: F.adaptive_avg_pool2d(x, 1),
    'adaptive_avg_pool2d (4, 2)': lambda net, x: F.adaptive_avg_pool2d(x, (4, 2)),
    'adaptive_max_pool2d': lambda net, x: F.adaptive_max_pool2d(x, 1),
    'dropout in evaluation': lambda net, x: F.dropout(x, 0.5, training=net.training),
    'every other pixel': lambda net, x: x[:, :, ::2, ::2],
    'pad of channels': lambda net, x: F.pad(x, (0, 0, 0, 0, 1, 3)),
    'size in control flow': lambda net, x: (
        x if x.shape[-1] > 3 and x.dim() == 4 else -x
    ),
    'x += y': lambda net, x: x.add_(x.clone()),
    'x + parameter': lambda net, x: x + net.shift,
    'parameter + x': lambda net, x: net.shift + x,
    'parameter - x': lambda net, x: net.shift - x,
    'x - parameter': lambda net, x: x - net.shift,
    'x * parameter': lambda net, x: x * net.shift,
    'x *= parameter': lambda net, x: x.mul_(net.shift),
    'x + 2 * parameter': lambda net, x: torch.add(x, net.shift, alpha=2),
    'x * number': lambda net, x: x * net.number,
    'features + parameter': lambda net, x: x.mean([2, 3]) * net.number + net.features,
    'prelu': lambda net, x: F.prelu(x, net.features),
    'prelu of features': lambda net, x: torch.prelu(x.flatten(1), net.number),
    'in place, read again': lambda net, x: F.relu_(x).mul(0) + x,
    'unsqueeze': lambda net, x: x.mean([2, 3])[:, :, None, None],
}


@pytest.mark.parametrize('name', TAKEN)
def test_calls_with_all_their_arguments(name):
    check_equal(build(TAKEN[name]), (8, 6))


def test_a_value_changed_in_place_is_the_new_one_everywhere():
    """By the names of nodes, the sum would take what the ReLU has overwritten."""

    def forward(net, x):
        y = F.relu(x, inplace=True)
        return y + x

    network = build(forward)
    packed = check_equal(network, (8, 6))
    assert [op['src'] for op in packed.graph if op['op'] == 'add'] == [['relu1'] * 2]


@torch.jit.script
def energy(x: torch.Tensor) -> torch.Tensor:
    return x.square().mean()


REFUSED = {
    'alpha=0.3': (lambda net, x: torch.add(x, x, alpha=0.3), 'add: alpha=0.3'),
    'flatten(0)': (lambda net, x: x.flatten(0)[:, None], r'flatten: gives a tensor'),
    'flatten(2)': (lambda net, x: x.flatten(2), r'flatten: gives a tensor'),
    'view(-1)': (lambda net, x: x.view(-1, 24), r'view: gives a tensor'),
    'mul': (lambda net, x: x * x, 'mul: a product of two tensors'),
    'broadcast': (lambda net, x: x + x.mean([2, 3], keepdim=True), 'broadcast'),
    'constant': (lambda net, x: x + net.weight[0, 0, 0, 0], 'made of no image'),
    'a parameter by column': (
        lambda net, x: F.avg_pool2d(x, (1, 3), 1) + net.features,
        r'a parameter of shape \(4,\) is no number for each channel',
    ),
    'a parameter of more axes': (
        lambda net, x: x.flatten(1) * net.shift,
        r'shape \(1, 4, 1, 1\) is no number for each channel',
    ),
    'a computed parameter': (lambda net, x: x * net.shift.exp(), 'product of two'),
    'cat': (lambda net, x: torch.cat([x, x], 1), 'cat: the packed format has no'),
    'chunk': (lambda net, x: x.chunk(2, 1)[0], 'chunk: the packed format has no'),
    'part': (lambda net, x: x[:, :2], '__getitem__: .* a part of a tensor'),
    'permute': (lambda net, x: x.permute(0, 2, 3, 1), 'permute: the packed format'),
    'gelu': (lambda net, x: F.gelu(x), 'gelu: the packed format has no'),
    'sigmoid': (lambda net, x: x.sigmoid(), 'sigmoid: the packed format has no'),
    'pad': (lambda net, x: F.pad(x, (1, 1)), 'pad: only channels'),
    'divisor': (lambda net, x: F.avg_pool2d(x, 2, divisor_override=3), 'divisor_ov'),
    'mean of one side': (lambda net, x: x.mean(-1), 'mean: only over height and'),
    'pooling to 3': (lambda net, x: F.adaptive_avg_pool2d(x, 3), '8 pixels do not div'),
    'x / 3': (lambda net, x: x / 3, 'div: only divisions by a power of two'),
    'weights of weights': (
        lambda net, x: F.conv2d(x, 2 * net.weight),
        'conv2d: its weight is no parameter',
    ),
    'dropout that stays on': (lambda net, x: F.dropout(x), 'dropout: it drops values'),
    'a part changed in place': (
        lambda net, x: x[:, :, ::1, ::1].relu_() + x,
        'changed in place under another name',
    ),
    'values in control flow': (
        lambda net, x: x if x.sum() > 0 else -x,
        'sum: the packed format has no',
    ),
    'numpy': (lambda net, x: torch.from_numpy(x.numpy()), 'numpy asks for the values'),
    'batch in control flow': (
        lambda net, x: x if len(x) == 2 else -x,
        'another for 3',
    ),
    'a single image in control flow': (
        lambda net, x: -x if len(x) == 1 else x,
        'another for 1',
    ),
    'values in TorchScript': (
        lambda net, x: x if energy(x) > 5 else -x,
        'another for 3, for other pixels',
    ),
    'double': (lambda net, x: x.to(torch.float64).float(), 'to: gives torch.float64'),
    'out': (lambda net, x: torch.add(x, x, out=x.clone()), "add: .*'out'"),
}


@pytest.mark.parametrize('name', REFUSED)
def test_what_does_not_fit_is_refused_with_its_place(name):
    forward, message = REFUSED[name]
    with pytest.raises(UnsupportedModelError, match=message) as error:
        pack(build(forward), (8, 6))
    assert '\n' not in str(error.value)
    if 'another for' not in message:
        assert 'the model (Network, test_tracing.py:' in str(error.value)


LAYERS = {
    'conv with bias': nn.Conv2d(4, 6, 3),
    'conv, groups': nn.Conv2d(4, 6, 3, groups=2),
    'conv, depthwise': nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False),
    'conv, dilation': nn.Conv2d(4, 6, 2, dilation=(3, 2)),
    'conv, sides': nn.Conv2d(4, 6, (1, 3), (2, 1), (0, 2)),
    'conv, same': nn.Conv2d(4, 6, 4, padding='same'),
    'binary with bias': IRConv2d(4, 6, 3),
    'binary, groups': IRConv2d(4, 6, 3, groups=2, bias=False),
    'binary, depthwise': IRConv2d(4, 4, 3, padding=1, groups=4, bias=False),
    'binary, dilation': IRConv2d(4, 6, 3, padding=2, dilation=2),
    'binary, sides': IRConv2d(4, 6, (3, 2), (1, 2), (1, 0)),
    'binary, same': IRConv2d(4, 6, 3, padding='same'),
    'binary, same, even': IRConv2d(4, 6, 4, padding='same'),
    '1/32, groups': IRConv2d(4, 6, 3, groups=2, binarize_input=False),
    'BatchNorm2d': nn.BatchNorm2d(4),
    'BatchNorm2d without weights': nn.BatchNorm2d(4, affine=False),
    'SyncBatchNorm': nn.SyncBatchNorm(4),
    'ReLU6': nn.ReLU6(),
    'Hardtanh': nn.Hardtanh(-2, 0.5),
    'Hardtanh of ours': Hardtanh(inplace=True),
    'MaxPool2d': nn.MaxPool2d(3, 2, 1, ceil_mode=True),
    'AvgPool2d': nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False),
    'Dropout, Identity': nn.Sequential(nn.Dropout(), nn.Identity()),
    'nested': nn.Sequential(nn.Sequential(nn.ReLU(inplace=True))),
    'ConvModule': ConvModule(
        4, 8, 3, conv_cfg=dict(type='IRConv2d'), norm_cfg=dict(type='BN')
    ),
    "mmcv's Conv": ConvModule(4, 8, 3, conv_cfg=dict(type='Conv')),
    'two linear layers': nn.Sequential(
        nn.Flatten(), nn.BatchNorm1d(4 * 8 * 6), nn.Linear(4 * 8 * 6, 7)
    ),
    'IRLinear': nn.Sequential(nn.Flatten(), IRLinear(4 * 8 * 6, 7)),
    'IRLinear 1/32': nn.Sequential(
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        IRLinear(4, 7, bias=False, binarize_input=False),
    ),
}


@pytest.mark.parametrize('name', LAYERS)
def test_layers(name):
    """Behind a convolution, and first of all, where it reads the image."""
    network = build(lambda net, x: net.layers[0](x), LAYERS[name])
    packed = check_equal(network, (8, 6))
    state = latent_state_dict(packed)
    assert set(state) <= set(network.state_dict()) or 'without' in name
    layer = copy.deepcopy(LAYERS[name])
    check_equal(nn.Sequential(layer, nn.Flatten()), (8, 6))


@contextmanager
def double_precision():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    'around',
    [
        torch.inference_mode,
        torch.enable_grad,
        partial(torch.autocast, 'cpu'),
        partial(torch.device, 'meta'),
        double_precision,
    ],
)
def test_what_the_caller_set_is_no_part_of_the_network(around):
    network = warm_up(mixed_network(), 3, 9, 9)
    wanted = pack(network, (9, 9))
    with around():
        packed = pack(network, (9, 9))
    assert packed.graph == wanted.graph
    for name, array in wanted.tensors.items():
        np.testing.assert_array_equal(packed.tensors[name], array)


def test_tied_weights():
    """Each layer keeps its own bias, and a packed file can be trained further."""
    first, second = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
    second.weight = first.weight
    network = build(lambda net, x: net.layers[1](net.layers[0](x)), first, second)
    packed = check_equal(network, (8, 6))
    state = latent_state_dict(packed)
    own = {'weight', 'shift', 'features', 'number'}
    assert set(state) == set(network.state_dict()) - own
    torch.testing.assert_close(state['layers.1.bias'], second.bias.detach())


def test_a_layer_that_is_called_twice():
    conv = IRConv2d(4, 4, 3, padding=1, bias=False)
    check_equal(build(lambda net, x: net.layers[0](net.layers[0](x)), conv), (8, 6))


def weight_norm(module):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return nn.utils.weight_norm(module)


def pruned(module):
    prune.l1_unstructured(module, 'weight', 0.5)
    return module


class Doubled(IRConv2d):
    def forward(self, x):
        return 2 * super().forward(x)


def replaced(module):
    module._operands = lambda x: IRConv2d._operands(module, -x)
    return module


def nan(module):
    with torch.no_grad():
        module.weight[0, 0, 0, 0] = float('nan')
    return module


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: nn.GroupNorm(2, 4), r'layers.0 \(GroupNorm\): group_norm: the packed'),
        (lambda: nn.GELU(), r'layers.0 \(GELU\): gelu'),
        (
            lambda: nn.BatchNorm2d(4, track_running_stats=False),
            r'layers.0 \(BatchNorm2d\): .*track_running_stats=True',
        ),
        (
            lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode='circular'),
            r"layers.0 \(Conv2d\): pad: mode 'circular'",
        ),
        (
            lambda: IRConv2d(4, 4, 3, padding=1, padding_mode='reflect'),
            r"layers.0 \(IRConv2d.*\): padding mode 'reflect'",
        ),
        (lambda: Doubled(4, 4, 3), r'layers.0 \(Doubled.*a subclass of IRConv2d'),
        (
            lambda: replaced(IRConv2d(4, 4, 3)),
            r'layers.0 \(IRConv2d.*: its _operands was replaced by another',
        ),
        (
            lambda: parametrizations.weight_norm(IRConv2d(4, 4, 3)),
            r'layers.0 \(Parametrized.*parametrized',
        ),
        (
            lambda: weight_norm(IRConv2d(4, 4, 3)),
            'layers.0.weight: it is computed anew',
        ),
        (lambda: weight_norm(nn.Conv2d(4, 4, 3)), 'layers.0.weight: it is computed'),
        (lambda: pruned(nn.Conv2d(4, 4, 3)), 'layers.0.*: .*computed anew'),
        (lambda: nan(IRConv2d(4, 4, 3)), 'layers.0.weight: it holds NaN'),
        (lambda: nan(nn.Conv2d(4, 4, 3)), 'layers.0.weight: it holds NaN'),
        (lambda: nn.Conv2d(5, 4, 3), r'layers.0 \(Conv2d\): it does not run on images'),
        (lambda: nn.LazyConv2d(4, 3), 'layers.0.weight: it has no shape before'),
        (lambda: nn.Conv2d(4, 4, 3, device='meta'), 'layers.0.weight: .* meta device'),
    ],
)
def test_layers_are_refused_by_name(make, message):
    network = build(lambda net, x: net.layers[0](x) if net.layers else x)
    network.layers.append(make())
    with pytest.raises(UnsupportedModelError, match=message) as error:
        pack(network, (8, 6))
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('output', 'message'),
    [
        (lambda x: (x, x), 'it gives 2 outputs'),
        (lambda x: {'a': x, 'b': x}, 'it gives 2 outputs'),
        (lambda x: None, 'its output is NoneType'),
        (lambda x: torch.zeros(len(x), 3), 'its output is not what its layers gave'),
        (lambda x: x, 'it gives maps of 3x4x4, no vector'),
    ],
)
def test_outputs_that_are_no_logits(output, message):
    class Network(nn.Module):
        def forward(self, x):
            return output(x)

    with pytest.raises(UnsupportedModelError, match=message):
        pack(Network(), (4, 4))


class Counting(nn.Module):
    """Something else each time."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3 * 8 * 6, 2)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.fc(x.flatten(1)) + self.calls


class Learning(Counting):
    """Other weights each time."""

    def forward(self, x):
        self.fc.bias += 1
        return self.fc(x.flatten(1))


@pytest.mark.parametrize(
    ('model', 'message'),
    [
        (len, 'builtin_function_or_method: it is no torch.nn.Module'),
        (Counting(), 'in another call'),
        (Learning(), r'fc\.bias: it changes from one call to the next'),
        (torch.jit.trace(mixed_network().eval(), torch.zeros(1, 3, 9, 9)), 'torch.jit'),
        (nn.ModuleList(), r'the model \(ModuleList\): it does not run'),
    ],
)
def test_models_that_are_no_function_of_an_image(model, message):
    with pytest.raises(UnsupportedModelError, match=message):
        pack(model, (8, 6))


@pytest.mark.parametrize(
    ('coin', 'name'),
    [
        (lambda: torch.rand(()).item() < 0.5, 'torch'),
        (lambda: bool(torch.bernoulli(torch.tensor(0.5))), 'torch'),
        (lambda: random.random() < 0.5, 'random'),
        (lambda: np.random.rand() < 0.5, r'numpy\.random'),
    ],
)
def test_a_network_that_flips_a_coin_is_refused(coin, name):
    class Flipping(Counting):
        def forward(self, x):
            x = self.fc(x.flatten(1))
            return x.relu() if coin() else x

    with pytest.raises(UnsupportedModelError, match=rf'random numbers \({name}\)'):
        pack(Flipping(), (8, 6))


def test_dropout_that_is_off_draws_nothing():
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(48, 2))
    state = torch.get_rng_state()
    pack(network, (4, 4))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize('wrap', [lambda x: [x], lambda x: (x,), lambda x: {'a': x}])
def test_one_output_in_a_container(wrap):
    class Network(nn.Sequential):
        def forward(self, x):
            return wrap(super().forward(x))

    network = Network(nn.Flatten(), nn.Linear(48, 2))
    assert pack(network, (4, 4)).graph[-1]['dst'] == '1'


def test_wrapped_models():
    model = mixed_network()
    plain = pack(model, (9, 9))
    half = pack(copy.deepcopy(model).half(), (9, 9))
    assert half.graph == plain.graph
    child = copy.deepcopy(model)
    child[3] = torch.compile(child[3])
    wrapped = [
        torch.compile(model),
        ExponentialMovingAverage(model),
        torch.optim.swa_utils.AveragedModel(model),
        nn.DataParallel(model),
        model.train(),
        child,
    ]
    for other in wrapped:
        again = pack(other, (9, 9))
        assert again.graph == plain.graph
        for name, tensor in plain.tensors.items():
            np.testing.assert_array_equal(again.tensors[name], tensor)


RESNET = dict(type='ResNet', depth=18, conv_cfg=dict(type='IRConv2d'))
MODELS = {
    'first layer binary': (RESNET, 'LinearClsHead', {}),
    'all stages': (RESNET | dict(out_indices=(0, 1, 2, 3)), 'LinearClsHead', {}),
    'SyncBN': (RESNET | dict(norm_cfg=dict(type='SyncBN')), 'LinearClsHead', {}),
    'many labels': (RESNET, 'MultiLabelLinearClsHead', {}),
    'stacked': (
        RESNET | dict(deep_stem=True, avg_down=True),
        'StackedLinearClsHead',
        dict(mid_channels=[16], dropout_rate=0.1, norm_cfg=dict(type='BN1d')),
    ),
    'VGG': (
        dict(type='VGG', depth=11, conv_cfg=dict(type='IRConv2d')),
        'LinearClsHead',
        {},
    ),
    'MobileNetV2': (
        dict(type='MobileNetV2', widen_factor=0.25, conv_cfg=dict(type='IRConv2d')),
        'LinearClsHead',
        dict(in_channels=1280),
    ),
}


@pytest.mark.parametrize('name', MODELS)
def test_mmpretrain_models(name):
    backbone, kind, options = MODELS[name]
    torch.manual_seed(0)
    head = dict(type=kind, num_classes=10, in_channels=512) | options
    init_default_scope('mmpretrain')
    neck = dict(type='GlobalAveragePooling')
    model = REGISTRY.build(
        dict(type='ImageClassifier', backbone=backbone, neck=neck, head=head)
    )
    warm_up(model, 3, 32, 32)
    packed = pack(model, (32, 32))
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        wanted = model(x)
        got = Simulation(packed)(x)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    engine = Session(packed, threads=1).predict(x)
    np.testing.assert_allclose(engine, got, rtol=1e-4, atol=1e-4)
    state = latent_state_dict(packed)
    assert set(state) == {n for n in model.state_dict() if 'data_prep' not in n}


def test_trained_batch_norms():
    """Slopes below and at zero, and variances far below eps."""
    network = build(
        lambda net, x: net.layers[1](net.layers[0](x)),
        nn.BatchNorm2d(4),
        IRConv2d(4, 4, 3),
    )
    with torch.no_grad():
        network.layers[0].weight.copy_(torch.tensor([-1.0, 0.0, -0.0, 1e-20]))
        network.layers[0].bias.copy_(torch.tensor([0.5, 0.0, -0.0, 0.0]))
        network.layers[0].running_var.copy_(torch.tensor([1e-30, 1.0, 0.0, 1e10]))
    check_equal(network, (8, 6))


def test_random_networks_agree_or_are_refused():
    packed = sum(agrees(*random_network(seed), seed) for seed in range(250))
    assert 80 < packed < 170
