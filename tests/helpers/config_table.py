"""Configs of all kinds, with files and networks so small that all tools take them.

Every number is a multiple of a power of two, and no sum needs more than 24 bits: no
order of summation rounds, so that torch, ONNX Runtime and the runtime give the same
bits on every machine.
"""

import json

import numpy as np
import torch
from mmengine.model import BaseModule
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from PIL import Image
from torch import nn

from mmirnet.binary import IRConv2d
from mmirnet.engine.config import load_config

#: Normalisation without rounding.
MEAN, STD = [128.0, 64.0, 96.0], [64.0, 128.0, 64.0]
CLASSES = ('cat', 'dog', 'eel')


@MODELS.register_module(force=True)
class TableNet(BaseModule):
    """Three convolutions, two of them binary.

    Args:
        in_channels (int): Channels of the images.
    """

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, 2, 1, bias=False)
        # Nothing in float32 beside a variance of 1; torch 2.11 refuses 0.
        self.norm1 = nn.BatchNorm2d(16, eps=1e-12)
        self.act1 = nn.Hardtanh()
        self.conv2 = IRConv2d(16, 16, 3, stride=2, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(16, eps=1e-12)
        self.act2 = nn.Hardtanh()
        self.conv3 = IRConv2d(16, 32, 3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(32, eps=1e-12)
        self.act3 = nn.Hardtanh()

    def forward(self, x):
        x = self.act1(self.norm1(self.conv1(x)))
        x = self.act2(self.norm2(self.conv2(x)))
        return (self.act3(self.norm3(self.conv3(x))),)


def _multiples(shape, step, largest, rng):
    bound = round(largest / step)
    return torch.from_numpy(rng.integers(-bound, bound + 1, shape) * step).float()


def set_weights(model, seed=0):
    """Gives a TableNet classifier weights and statistics without rounding."""
    rng = np.random.default_rng(seed)
    slopes = {16: 2.0**-2, 32: 2.0**-5}
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                slope = slopes[module.num_features] / (8 if name[-1] == '2' else 1)
                signs = rng.choice([-1.0, 1.0], module.num_features)
                module.weight.copy_(torch.from_numpy(slope * signs))
                shape = module.bias.shape
                module.bias.copy_(_multiples(shape, 1 / 64, 0.5, rng))
                module.running_mean.copy_(_multiples(shape, 1 / 64, 1, rng))
                module.running_var.fill_(1)
            elif isinstance(module, IRConv2d):
                module.weight.copy_(_multiples(module.weight.shape, 1 / 64, 1, rng))
            elif isinstance(module, nn.Conv2d | nn.Linear):
                step = 1 / 64 if isinstance(module, nn.Conv2d) else 1 / 8
                module.weight.copy_(_multiples(module.weight.shape, step, 1, rng))
                if module.bias is not None:
                    module.bias.copy_(_multiples(module.bias.shape, 1 / 64, 1, rng))
    return model


def images(folder, size, classes=CLASSES, each=2, grey=False):
    """Writes random coarse images, one folder a class."""
    rng = np.random.default_rng(len(classes))
    for name in classes:
        for i in range(each):
            shape = (size[0] // 4 + 1, size[1] // 4 + 1) + (() if grey else (3,))
            pixels = rng.integers(0, 256, shape, np.uint8)
            pixels = pixels.repeat(4, 0).repeat(4, 1)[: size[0], : size[1]]
            path = folder / name / f'{name}{i}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return folder


READ, PACK = dict(type='LoadImageFromFile'), dict(type='PackInputs')
WHOLE = dict(type='Resize', scale=(32, 32))


def folder_set(root, *steps, read=READ, size=(40, 56), **kwargs):
    """A data set of one folder a class."""
    grey = read.get('color_type') == 'grayscale'
    images(root / 'images', size, grey=grey)
    return dict(
        type='CustomDataset',
        data_root=str(root / 'images'),
        pipeline=[read, *(steps or [WHOLE]), PACK],
        serialize_data=False,  # which takes a second, for whatever else is in memory
    ) | dict(kwargs)


def loader(dataset):
    return dict(
        batch_size=4,
        num_workers=0,
        dataset=dataset,
        sampler=dict(type='DefaultSampler', shuffle=False),
    )


def table_config(root, dataset, *, channels=3, head=None, **settings):
    """A config of TableNet; settings replace those of the top level."""
    head = dict(type='LinearClsHead', in_channels=32, num_classes=3) | (head or {})
    return dict(
        custom_imports=dict(imports=['mmirnet', 'config_table']),
        default_scope='mmpretrain',
        log_level='ERROR',
        work_dir=str(root / 'work'),
        experiment_name=str(root).replace('/', '-'),
        model=dict(
            type='ImageClassifier',
            backbone=dict(type='TableNet', in_channels=channels),
            neck=dict(type='GlobalAveragePooling'),
            head=head,
        ),
        data_preprocessor=dict(mean=MEAN, std=STD, to_rgb=True),
        train_dataloader=loader(dataset),
        val_dataloader=loader(dataset),
        val_cfg=dict(),
        val_evaluator=dict(type='Accuracy'),
        test_dataloader=loader(dataset),
        test_cfg=dict(),
        test_evaluator=dict(type='Accuracy'),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
    ) | dict(settings)


def save_checkpoint(config, path, classes, seed=0, ema=False):
    """Builds a config's model with weights of this module, as training saves it."""
    cfg = load_config(str(config), None, 'none')
    init_default_scope('mmpretrain')
    model = set_weights(MODELS.build(cfg.model), seed)
    checkpoint = dict(
        state_dict=model.state_dict(),
        meta=dict(cfg=cfg.pretty_text, epoch=1, iter=1, seed=0, time='20261126_120000'),
    )
    if classes is not None:
        checkpoint['meta']['dataset_meta'] = dict(classes=classes)
    if ema:  # MMEngine puts the averaged weights first
        other = set_weights(MODELS.build(cfg.model), seed + 1)
        buffers = dict(model.named_buffers())  # which are not averaged
        checkpoint['ema_state_dict'] = {
            'steps': torch.tensor(1),
            **{f'module.{n}': buffers.get(n, v) for n, v in other.state_dict().items()},
        }
    torch.save(checkpoint, path)
    scalars = path.parent / '20261126_120000' / 'vis_data' / 'scalars.json'
    scalars.parent.mkdir(parents=True)
    scalars.write_text(json.dumps(dict(loss=1.0, lr=0.1, epoch=1, step=1)) + '\n')
