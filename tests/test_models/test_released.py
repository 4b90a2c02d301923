"""Configs and converter against the released networks, operation by operation."""

import copy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from mmpretrain.registry import MODELS
from networks import warm_up
from released import RELEASED, BinaryConv
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import mmirnet  # noqa: F401
from mmirnet.apis.conversion import ARCHITECTURES, convert, convert_state_dict
from mmirnet.binary import binary_layers, set_ede

SMALL = [name for name in RELEASED if 'resnet20' in name or 'vgg' in name]
CONFIGS = Path(__file__).parents[2] / 'configs' / 'irnet'


class Steps(TorchDispatchMode):
    """What is done to a batch, in order: names and results."""

    names = {
        'convolution': 'conv',
        'native_batch_norm': 'norm',
        'cudnn_batch_norm': 'norm',
        'relu': 'relu',
        'relu_': 'relu',
        'max_pool2d_with_indices': 'max pool',
        'avg_pool2d': 'mean',
        'mean': 'mean',
        'addmm': 'linear',
    }

    def __init__(self, batch):
        super().__init__()
        self.batch = batch
        self.done = []

    def name_of(self, operator, args):
        """None for what makes binary weights and signs."""
        if operator in ('clamp', 'hardtanh', 'hardtanh_'):
            limits = tuple(args[1:]) or (-1.0, 1.0)
            return 'hardtanh' if limits == (-1, 1) else None
        if operator == 'add':  # of two tensors; a number is part of a sign
            return 'add' if isinstance(args[1], torch.Tensor) else None
        return self.names.get(operator)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        name = self.name_of(function.overloadpacket.__name__, args)
        first = out[0] if isinstance(out, tuple | list) else out
        if name and first.shape[0] == self.batch and first.dim() > 1:
            self.done.append((name, first.detach().flatten(1).clone()))
        return out


def built(config):
    init_default_scope('mmpretrain')
    cfg = Config.fromfile(CONFIGS / f'{config}.py')
    model = MODELS.build(cfg.model)
    set_ede(model, 0.7)
    return model


@pytest.fixture(params=RELEASED, scope='module')
def pair(request, tmp_path_factory):
    """The released network, and ours with its weights through the converter."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp('released')
    build, arch = RELEASED[request.param]
    size = 64 if 'in1k' in request.param else 32
    theirs, ours = build(), built(request.param)
    warm_up(theirs, 3, size, size)
    state = {f'module.{n}': t for n, t in theirs.state_dict().items()}
    torch.save({'state_dict': state, 'epoch': 1}, folder / 'theirs.pth')
    convert(folder / 'theirs.pth', folder / 'ours.pth', arch)
    load_checkpoint(ours, str(folder / 'ours.pth'), strict=True)
    return theirs, ours, torch.randn(3, 3, size, size)


@pytest.mark.parametrize('training', [False, True])
def test_same_operations_in_the_same_order(pair, training):
    *networks, x = pair
    steps = []
    for net in networks:
        with torch.no_grad(), Steps(len(x)) as seen:
            net.train(training)(x)
        steps.append(seen.done)
    assert [name for name, _ in steps[1]] == [name for name, _ in steps[0]]
    for i, ((name, a), (_, b)) in enumerate(zip(*steps, strict=True)):
        assert (a - b).abs().max() <= 1e-4 * a.abs().max(), f'{i}: {name}'
    assert len(steps[0]) > 15


def test_same_bits_everywhere(pair):
    theirs, ours, _ = pair
    expected = [m.activations for m in theirs.modules() if isinstance(m, BinaryConv)]
    assert [layer.binarize_input for _, layer in binary_layers(ours)] == expected


@pytest.mark.parametrize('pair', SMALL, indirect=True)
def test_same_gradients(pair, monkeypatch):
    """In float64: in less, a sign may flip and everything with it."""
    theirs, ours = (copy.deepcopy(net).double().train() for net in pair[:2])
    x = pair[2].double()
    set_ede(ours, 0.7)
    for name in ('t', 'k'):
        monkeypatch.setattr(BinaryConv, name, getattr(BinaryConv, name).double())
    for net in (theirs, ours):
        net(x).square().sum().backward()
    arch = 'vgg-small' if hasattr(theirs, 'fc') else 'resnet20'
    found = theirs.state_dict() | {n: p.grad for n, p in theirs.named_parameters()}
    expected, _ = convert_state_dict(found, arch)
    for name, p in ours.named_parameters():
        error = (p.grad - expected[name]).norm() / expected[name].norm()
        assert error < 1e-6, name


@pytest.mark.parametrize('config', RELEASED)
def test_same_initialisation(config):
    """Mean and deviation of each tensor that is drawn."""
    theirs, ours = RELEASED[config][0](), built(config)
    ours.init_weights()
    drawn = [
        [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        for net in (theirs, ours)
    ]
    for a, b in zip(*drawn, strict=True):
        assert a.weight.shape == b.weight.shape
        assert a.weight.std().item() == pytest.approx(b.weight.std().item(), rel=0.15)
        # uniform or normal
        assert _kurtosis(a.weight) == pytest.approx(_kurtosis(b.weight), abs=0.9)
        if a.bias is not None and 'resnet20' not in config:  # it starts at zero here
            assert bool(a.bias.any()) == bool(b.bias.any())


def _kurtosis(weight):
    return (weight / weight.std()).pow(4).mean().item()


def test_every_structure_of_the_converter_is_compared():
    compared = {arch for _, arch in RELEASED.values()}
    # The others are those of test_released_recipes.py.
    assert compared | {'adabin-resnet20', 'reactnet-resnet18'} == ARCHITECTURES.keys()
