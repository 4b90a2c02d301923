"""A network and a runner that train in no time, for tests of hooks and tools."""

import uuid

import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from mmirnet.binary import IRConv2d, binary_layers


class Points(Dataset):
    """24 fixed points with two classes."""

    def __init__(self, n=24):
        gen = torch.Generator().manual_seed(0)
        self.x = torch.randn(n, 4, 5, 5, generator=gen)
        self.y = (self.x.mean((1, 2, 3)) > 0).long()

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return dict(inputs=self.x[i], label=self.y[i])


class TinyNet(BaseModel):
    """A convolution, binary or not; remembers the t and k of its training steps."""

    def __init__(self, binary=True, conv=IRConv2d):
        super().__init__()
        torch.manual_seed(0)
        conv = conv if binary else nn.Conv2d
        self.net = nn.Sequential(
            conv(4, 6, 3), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(54, 2)
        )
        self.seen = []

    def forward(self, inputs, label, mode='tensor'):
        out = self.net(inputs)
        if mode == 'loss':
            self.seen += [layer.t_and_k.tolist() for _, layer in binary_layers(self)]
            return dict(loss=nn.functional.cross_entropy(out, label))
        return out


def tiny_runner(work_dir, hooks=(), binary=True, model=None, **kwargs):
    """A Runner of 3 epochs with 4 iterations each; kwargs go into its config."""
    args = dict(
        model=model or TinyNet(binary),
        work_dir=str(work_dir),
        train_dataloader=dict(
            batch_size=6,
            dataset=Points(),
            sampler=dict(type='DefaultSampler', shuffle=True),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=3),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(logger=dict(type='LoggerHook', interval=1)),
        custom_hooks=list(hooks),
        default_scope='mmpretrain',
        log_level='WARNING',
        experiment_name=f'tiny-{uuid.uuid4()}',
        randomness=dict(seed=0),
    )
    args.update(kwargs)
    return Runner(**args)
