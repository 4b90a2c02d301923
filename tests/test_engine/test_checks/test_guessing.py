"""A warning where the loss of an epoch is that of guessing."""

import math
import re
import uuid
from types import SimpleNamespace

import pytest
from captured_runs import in_memory, runner_of
from mmengine.logging import MessageHub
from mmengine.registry import MODELS
from mmpretrain.models.losses import CrossEntropyLoss, LabelSmoothLoss

from mmirnet.engine.checks.guessing import learns_nothing


@MODELS.register_module()
class DeafBackbone(MODELS.get('TinyBackbone')):
    """Passes nothing on."""

    def forward(self, x):
        return (super().forward(x)[0] * 0.0,)


def warnings_of(folder, loop='DeterministicEpochLoop', batches=101, **loss):
    """Trains two epochs without learning anything."""
    runner = runner_of(
        folder,
        loop,
        backbone=dict(type='DeafBackbone'),
        head=dict(type='LinearClsHead', loss=dict(type='CrossEntropyLoss', **loss)),
        data=dict(batch_size=2, dataset=in_memory(indices=2 * batches)),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e-12, fused=True)),
        param_scheduler=None,
        log_level='INFO',
    )
    runner.train()
    text = next(folder.glob('*/*.log')).read_text()
    return re.findall(r'WARNING - (the loss of this epoch is .*)', text)


@pytest.mark.parametrize('loop', ['DeterministicEpochLoop', 'CapturedEpochLoop'])
def test_warns_once_where_nothing_is_passed_on(tmp_path, loop):
    [warning] = warnings_of(tmp_path, loop)
    assert f'guessing among 10 classes has {math.log(10):.3f}' in warning
    assert 'optim_wrapper.optimizer.lr' in warning


def test_knows_the_weight_of_the_loss(tmp_path):
    [warning] = warnings_of(tmp_path, loss_weight=2.0)
    assert f'has {2 * math.log(10):.3f}' in warning


def test_is_silent_in_the_first_iterations(tmp_path):
    assert warnings_of(tmp_path, batches=40) == []


def trained(losses, loss=None, classes=10, **more):
    """What learns_nothing knows of a run of two epochs."""
    hub = MessageHub(f'guessing-{uuid.uuid4()}')
    for name, values in {'train/loss': losses, **more}.items():
        for value in values:
            hub.update_scalar(name, value)
    head = SimpleNamespace(num_classes=classes, loss_module=loss or CrossEntropyLoss())
    return SimpleNamespace(
        model=SimpleNamespace(head=head),
        message_hub=hub,
        iter=len(losses),
        train_dataloader=[None] * (len(losses) // 2),
    )


GUESS = [math.log(10)] * 100


@pytest.mark.parametrize(
    ('runner', 'warns'),
    [
        (trained(GUESS + GUESS), True),
        (trained([1.0] * 100 + GUESS), True),  # the last epoch counts
        (trained(GUESS + [0.98 * x for x in GUESS]), False),
        (trained(GUESS + GUESS, CrossEntropyLoss(use_sigmoid=True)), False),
        (trained(GUESS + GUESS, LabelSmoothLoss(0.1, 10)), False),
        (trained(GUESS + GUESS, classes=None), False),
        (trained(GUESS + GUESS, **{'train/loss_kd': GUESS}), False),
    ],
)
def test_compares_the_last_epoch_with_guessing(runner, warns):
    assert (learns_nothing(runner) is not None) == warns
