"""Every architecture with its test images' size, packed."""

import pytest
import torch
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from networks import warm_up

from mmirnet.packed import pack


def classifier(backbone, width, neck='GlobalAveragePooling', head='BNLinearClsHead'):
    init_default_scope('mmpretrain')
    return MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=backbone,
            neck=dict(type=neck),
            head=dict(type=head, num_classes=10, in_channels=width),
            data_preprocessor=dict(mean=[120.0, 110.0, 100.0], std=[60.0, 50.0, 40.0]),
        )
    )


W1A32 = dict(type='IRConv2d', binarize_input=False)
RELU = dict(type='ReLU', inplace=True)
BINARY = dict(type='IRConv2d')


def cifar(depth, **kwargs):
    return dict(type='IRResNet_CIFAR', depth=depth, **kwargs)


ARCHITECTURES = {
    'resnet20-bireal': (cifar(20), 64, 32),
    'resnet20-fp': (cifar(20, conv_cfg=None), 64, 32),  # each block reads x twice
    'resnet20-normal': (cifar(20, structure='normal', stem_act=False), 64, 32),
    'resnet20-w1a32': (
        cifar(20, structure='normal', stem_act=False, conv_cfg=W1A32, act_cfg=RELU),
        64,
        32,
    ),
    'resnet18-cifar': (cifar(18, structure='normal', stem_act=False), 512, 32),
    'resnet18-bireal': (dict(type='IRResNet', depth=18), 512, 64),
    'resnet18-normal': (dict(type='IRResNet', depth=18, structure='normal'), 512, 64),
    'resnet18-binary-shortcuts': (
        dict(type='IRResNet', depth=18, downsample_conv_cfg=BINARY),
        512,
        64,
    ),
    'resnet34-w1a32': (
        dict(
            type='IRResNet',
            depth=34,
            structure='normal',
            conv_cfg=W1A32,
            act_cfg=RELU,
        ),
        512,
        64,
    ),
    'vgg-small': (dict(type='IRVGGSmall'), 8192, 32),
}


@pytest.fixture(scope='module', params=ARCHITECTURES, ids=str)
def packed_model(request):
    torch.manual_seed(0)
    backbone, width, size = ARCHITECTURES[request.param]
    parts = ('FlattenNeck', 'LinearClsHead') if 'vgg' in request.param else ()
    model = classifier(backbone, width, *parts)
    model.forward = lambda x: model.head(model.neck(model.backbone(x)))
    warm_up(model, 3, size, size)
    return model, pack(model, (size, size)), size
