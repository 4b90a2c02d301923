"""Stopped anywhere and resumed, a run ends as the unbroken one."""

import os
import signal

import pytest
import torch
from kill_and_resume import differences, state
from tiny import Points, TinyNet, tiny_runner

from mmirnet.datasets.seeding import SeededDataset
from mmirnet.engine.loops import exact_dataloader

LOOPS = {
    'epochs': dict(type='ExactEpochLoop', max_epochs=3),
    'iterations': dict(type='ExactIterLoop', max_iters=12, val_interval=4),
}


class NoisyPoints(Points):
    """Draws from all three generators, as augmentation does."""

    def __getitem__(self, i):
        import random

        import numpy as np

        item = super().__getitem__(i)
        noise = random.random() + np.random.rand() + torch.rand(1).item()
        return dict(inputs=item['inputs'] + 0.1 * noise, label=item['label'])


class NoisyNet(TinyNet):
    """Draws in the forward pass, as dropout does; may signal itself."""

    def __init__(self, stop_at=None, signum=signal.SIGTERM):
        super().__init__()
        self.stop_at, self.signum = stop_at, signum

    def forward(self, inputs, label, mode='tensor'):
        if mode == 'loss':
            inputs = inputs + 0.1 * torch.rand_like(inputs)
            if len(self.seen) == self.stop_at:
                os.kill(os.getpid(), self.signum)
        return super().forward(inputs, label, mode)


def runner_of(folder, loop, workers=0, hooks=(), **kwargs):
    by_epoch = loop == 'epochs'
    return tiny_runner(
        folder,
        [dict(type='EDEHook', by_epoch=by_epoch), dict(type='PreemptionHook'), *hooks],
        train_cfg=dict(LOOPS[loop]),
        train_dataloader=dict(
            batch_size=6,
            num_workers=workers,
            persistent_workers=workers > 0,
            dataset=NoisyPoints(23),
            sampler=dict(type='DefaultSampler', shuffle=True),
            collate_fn=dict(type='default_collate'),
        ),
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1),
            checkpoint=dict(
                type='WholeCheckpointHook',
                by_epoch=by_epoch,
                interval=1 if by_epoch else 5,
            ),
        ),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
        param_scheduler=dict(type='CosineAnnealingLR', T_max=12, by_epoch=False),
        **kwargs,
    )


@pytest.fixture(scope='module', params=LOOPS)
def unbroken(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp('unbroken')
    runner_of(folder, request.param, model=NoisyNet()).train()
    return request.param, state(folder)


@pytest.mark.parametrize('stop_at', [0, 1, 3, 4, 6, 10])
@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGUSR1])
def test_a_preempted_run_continues_within_its_epoch(
    tmp_path, unbroken, stop_at, signum
):
    loop, expected = unbroken
    runner = runner_of(tmp_path, loop, model=NoisyNet(stop_at, signum))
    with pytest.raises(SystemExit) as stopped:
        runner.train()
    assert stopped.value.code == 0
    assert len(runner.model.seen) == stop_at + 1  # the iteration was finished
    assert (tmp_path / f'preempted_iter_{stop_at + 1}.pth').exists()

    second = runner_of(tmp_path, loop, model=NoisyNet(), resume=True)
    second.train()
    assert len(second.model.seen) == 12 - stop_at - 1  # nothing twice, nothing left out
    assert differences(expected, state(tmp_path)) == []
    assert not list(tmp_path.glob('preempted_*'))


def test_signals_are_handed_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    runner_of(tmp_path, 'epochs', model=NoisyNet()).train()
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize('workers', [1, 2])
def test_workers_change_nothing(tmp_path, unbroken, workers):
    loop, expected = unbroken
    runner_of(tmp_path, loop, workers, model=NoisyNet()).train()
    assert differences(expected, state(tmp_path)) == []


def test_another_seed_changes_everything(tmp_path, unbroken):
    loop, expected = unbroken
    runner_of(tmp_path, loop, model=NoisyNet(), randomness=dict(seed=1)).train()
    assert '/state_dict/net.0.weight' in differences(expected, state(tmp_path))


def test_a_seed_that_nobody_chose_is_resumed_too(tmp_path):
    """Without a seed in the config, the checkpoint's is used."""
    free = dict(randomness=dict(seed=None))
    runner = runner_of(tmp_path, 'epochs', model=NoisyNet(5), **free)
    with pytest.raises(SystemExit):
        runner.train()
    seed = runner.seed
    second = runner_of(tmp_path, 'epochs', model=NoisyNet(), resume=True, **free)
    second.train()
    assert second.seed == seed == second.train_dataloader.sampler.seed


def test_epochs_differ_and_repeat(tmp_path):
    runner = runner_of(tmp_path, 'epochs', model=NoisyNet())
    loop = runner.train_loop

    def images(epoch, first=0):
        return [b['inputs'] for _, b in loop._batches(epoch, first)]

    one, again, two = images(0), images(0), images(1)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not torch.equal(one[0], two[0])
    rest = images(0, 2)
    assert all(torch.equal(a, b) for a, b in zip(one[2:], rest, strict=True))


def test_a_sample_is_augmented_anew_in_each_epoch():
    from mmirnet.datasets import ExactSampler

    dataset = SeededDataset(NoisyPoints())
    sampler = ExactSampler(dataset, seed=0)
    views = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        index = next(i for i in sampler if i == 5)
        views.append(dataset[index]['inputs'])
    assert not torch.equal(*views)


def test_samples_leave_the_generators_of_the_model_alone():
    dataset = SeededDataset(NoisyPoints())
    from mmirnet.datasets import ExactSampler

    index = next(iter(ExactSampler(dataset, seed=0)))
    before = torch.get_rng_state()
    a, b = dataset[index], dataset[index]
    assert torch.equal(a['inputs'], b['inputs'])
    assert torch.equal(before, torch.get_rng_state())


def test_same_order_as_mmengines_sampler():
    from mmengine.dataset import DefaultSampler

    from mmirnet.datasets import ExactSampler

    ours, theirs = (s(range(10), seed=3) for s in (ExactSampler, DefaultSampler))
    ours.set_epoch(2)
    theirs.set_epoch(2)
    assert list(ours) == list(theirs)
    ours.start = 7
    assert list(ours) == list(theirs)[7:]
    assert list(ours) == list(theirs)


def test_refuses_other_samplers():
    cfg = dict(dataset=Points(), sampler=dict(type='RepeatAugSampler'))
    with pytest.raises(ValueError, match=r"sampler.type must be one of .*'RepeatAug"):
        exact_dataloader(cfg)
