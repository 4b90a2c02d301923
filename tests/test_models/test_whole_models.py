"""Whole classifiers where others copy, trace and export them."""

import copy
import io
import pickle

import onnxruntime
import pytest
import torch
from mmcv.cnn import fuse_conv_bn
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from networks import warm_up

import mmirnet  # noqa: F401
from mmirnet.binary import set_ede
from mmirnet.errors import ConfigError

BACKBONES = {
    'resnet20': (dict(type='IRResNet_CIFAR', depth=20), 64),
    'resnet20 1/32': (
        dict(
            type='IRResNet_CIFAR',
            depth=20,
            structure='normal',
            conv_cfg=dict(type='IRConv2d', binarize_input=False),
            act_cfg=dict(type='PReLU', num_parameters=2),
        ),
        64,
    ),
    'vgg-small': (dict(type='IRVGGSmall'), 8192),
    'AdaBin': (
        dict(
            type='IRResNet_CIFAR',
            depth=20,
            conv_cfg=dict(type='AdaBinConv2d'),
            act_cfg=dict(type='Maxout'),
            shortcut='avg_pad',
        ),
        64,
    ),
    'ReActNet': (
        dict(
            type='IRResNet_CIFAR',
            depth=20,
            conv_cfg=dict(type='ReActConv2d'),
            act_cfg=dict(type='RPReLU'),
            shortcut='avg_conv',
        ),
        64,
    ),
    'mmpretrain': (
        dict(type='ResNet_CIFAR', depth=18, conv_cfg=dict(type='IRConv2d')),
        512,
    ),
}


@pytest.fixture(params=BACKBONES, scope='module')
def model(request):
    torch.manual_seed(0)
    backbone, width = BACKBONES[request.param]
    vgg = 'VGG' in backbone['type']
    head = 'BNLinearClsHead' if 'IRResNet' in backbone['type'] else 'LinearClsHead'
    init_default_scope('mmpretrain')
    model = MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=copy.deepcopy(backbone),
            neck=dict(type='FlattenNeck' if vgg else 'GlobalAveragePooling'),
            head=dict(type=head, num_classes=10, in_channels=width),
        )
    )
    set_ede(model, 1.0)
    return warm_up(model, 3, 32, 32)


@pytest.fixture
def x():
    return torch.randn(2, 3, 32, 32)


@pytest.mark.parametrize(
    'copied', [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))]
)
def test_copies(model, x, copied):
    assert torch.equal(copied(model)(x), model(x))


def test_torchscript(model, x):
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(model, x), file)
    file.seek(0)
    other = torch.randn(3, 3, 32, 32)
    assert torch.allclose(torch.jit.load(file)(other), model(other), atol=1e-4)


def test_old_onnx_exporter(model, x):
    file = io.BytesIO()
    torch.onnx.export(model, (x,), file, dynamo=False, input_names=['x'])
    session = onnxruntime.InferenceSession(file.getvalue())
    # In another order of summation a sign may flip: the same operations, not bits.
    (answer,) = session.run(None, {'x': x.numpy()})
    expected = model(x)
    assert answer.shape == expected.shape
    assert abs(answer).max() < 10 * expected.abs().max()


def test_export(model, x):
    program = torch.export.export(model, (x,), strict=False)
    assert torch.allclose(program.module()(x), model(x), atol=1e-4)


def test_fusing_is_refused(model):
    with pytest.raises(ConfigError, match='cannot be fused with a batch norm'):
        fuse_conv_bn(copy.deepcopy(model))
