"""A loop that replays training steps gives what the loop without replays gives."""

import os
import re
import signal
import uuid

import pytest
import torch
from killed_runs import differences, state
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, MODELS, init_default_scope
from mmengine.runner import Runner
from small_run import small_config
from torch import nn

from mmirnet.apis.training import train
from mmirnet.binary import IRConv2d
from mmirnet.engine.config import set_captured_loop
from mmirnet.errors import ConfigError, NonFiniteError

init_default_scope('mmpretrain')
IMAGES = 60  # seven batches of 8, and one of 4
CROP = dict(type='RandomCrop', crop_size=32, padding=4)
FLIP = dict(type='RandomFlip', prob=0.5, direction='horizontal')
PACK = dict(type='PackInputs')
JITTER = dict(type='ColorJitter', brightness=0.5, backend='pillow')


@MODELS.register_module()
class TinyBackbone(nn.Module):
    """A binary convolution between two batch norms; may draw numbers or signal."""

    def __init__(self, dropout=0.0, draws=False, stop_at=None, breaks_at=None):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 4, 3, 4)
        self.norm = nn.BatchNorm2d(4)
        self.conv = IRConv2d(4, 6, 3, 2)
        self.last = nn.BatchNorm2d(6)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.draws, self.stop_at, self.breaks_at = draws, stop_at, breaks_at
        self.steps = 0

    def forward(self, x):
        if self.training:
            self.steps += 1
            if self.steps == self.stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            if self.steps == self.breaks_at:
                x = x * float('inf')
            if self.draws:
                x = x + torch.rand(1)
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
    folder, loop, hooks=(), backbone=(), data=(), defaults=(), loop_args=(), **kwargs
):
    captured = loop == 'CapturedEpochLoop'
    args = dict(capture=False, steps_per_replay=3) if captured else {}
    options = dict(
        model=dict(
            type='ImageClassifier',
            backbone=dict(type='TinyBackbone', **dict(backbone)),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='BNLinearClsHead', num_classes=10, in_channels=6),
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
        train_cfg=dict(type=loop, max_epochs=2, **{**args, **dict(loop_args)}),
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


@pytest.mark.parametrize('name', RUNS)
def test_ends_as_the_deterministic_loop(tmp_path, name):
    """Weights, optimizer, averages, schedulers, and the history of what is logged."""
    ends = []
    for loop in LOOPS:
        trained(tmp_path / loop, loop, **RUNS[name])
        ends.append(state(tmp_path / loop))
    assert differences(*ends) == []
    wanted = (tmp_path / 'DeterministicEpochLoop').glob('*.pth')
    assert {p.name for p in wanted} == {
        p.name for p in (tmp_path / 'CapturedEpochLoop').glob('*.pth')
    }


def test_logs_the_same_lines(tmp_path):
    """All but times, which are of several iterations at once."""
    lines = []
    for loop in LOOPS:
        trained(tmp_path / loop, loop, log_level='INFO')
        text = next((tmp_path / loop).glob('*/*.log')).read_text()
        lines.append(
            [
                ' '.join(re.sub(r'(eta|time|data_time): \S+', r'\1', line).split()[5:])
                for line in text.splitlines()
                if 'Epoch(train)' in line
            ]
        )
    assert lines[0] == lines[1]
    assert len(lines[0]) == 2


@pytest.mark.parametrize('first', LOOPS)
@pytest.mark.parametrize('stop_at', [2, 6, 11])
def test_goes_on_within_an_epoch(tmp_path, first, stop_at):
    """Preempted in either loop, after the replay in which the signal came."""
    trained(tmp_path / 'whole', 'DeterministicEpochLoop')
    broken = tmp_path / 'broken'
    runner = runner_of(broken, first, backbone=dict(stop_at=stop_at))
    with pytest.raises(SystemExit) as stopped:
        runner.train()
    assert stopped.value.code == 0
    [path] = broken.glob('preempted_iter_*.pth')
    done = int(path.stem.rpartition('_')[2])
    assert done == runner.model.backbone.steps
    assert stop_at <= done < stop_at + (3 if first == 'CapturedEpochLoop' else 1)
    second = trained(broken, 'CapturedEpochLoop', resume=True)
    assert second.model.backbone.steps == 16 - done
    assert differences(state(tmp_path / 'whole'), state(broken)) == []


@HOOKS.register_module()
class Watcher(Hook):
    """A hook of one's own that notes what it is given."""

    def __init__(self):
        self.seen = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.images = data_batch['inputs'].clone()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        labels = [s.gt_label.item() for s in data_batch['data_samples']]
        loss = outputs['loss'].item()
        self.seen.append(
            (runner.iter, batch_idx, self.images.sum().item(), labels, loss)
        )


def test_a_hook_of_ones_own_sees_every_iteration(tmp_path):
    seen = []
    for loop in LOOPS:
        runner = trained(
            tmp_path / loop, loop, hooks=[dict(type='Watcher')], log_level='INFO'
        )
        [hook] = [h for h in runner.hooks if isinstance(h, Watcher)]
        seen.append(hook.seen)
    assert seen[0] == seen[1]
    assert len(seen[0]) == 16
    text = next(tmp_path.glob('CapturedEpochLoop/*/*.log')).read_text()
    assert 'one step a replay, because Watcher may act in every iteration' in text


@HOOKS.register_module()
class Freezing(Hook):
    """Changes between epochs what a graph would keep."""

    def before_train_epoch(self, runner):
        runner.model.backbone.stem.requires_grad_(runner.epoch < 1)


def test_a_change_between_epochs_is_seen(tmp_path):
    ends = []
    for loop in LOOPS:
        trained(tmp_path / loop, loop, hooks=[dict(type='Freezing')])
        ends.append(state(tmp_path / loop))
    assert differences(*ends) == []


@pytest.mark.parametrize('name', ['loss', 'weights'])
def test_names_the_iteration_that_was_not_finite(tmp_path, name):
    """Several steps ran at once; the log comes two iterations later."""
    changes = (
        dict(backbone=dict(breaks_at=8))
        if name == 'loss'
        else dict(
            optim_wrapper=dict(optimizer=dict(SGD, lr=1e38)),
            hooks=[],
        )
    )
    found = []
    for loop in LOOPS:
        with pytest.raises(NonFiniteError) as error:
            trained(tmp_path / loop, loop, **changes)
        found.append(str(error.value))
    if name == 'loss':  # statistics are no longer what they were
        found = [re.sub('nan: .*; stopped', 'nan; stopped', text) for text in found]
        assert 'the loss is nan; stopped at iteration 8 of epoch 1' in found[1]
    assert found[0] == found[1]


REFUSED = {
    'no GPU': (dict(loop_args=dict(capture=True)), 'needs a GPU, and there is none'),
    'data': (
        dict(
            data=dict(
                dataset=in_memory()['dataset'],
                collate_fn=dict(type='default_collate'),
            )
        ),
        'dataset is Digits, .* use --in-memory',
    ),
    'optimizer': (
        dict(optim_wrapper=dict(optimizer=dict(type='RMSprop', lr=0.1))),
        'optimizer is RMSprop with fused=False, and one of SGD, Adam, AdamW with fused',
    ),
    'not fused': (
        dict(optim_wrapper=dict(optimizer=dict(SGD, fused=None))),
        'optimizer is SGD with fused=False',
    ),
    'accumulation': (
        dict(optim_wrapper=dict(optimizer=SGD, accumulative_counts=2)),
        'accumulative_counts=2 does not step in every iteration: set 1',
    ),
    'strict clipping': (
        dict(
            optim_wrapper=dict(
                optimizer=SGD, clip_grad=dict(max_norm=1, error_if_nonfinite=True)
            )
        ),
        'error_if_nonfinite waits',
    ),
    'momentum by iteration': (
        dict(
            param_scheduler=[
                dict(type='CosineAnnealingMomentum', T_max=9, by_epoch=False)
            ]
        ),
        'CosineAnnealingMomentum changes momentum in each iteration',
    ),
    'dropout': (
        dict(backbone=dict(dropout=0.5)),
        'model.backbone.dropout is Dropout, .* set its probability to 0',
    ),
    'other numbers': (dict(backbone=dict(draws=True)), 'draws random numbers'),
    'OvSW': (dict(hooks=[dict(type='OvSWHook')]), 'OvSWHook changes gradients'),
    'steps': (dict(loop_args=dict(steps_per_replay=0)), 'steps_per_replay'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_refuses_what_cannot_be_captured(tmp_path, name):
    changes, message = REFUSED[name]
    with pytest.raises(ConfigError, match=message) as error:
        trained(tmp_path, 'CapturedEpochLoop', **changes)
    assert '\n' not in str(error.value)
    assert 'CapturedEpochLoop' in str(error.value)
    assert not list(tmp_path.glob('*.pth'))


def test_batch_augmentations_are_refused(tmp_path):
    runner = runner_of(tmp_path, 'CapturedEpochLoop')
    runner.model.data_preprocessor.batch_augments = lambda *args: args
    with pytest.raises(ConfigError, match=r'Mixup, CutMix.* leave them out'):
        runner.train()


class TestFlag:
    """``--capture`` of tools/train.py."""

    def test_refuses_another_loop(self):
        cfg = Config(dict(train_cfg=dict(type='DeterministicIterLoop', max_iters=9)))
        with pytest.raises(ConfigError, match="is 'DeterministicIterLoop': set"):
            set_captured_loop(cfg)

    def test_keeps_images_in_memory_and_takes_bfloat16(self, tmp_path):
        config = small_config(tmp_path / 'run')
        with pytest.raises(ConfigError, match=r'needs a GPU.*leave out --capture'):
            train(str(config), work_dir=str(tmp_path / 'out'), capture=True, amp=True)
        cfg = Config.fromfile(next((tmp_path / 'out').glob('*.py')))
        assert cfg.train_cfg.type == 'CapturedEpochLoop'
        assert cfg.train_dataloader.dataset.type == 'InMemory'
        assert cfg.optim_wrapper.type == 'Bf16OptimWrapper'
