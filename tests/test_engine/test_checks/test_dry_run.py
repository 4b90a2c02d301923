"""A dry run leaves no trace."""

import random

import numpy as np
import pytest
import torch
from mmpretrain.models import AverageClsScoreTTA
from squares import VIEWS, runner_of, squares
from tiny import TinyNet, tiny_runner
from torch import nn

from mmirnet.engine.checks.dry_run import dry_run


@pytest.mark.parametrize('workers', [0, 1])
def test_changes_nothing(tmp_path, workers):
    crop = dict(type='RandomCrop', crop_size=8, padding=2)
    runner = runner_of(
        tmp_path,
        **{
            'train_dataloader.num_workers': workers,
            'train_dataloader.dataset.pipeline': [crop, dict(type='PackInputs')],
            'model.head.type': 'BNLinearClsHead',
        },
    )
    model = runner.model.train()
    model.head.eval()
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    seen = []
    for look in (False, True):
        torch.manual_seed(3)
        random.seed(3)
        np.random.seed(3)
        if look:
            found = dry_run('data', runner.train_dataloader, model)
            assert found.single == ['head.bn']
        seen.append((torch.rand(1).item(), random.random(), np.random.rand()))
    assert seen[0] == seen[1]
    assert [module.training for module in model.modules()] == modes
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in state.items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_gives_the_buffers_back_of_a_model_that_counts(tmp_path):
    class Counting(TinyNet):
        def __init__(self):
            super().__init__()
            self.register_buffer('calls', torch.zeros(()))

        def forward(self, *args, **kwargs):
            self.calls += 1
            return super().forward(*args, **kwargs)

    runner = tiny_runner(tmp_path, model=Counting())
    dry_run('data', runner.train_dataloader, runner.model)
    assert runner.model.calls == 0


def test_images_of_several_sizes(tmp_path):
    runner = runner_of(
        tmp_path,
        **{
            'train_dataloader.dataset': dict(
                type='ConcatDataset',
                datasets=[squares(), squares(size=(8, 9))],
                _delete_=True,
            )
        },
    )
    (problem,) = dry_run('data', runner.train_dataloader, runner.model).problems
    assert str(problem) == (
        'data: images of 3x8x8 and 3x8x9 do not make one batch; add '
        "dict(type='Resize', scale=(WIDTH, HEIGHT)) to the pipeline"
    )


@pytest.mark.parametrize(
    ('backbone', 'size', 'message'),
    [
        (
            dict(type='VGG', depth=11, num_classes=-1),
            (4, 4),
            'model.backbone.features.6 needs 2 pixels, but gets 1',
        ),
        (
            dict(type='AlexNet', num_classes=-1),
            (16, 16),
            'model.backbone.features.5 needs 3 pixels, but gets 1',
        ),
    ],
    ids=['VGG', 'AlexNet'],
)
def test_images_that_are_too_small(tmp_path, backbone, size, message):
    runner = runner_of(
        tmp_path,
        **{
            'model.backbone': dict(backbone, _delete_=True),
            'train_dataloader.dataset.size': size,
        },
    )
    (problem,) = dry_run('data', runner.train_dataloader, runner.model).problems
    assert message in str(problem)
    assert str(problem).endswith(f'from images of 3x{size[0]}x{size[1]}')


def test_errors_of_others_are_left_to_training(tmp_path):
    runner = runner_of(tmp_path)
    runner.model.backbone.forward = lambda x: 1 / 0
    assert dry_run('data', runner.train_dataloader, runner.model).problems == []


@pytest.mark.parametrize('views', [True, False])
def test_averages_of_views(tmp_path, views):
    changes = {'val_dataloader.dataset.pipeline': VIEWS} if views else {}
    runner = runner_of(tmp_path, **changes)
    model = AverageClsScoreTTA(module=runner.model)
    problems = dry_run('val_dataloader', runner.val_dataloader, model).problems
    lines = [str(p).partition(':')[0] for p in problems]
    assert lines == ([] if views else ['tta_pipeline gives one view of an image'])


def test_models_that_are_not_mmengines_pass(tmp_path):
    runner = runner_of(tmp_path)
    assert dry_run('data', runner.train_dataloader, nn.Identity()).problems == []
