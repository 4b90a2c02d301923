"""Short runs of a tiny network in memory, in the loops with and without replays."""

import os
import signal
import uuid

import torch
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from torch import nn

from mmirnet.binary import IRConv2d

init_default_scope('mmpretrain')
IMAGES = 60  # seven batches of 8, and one of 4
CROP = dict(type='RandomCrop', crop_size=32, padding=4)
FLIP = dict(type='RandomFlip', prob=0.5, direction='horizontal')
PACK = dict(type='PackInputs')
JITTER = dict(type='ColorJitter', brightness=0.5, backend='pillow')


@MODELS.register_module()
class TinyBackbone(nn.Module):
    """A binary convolution between two batch norms; may draw numbers or signal."""

    def __init__(
        self, dropout=0.0, draws=False, waits=False, stop_at=None, breaks_at=None
    ):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 4, 3, 4)
        self.norm = nn.BatchNorm2d(4)
        self.conv = IRConv2d(4, 6, 3, 2)
        self.last = nn.BatchNorm2d(6)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.draws, self.waits = draws, waits
        self.stop_at, self.breaks_at = stop_at, breaks_at
        self.steps = 0

    def forward(self, x):
        # Compiled, each step would have a graph of its own, and soon none.
        if self.training and not torch.compiler.is_compiling():
            self.steps += 1
            if self.steps == self.stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            if self.steps == self.breaks_at:
                x = x * float('inf')
            if self.draws:
                x = x + torch.rand(1)
            if self.waits:
                x = x / x.norm().item()
        x = self.last(self.conv(self.norm(self.stem(x))))
        return (self.dropout(x),)


def in_memory(pipeline=(CROP, FLIP, PACK), indices=IMAGES, split='train'):
    data = dict(
        type='Digits',
        split=split,
        indices=indices,
        pipeline=[dict(t) for t in pipeline],
    )
    return dict(type='InMemory', dataset=data)


def runner_of(
    folder,
    loop,
    hooks=(),
    backbone=(),
    head=(),
    data=(),
    defaults=(),
    loop_args=(),
    **kwargs,
):
    captured = loop == 'CapturedEpochLoop'
    args = dict(capture=False, steps_per_replay=3) if captured else {}
    args = {'max_epochs': 2, **args, **dict(loop_args)}
    options = dict(
        model=dict(
            type='ImageClassifier',
            backbone={'type': 'TinyBackbone', **dict(backbone)},
            neck=dict(type='GlobalAveragePooling'),
            head={
                **dict(type='BNLinearClsHead', num_classes=10, in_channels=6),
                **dict(head),
            },
            data_preprocessor=dict(num_classes=10, mean=[128] * 3, std=[64] * 3),
        ),
        work_dir=str(folder),
        train_dataloader={
            **dict(
                batch_size=8,
                num_workers=0,
                dataset=in_memory(),
                sampler=dict(type='DefaultSampler', shuffle=True),
                collate_fn=dict(type='as_is'),
            ),
            **dict(data),
        },
        train_cfg=dict(type=loop, **args),
        optim_wrapper=dict(optimizer=SGD),
        param_scheduler=dict(type='CosineAnnealingLR', T_max=2, by_epoch=True),
        default_hooks={
            **dict(
                logger=dict(type='LoggerHook', interval=5),
                checkpoint=dict(type='AtomicCheckpointHook', interval=1),
                finite_loss=dict(type='FiniteLossHook'),
                preemption=dict(type='PreemptionHook'),
            ),
            **dict(defaults),
        },
        custom_hooks=[dict(type='EDEHook'), *hooks],
        default_scope='mmpretrain',
        log_level='WARNING',
        experiment_name=f'captured-{uuid.uuid4()}',
        randomness=dict(seed=3),
    )
    options.update(kwargs)
    return Runner(**options)


SGD = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4, fused=True)
ADAMW = dict(type='AdamW', lr=0.01, weight_decay=0.05, fused=True)
VALIDATION = dict(
    val_dataloader=dict(
        batch_size=8,
        num_workers=0,
        dataset=in_memory([PACK], 20, 'test'),
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='as_is'),
    ),
    val_cfg=dict(),
    val_evaluator=dict(type='Accuracy'),
)
RUNS = {
    'SGD': {},
    'AdamW': dict(optim_wrapper=dict(optimizer=ADAMW)),
    'parameter groups': dict(
        optim_wrapper=dict(
            optimizer=SGD, paramwise_cfg=dict(norm_decay_mult=0.0, bias_lr_mult=2.0)
        )
    ),
    'clipping': dict(
        optim_wrapper=dict(optimizer=SGD, clip_grad=dict(max_norm=0.5)),
    ),
    'clipping values': dict(
        optim_wrapper=dict(
            optimizer=SGD, clip_grad=dict(type='value', clip_value=0.01)
        ),
    ),
    'bfloat16': dict(optim_wrapper=dict(type='Bf16OptimWrapper', optimizer=SGD)),
    'EMA and validation': dict(
        hooks=[dict(type='EMAHook', momentum=0.1)], **VALIDATION
    ),
    'EMA from an iteration on': dict(
        hooks=[dict(type='EMAHook', momentum=0.1, begin_iter=6)]
    ),
    'EMA from an epoch on': dict(
        hooks=[dict(type='EMAHook', momentum=0.1, begin_epoch=2)]
    ),
    'another average': dict(
        hooks=[dict(type='EMAHook', ema_type='MomentumAnnealingEMA')]
    ),
    'schedule by iteration': dict(
        hooks=[dict(type='EDEHook', by_epoch=False, interval=4)]
    ),
    'learning rate by iteration': dict(
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=7),
            dict(type='CosineAnnealingLR', T_max=16, by_epoch=False),
        ]
    ),
    'momentum by epoch': dict(
        param_scheduler=[
            dict(type='CosineAnnealingMomentum', T_max=2, by_epoch=True, eta_min=0.5)
        ]
    ),
    'statistics': dict(hooks=[dict(type='BinaryStatsHook', interval=4)]),
    'checkpoints by iteration': dict(
        defaults=dict(
            checkpoint=dict(type='AtomicCheckpointHook', by_epoch=False, interval=5)
        )
    ),
    'a log of each iteration': dict(
        defaults=dict(logger=dict(type='LoggerHook', interval=1))
    ),
    'compiled': dict(
        defaults=dict(compile=dict(type='CompileHook', backend='aot_eager'))
    ),
    'one size of batches': dict(data=dict(drop_last=True)),
    'colours': dict(data=dict(dataset=in_memory([CROP, JITTER, PACK]))),
    'nothing drawn': dict(data=dict(dataset=in_memory([PACK]))),
    'resized crops': dict(
        data=dict(
            dataset=in_memory(
                [dict(type='RandomResizedCrop', scale=32, backend='pillow'), PACK]
            )
        )
    ),
}


def trained(folder, loop, **kwargs):
    runner = runner_of(folder, loop, **kwargs)
    runner.train()
    return runner


LOOPS = ('DeterministicEpochLoop', 'CapturedEpochLoop')


METRICS_OF_MMPRETRAIN = [
    dict(type='Accuracy', topk=(1, 2)),
    dict(type='SingleLabelMetric'),
    dict(type='ConfusionMatrix'),
]


def validating(
    folder, kind, hooks=(), loader=(), evaluator=None, capture=False, **kwargs
):
    """A run with three validations of 20 images, in batches of 8."""
    validation = dict(
        val_dataloader={**VALIDATION['val_dataloader'], **dict(loader)},
        val_cfg=dict(type=kind, **({} if kind == 'ValLoop' else dict(capture=capture))),
        val_evaluator=evaluator or METRICS_OF_MMPRETRAIN,
    )
    args = dict(max_epochs=3)
    return runner_of(
        folder,
        'DeterministicEpochLoop',
        hooks=hooks,
        loop_args=args,
        **validation,
        **kwargs,
    )


def metrics_of(runner):
    """Trains, and returns the metrics of each validation."""
    seen = []
    report = runner.call_hook

    def call_hook(name, **kwargs):
        if name == 'after_val_epoch':
            seen.append(kwargs['metrics'])
        report(name, **kwargs)

    runner.call_hook = call_hook
    runner.train()
    return seen
