"""Converted checkpoints of AdaBin and ReActNet give the logits of their formulas."""

import re
import runpy
from pathlib import Path

import pytest
import torch
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from networks import warm_up
from released_recipes import AdaBinResNet20, ReActNetConv, ReActNetResNet18

import mmirnet  # noqa: F401
from mmirnet.apis.conversion import convert, convert_state_dict
from mmirnet.engine.checkpoint import load_checkpoint_file
from mmirnet.engine.config import load_config
from mmirnet.errors import CheckpointError

TOOLS = Path(__file__).parents[2] / 'tools' / 'convert'
CLASSES = 7
THEIRS = {'adabin-resnet20': AdaBinResNet20, 'reactnet-resnet18': ReActNetResNet18}
OURS = {
    'adabin-resnet20': dict(
        backbone=dict(
            type='IRResNet_CIFAR',
            depth=20,
            conv_cfg=dict(type='AdaBinConv2d'),
            act_cfg=dict(type='Maxout'),
            shortcut='pad',
        ),
        head=dict(type='BNLinearClsHead', num_classes=CLASSES, in_channels=64),
    ),
    'reactnet-resnet18': dict(
        backbone=dict(
            type='IRResNet',
            depth=18,
            conv_cfg=dict(type='ReActConv2d'),
            act_cfg=dict(type='RPReLU'),
            shortcut='avg_conv',
            stem_act=False,
        ),
        head=dict(type='LinearClsHead', num_classes=CLASSES, in_channels=512),
    ),
}


def trained(arch):
    """The released network with numbers as training leaves them, in float64."""
    torch.manual_seed(0)
    net = THEIRS[arch](CLASSES)
    for name, p in net.named_parameters():
        if re.search(r'move|(alpha|beta)_a|_scale|prelu', name):
            with torch.no_grad():
                p.add_(torch.randn_like(p), alpha=0.2)
    return warm_up(net, 3, 32, 32).double()


def built(arch, **conv):
    cfg = dict(OURS[arch], type='ImageClassifier')
    backbone = dict(cfg['backbone'])
    backbone['conv_cfg'] = backbone['conv_cfg'] | conv
    init_default_scope('mmpretrain')
    neck = dict(type='GlobalAveragePooling')
    return MODELS.build(dict(cfg, backbone=backbone, neck=neck)).double().eval()


@pytest.fixture(scope='module')
def nets():
    return {arch: trained(arch) for arch in THEIRS}


@pytest.fixture(params=THEIRS)
def arch(request):
    return request.param


@pytest.mark.parametrize('form', ['released', 'flat', 'wrapped'])
def test_logits_are_those_of_the_released_network(nets, arch, form, tmp_path):
    net = nets[arch]
    state = dict(net.state_dict())
    if form == 'flat':  # vectors, and weights as columns
        for name, tensor in list(state.items()):
            if re.search(r'move|_scale', name):
                state[name] = tensor.flatten()
            elif name.endswith('binary_conv.weight'):
                state[f'{name}s'] = state.pop(name).reshape(-1, 1)
    elif form == 'wrapped':
        state = {f'module.{name}': tensor for name, tensor in state.items()}
        state = {'state_dict': state, 'epoch': 127, 'best_top1_acc': 65.9}
    torch.save(state, tmp_path / 'theirs.pth')
    report = convert(tmp_path / 'theirs.pth', tmp_path / 'ours.pth', arch)
    assert f'{len(net.state_dict())} tensors of a {arch}' in report
    ours = built(arch)
    converted = load_checkpoint_file(str(tmp_path / 'ours.pth'))['state_dict']
    ours.load_state_dict(converted, strict=True)
    x = torch.randn(4, 3, 32, 32, dtype=torch.double)
    with torch.no_grad():
        expected = net(x)
        torch.testing.assert_close(ours(x), expected, rtol=0, atol=1e-6)
    assert expected.std() > 0.01


def test_tools(nets, arch, tmp_path, monkeypatch, capsys):
    recipe = arch.partition('-')[0]
    torch.save(nets[arch].state_dict(), tmp_path / 'theirs.pth')
    words = [f'{recipe}_official.py', tmp_path / 'theirs.pth', tmp_path / 'ours.pth']
    monkeypatch.setattr('sys.argv', list(map(str, words)))
    runpy.run_path(str(TOOLS / words[0]), run_name='__main__')
    assert f'tensors of a {arch}' in capsys.readouterr().out
    assert (tmp_path / 'ours.pth').is_file()
    monkeypatch.setattr('sys.argv', [words[0], 'none.pth', 'ours.pth'])
    with pytest.raises(SystemExit):
        runpy.run_path(str(TOOLS / words[0]), run_name='__main__')
    assert capsys.readouterr().err.count('\n') == 1


def test_logits_of_reactnets_first_step(nets, monkeypatch):
    """Weights in full precision: the same names, and the same converter."""
    arch = 'reactnet-resnet18'
    monkeypatch.setattr(ReActNetConv, 'real', True)
    ours = built(arch, binarize_weight=False)
    ours.load_state_dict(convert_state_dict(nets[arch].state_dict(), arch)[0])
    x = torch.randn(2, 3, 32, 32, dtype=torch.double)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), nets[arch](x), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ('arch', 'name', 'tensor', 'message'),
    [
        (
            'adabin-resnet20',
            'layer1.0.nonlinear1.pos_scale',
            None,
            r'layer1\.0\.act1\.positive is missing',
        ),
        (
            'adabin-resnet20',
            'layer2.0.conv1.binary_a.alpha_a',
            torch.ones(2),
            r'layer2\.0\.conv1\.binary_a\.alpha_a has shape \(2,\), not \(1,\)',
        ),
        (
            'adabin-resnet20',
            'layer2.0.conv1.binary_a.gamma_a',
            torch.ones(1),
            r'layer2\.0\.conv1\.binary_a\.gamma_a has no place',
        ),
        (
            'adabin-resnet20',
            'bn2.bias',
            None,
            r'head\.bn\.bias is missing',
        ),
        (
            'reactnet-resnet18',
            'layer1.3.move0.bias',
            None,
            r'layer1\.1\.conv2\.shift is missing',
        ),
        (
            'reactnet-resnet18',
            'layer1.4.move0.bias',
            torch.zeros(1, 64, 1, 1),
            r'layer1\.4\.move0\.bias has no place',
        ),
        (
            'reactnet-resnet18',
            'layer1.0.move1.bias',
            torch.zeros(8, 8),
            r'layer1\.0\.move1\.bias has shape \(8, 8\), not \(64,\)',
        ),
        (
            'reactnet-resnet18',
            'layer1.0.binary_conv.weight',
            torch.zeros(64, 64, 1, 9),
            r'binary_conv\.weight has shape \(64, 64, 1, 9\), not \(64, 64, 3, 3\)',
        ),
        (
            'reactnet-resnet18',
            'layer1.0.binary_conv.weights',
            torch.zeros(64 * 64 * 9, 1),
            r'layer1\.0\.binary_conv\.weight and layer1\.0\.binary_conv\.weights, whi',
        ),
        (
            'reactnet-resnet18',
            'layer1.0.downsample.1.weight',
            torch.zeros(64, 64, 1, 1),
            r'layer1\.0\.downsample\.1\.weight has no place',
        ),
    ],
)
def test_what_does_not_fit_is_named(nets, arch, name, tensor, message):
    state = dict(nets[arch].state_dict())
    state.pop(name, None)
    if tensor is not None:
        state[name] = tensor
    if name.endswith('weights'):
        state['layer1.0.binary_conv.weight'] = torch.zeros(64, 64, 3, 3)
    with pytest.raises(CheckpointError, match=f'not a {arch}: .*{message}') as error:
        convert_state_dict(state, arch)
    assert '\n' not in str(error.value)


def test_the_architecture_that_fits_is_named(nets, arch):
    for wrong in ('resnet20', 'resnet18', *(THEIRS.keys() - {arch})):
        with pytest.raises(CheckpointError, match=f'looks like {arch}, not {wrong}: '):
            convert_state_dict(nets[arch].state_dict(), wrong)


@pytest.mark.parametrize(
    ('arch', 'config'),
    [
        ('adabin-resnet20', 'adabin/adabin_resnet20_bireal_cifar10'),
        ('reactnet-resnet18', 'react/react_resnet18_bireal_step1_in1k'),
        ('reactnet-resnet18', 'react/react_resnet18_bireal_step2_in1k'),
    ],
)
def test_configs_take_converted_checkpoints(arch, config):
    init_default_scope('mmpretrain')
    model = load_config(f'mmirnet::{config}.py', None, 'none').model
    classes = model.head.num_classes
    with torch.device('meta'):
        net, theirs = MODELS.build(model), THEIRS[arch](classes)
    state, _ = convert_state_dict(theirs.state_dict(), arch)
    net.load_state_dict(state, strict=True, assign=True)


def test_every_parameter_is_compared(nets, arch):
    """No parameter starts at a value for which its place would not matter."""
    for name, p in nets[arch].named_parameters():
        if p.numel() > 1:
            assert p.std() > 0, name
