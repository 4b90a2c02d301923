"""Stopped anywhere and resumed, a run ends as the unbroken one."""

import math
import multiprocessing
import os
import signal
import subprocess
import time
from itertools import chain

import pytest
import torch
from killed_runs import differences, state
from mmengine.dataset import (
    BaseDataset,
    DefaultSampler,
    InfiniteSampler,
    RepeatDataset,
)
from mmengine.dataset import ConcatDataset as MMEngineConcatDataset
from mmengine.hooks import EarlyStoppingHook, Hook
from mmpretrain.engine import SwitchRecipeHook
from tiny import Points, TinyNet, tiny_runner
from torch.utils.data import ConcatDataset, DataLoader, Subset

from mmirnet.datasets import DeterministicSampler
from mmirnet.datasets.seeding import SeededDataset
from mmirnet.engine.loops import deterministic_dataloader
from mmirnet.errors import CheckpointError, ConfigError

LOOPS = {
    'epochs': dict(type='DeterministicEpochLoop', max_epochs=3),
    'iterations': dict(type='DeterministicIterLoop', max_iters=12, val_interval=4),
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
    """Draws in the forward pass, as dropout does; may signal itself.

    With `everybody`, the signal comes from another process and also goes to the data
    workers, as that of a scheduler does.
    """

    def __init__(self, stop_at=None, signum=signal.SIGTERM, everybody=False):
        super().__init__()
        self.stop_at, self.signum, self.everybody = stop_at, signum, everybody

    def forward(self, inputs, label, mode='tensor'):
        if mode == 'loss':
            inputs = inputs + 0.1 * torch.rand_like(inputs)
            if len(self.seen) == self.stop_at:
                self.send()
        return super().forward(inputs, label, mode)

    def send(self):
        if not self.everybody:
            os.kill(os.getpid(), self.signum)
            return
        workers = [str(child.pid) for child in multiprocessing.active_children()]
        assert workers
        kill = ['kill', f'-{int(self.signum)}', *workers]
        subprocess.run([*kill, str(os.getpid())], check=True)
        time.sleep(0.5)  # a worker that dies is noticed


def runner_of(folder, loop, workers=0, hooks=(), loader=(), **kwargs):
    by_epoch = loop == 'epochs'
    sgd = dict(type='SGD', lr=0.1, momentum=0.9)
    options = dict(train_cfg=dict(LOOPS[loop]), optim_wrapper=dict(optimizer=sgd))
    options['train_dataloader'] = loader
    if not isinstance(loader, DataLoader):
        options['train_dataloader'] = {
            **dict(
                batch_size=6,
                num_workers=workers,
                persistent_workers=workers > 0,
                dataset=NoisyPoints(23),
                sampler=dict(type='DefaultSampler', shuffle=True),
                collate_fn=dict(type='default_collate'),
            ),
            **dict(loader),
        }
    options.update(kwargs)
    return tiny_runner(
        folder,
        [dict(type='EDEHook', by_epoch=by_epoch), dict(type='PreemptionHook'), *hooks],
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1),
            checkpoint=dict(
                type='AtomicCheckpointHook',
                by_epoch=by_epoch,
                interval=1 if by_epoch else 5,
            ),
        ),
        param_scheduler=dict(type='CosineAnnealingLR', T_max=12, by_epoch=False),
        **options,
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


@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize('start', ['fork', 'spawn'])
def test_a_signal_to_all_processes_leaves_the_workers_alone(
    tmp_path, unbroken, signum, start
):
    loop, expected = unbroken
    loader = dict(multiprocessing_context=start)
    model = NoisyNet(5, signum, everybody=True)
    with pytest.raises(SystemExit):
        runner_of(tmp_path, loop, 2, loader=loader, model=model).train()
    assert (tmp_path / 'preempted_iter_6.pth').exists()
    runner_of(tmp_path, loop, model=NoisyNet(), resume=True).train()
    assert differences(expected, state(tmp_path)) == []


@pytest.mark.parametrize('persistent', [False, True])
def test_workers_that_run_before_training_are_left_alone_too(tmp_path, persistent):
    loop = dict(type='IterBasedTrainLoop', max_iters=12)
    loader = dict(persistent_workers=persistent)
    model = NoisyNet(5, everybody=True)
    runner = runner_of(
        tmp_path, 'iterations', 2, loader=loader, model=model, train_cfg=loop
    )
    with pytest.raises(SystemExit):
        runner.train()
    assert (tmp_path / 'preempted_iter_6.pth').exists()


@pytest.mark.parametrize('stop_at', [0, 3, 4])
def test_accumulated_gradients_are_resumed(tmp_path, unbroken, stop_at):
    loop, _ = unbroken
    optimizer = dict(type='SGD', lr=0.1, momentum=0.9)
    wrapper = dict(optimizer=optimizer, accumulative_counts=3)
    whole, broken = tmp_path / 'whole', tmp_path / 'broken'
    runner_of(whole, loop, model=NoisyNet(), optim_wrapper=wrapper).train()
    with pytest.raises(SystemExit):
        runner_of(broken, loop, model=NoisyNet(stop_at), optim_wrapper=wrapper).train()
    runner_of(
        broken, loop, model=NoisyNet(), optim_wrapper=wrapper, resume=True
    ).train()
    assert differences(state(whole), state(broken)) == []


@pytest.mark.parametrize('loop', LOOPS)
def test_ranks_with_seeds_of_their_own_share_the_order(tmp_path, monkeypatch, loop):
    """Or some images would be seen twice, and others never."""
    orders = []
    for rank in (0, 1):
        seeds = dict(seed=5 + rank, diff_rank_seed=True)
        runner = runner_of(tmp_path / str(rank), loop, model=NoisyNet())
        runner._randomness_cfg, runner._seed = seeds, seeds['seed']
        monkeypatch.setattr('mmirnet.engine.loops.get_rank', lambda rank=rank: rank)
        runner.train()
        orders.append(runner.train_dataloader.sampler.seed)
    assert orders == [5, 5]


def test_an_epoch_loop_goes_on_behind_the_passes_of_iterations(tmp_path):
    with pytest.raises(SystemExit):
        runner_of(tmp_path, 'iterations', model=NoisyNet(5)).train()
    runner = runner_of(tmp_path, 'epochs', model=NoisyNet(), resume=True)
    runner.train()
    assert len(runner.model.seen) == 6  # of 12


def test_early_stopping_remembers_the_epochs_before(tmp_path):
    stop = dict(
        type='EarlyStoppingHook',
        monitor='accuracy',
        rule='greater',
        patience=2,
        min_delta=200.0,
    )
    first = runner_of(tmp_path, 'epochs', model=NoisyNet(9), hooks=[stop])
    hook = next(h for h in first.hooks if isinstance(h, EarlyStoppingHook))
    hook.wait_count, hook.best_score = 1, 0.5
    with pytest.raises(SystemExit):
        first.train()
    second = runner_of(tmp_path, 'epochs', model=NoisyNet(), hooks=[stop], resume=True)
    second.train()
    hook = next(h for h in second.hooks if isinstance(h, EarlyStoppingHook))
    assert (hook.wait_count, hook.best_score) == (1, 0.5)


def test_signals_are_handed_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    runner_of(tmp_path, 'epochs', model=NoisyNet()).train()
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize('workers', [1, 2])
def test_workers_change_nothing(tmp_path, unbroken, workers):
    loop, expected = unbroken
    runner_of(tmp_path, loop, workers, model=NoisyNet()).train()
    assert differences(expected, state(tmp_path)) == []


@pytest.mark.parametrize('workers', [0, 1])
def test_hooks_that_read_training_images_change_nothing(tmp_path, unbroken, workers):
    class Reads(Hook):
        def after_train_iter(self, runner, batch_idx, *args, **kwargs):
            if batch_idx == 1:
                next(iter(runner.train_dataloader))

    loop, expected = unbroken
    runner_of(tmp_path, loop, workers, [Reads()], model=NoisyNet()).train()
    assert differences(expected, state(tmp_path)) == []


@pytest.mark.parametrize('loop', LOOPS)
@pytest.mark.parametrize('stop_at', [1, 3, 4])
def test_what_hooks_and_validation_draw_is_resumed(tmp_path, loop, stop_at):
    def drawn(folder, **kwargs):
        found = {}

        class Draws(Hook):
            def before_train_epoch(self, runner):
                if loop == 'epochs':
                    found['before', runner.epoch] = torch.rand(1).item()

            def after_train_epoch(self, runner):
                if loop == 'epochs':
                    found['after', runner.epoch] = torch.rand(1).item()

            def before_val_epoch(self, runner):
                found['val', runner.iter] = torch.rand(1).item()

        loader = dict(
            dataset=Points(6),
            sampler=dict(type='DefaultSampler'),
            collate_fn=dict(type='default_collate'),
        )
        validation = dict(val_dataloader=loader, val_cfg=dict(), val_evaluator=[])
        runner_of(folder, loop, hooks=[Draws()], **validation, **kwargs).train()
        return found

    whole = drawn(tmp_path / 'whole', model=NoisyNet())
    with pytest.raises(SystemExit):
        drawn(tmp_path / 'broken', model=NoisyNet(stop_at))
    rest = drawn(tmp_path / 'broken', model=NoisyNet(), resume=True)
    assert rest.items() <= whole.items()


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

    def images(epoch, seen=0):
        return [b['inputs'] for _, b in loop._batches(epoch, seen)]

    one, again, two = images(0), images(0), images(1)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not torch.equal(one[0], two[0])
    rest = images(0, 12)
    assert all(torch.equal(a, b) for a, b in zip(one[2:], rest, strict=True))


def test_a_sample_is_augmented_anew_in_each_epoch():
    dataset = SeededDataset(NoisyPoints())
    sampler = DeterministicSampler(dataset, seed=0)
    views = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        index = next(i for i in sampler if i == 5)
        views.append(dataset[index]['inputs'])
    assert not torch.equal(*views)


def test_samples_leave_the_generators_of_the_model_alone():
    dataset = SeededDataset(NoisyPoints())
    index = next(iter(DeterministicSampler(dataset, seed=0)))
    before = torch.get_rng_state()
    a, b = dataset[index], dataset[index]
    assert torch.equal(a['inputs'], b['inputs'])
    assert torch.equal(before, torch.get_rng_state())


def test_same_order_as_mmengines_sampler():
    ours, theirs = (
        s(range(10), seed=3) for s in (DeterministicSampler, DefaultSampler)
    )
    ours.set_epoch(2)
    theirs.set_epoch(2)
    assert list(ours) == list(theirs)
    ours.start = 7
    assert list(ours) == list(theirs)[7:]
    assert list(ours) == list(theirs)


class OwnSampler(DefaultSampler):
    """Somebody's own."""


@pytest.mark.parametrize(
    'cfg, message',
    [
        (
            dict(sampler=dict(type='RepeatAugSampler')),
            r"sampler.type must be one of .*'RepeatAugSampler'.* EpochBasedTrainLoop",
        ),
        (dict(sampler=dict(type=OwnSampler)), "'OwnSampler'.* EpochBasedTrainLoop"),
        (dict(sampler=OwnSampler(Points())), "'OwnSampler'.* EpochBasedTrainLoop"),
        ({}, 'got None'),
        (
            dict(sampler=dict(type='DefaultSampler'), batch_sampler=dict(type='Mine')),
            'batch_sampler .* leave it out, or .* EpochBasedTrainLoop',
        ),
        (
            dict(sampler=dict(type='DefaultSampler', seed=0)),
            'sampler.seed has no effect .* leave it out, or .* EpochBasedTrainLoop',
        ),
    ],
)
def test_refuses_what_it_cannot_resume(cfg, message):
    with pytest.raises(ConfigError, match=message):
        deterministic_dataloader(dict(dataset=Points(), **cfg))


@pytest.mark.parametrize(
    'kind',
    ['DefaultSampler', 'mmengine.DefaultSampler', DefaultSampler, InfiniteSampler],
)
def test_takes_samplers_by_name_and_by_class(kind):
    cfg = deterministic_dataloader(dict(dataset=Points(), sampler=dict(type=kind)))
    assert cfg['sampler'] == dict(type='DeterministicSampler')


def test_refuses_a_loader_without_a_batch(tmp_path):
    with pytest.raises(ConfigError, match='no batch: 23 images, batch_size 24, drop'):
        runner_of(
            tmp_path, 'epochs', loader=dict(batch_size=24, drop_last=True)
        ).train()


class TestWrappers:
    """Samples are seeded whatever wraps their data set."""

    def wrapped(self, name):
        data = NoisyPoints(8)
        return {
            'subset': lambda: Subset(data, range(2, 8)),
            'subset of a seeded one': lambda: Subset(SeededDataset(data), range(2, 8)),
            'repeated': lambda: RepeatDataset(Described(8), 2),
            'concatenated': lambda: ConcatDataset([data, data]),
        }[name]()

    @pytest.mark.parametrize(
        'name', ['subset', 'subset of a seeded one', 'repeated', 'concatenated']
    )
    @pytest.mark.parametrize('ready', [False, True])
    def test_a_loop_over_it(self, tmp_path, name, ready):
        loader = dict(dataset=self.wrapped(name), batch_size=2)
        if ready:
            sampler = DeterministicSampler(loader['dataset'], seed=0)
            loader = DataLoader(sampler=sampler, **loader)
        views = []
        for seed in (1, 2):
            loop = runner_of(tmp_path, 'epochs', loader=loader).train_loop
            torch.manual_seed(seed)  # has no say
            views.append([b['inputs'] for _, b in loop._batches(0, 0)])
        assert torch.equal(torch.cat(views[0]), torch.cat(views[1]))

    def test_a_ready_loader_needs_the_sampler(self):
        with pytest.raises(ConfigError, match=r'RandomSampler, .*DeterministicSampler'):
            deterministic_dataloader(DataLoader(Points(), batch_size=2, shuffle=True))

    def test_what_only_counts_batches_is_no_loader(self):
        with pytest.raises(ConfigError, match=r'is a range .*EpochBasedTrainLoop'):
            deterministic_dataloader(range(4))


class Described(BaseDataset):
    """The same points for MMEngine's wrappers, with the noise in the pipeline."""

    def __init__(self, n):
        self.points = NoisyPoints(n)
        super().__init__(pipeline=[lambda info: self.points[info['sample_idx']]])

    def load_data_list(self):
        return [{} for _ in range(len(self.points))]


@pytest.mark.parametrize(
    'wrapped',
    [
        lambda data: data,
        lambda data: RepeatDataset(data, 2),
        lambda data: MMEngineConcatDataset([data]),
    ],
)
def test_a_switched_pipeline_is_the_one_that_is_used(tmp_path, wrapped):
    used = []

    def remember(info):
        used.append(info['sample_idx'])
        return Points(8)[info['sample_idx']]

    data = Described(8)
    loader = dict(dataset=wrapped(data), batch_size=4)
    switch = SwitchRecipeHook([dict(action_epoch=3, train_pipeline=[remember])])
    runner_of(tmp_path, 'epochs', loader=loader, hooks=[switch]).train()
    assert set(used) == set(range(8))


class TestAnotherEpochLength:
    """Resumed with other batches or other data, no image is lost or seen twice."""

    class Net(TinyNet):
        """Remembers what it was trained with."""

        def __init__(self, stop_at=None):
            super().__init__()
            self.images, self.stop_at = [], stop_at

        def forward(self, inputs, label, mode='tensor'):
            if mode == 'loss':
                self.images.append(inputs[:, 0, 0, 0].tolist())
                if len(self.images) == self.stop_at:
                    os.kill(os.getpid(), signal.SIGTERM)
            return super().forward(inputs, label, mode)

    def trained(self, folder, loop, batch, n=23, stop_at=None, resume=True, **kwargs):
        """The batches of a run, and its runner."""
        model = self.Net(stop_at)
        loader = dict(dataset=Points(n), batch_size=batch)
        runner = runner_of(
            folder, loop, loader=loader, model=model, resume=resume, **kwargs
        )
        if stop_at:
            with pytest.raises(SystemExit):
                runner.train()
        else:
            runner.train()
        return model.images, runner

    def forget_the_place(self, folder, config=None):
        """Make checkpoints such as were written before places were counted."""
        for path in folder.glob('*.pth'):
            checkpoint = torch.load(path)
            info = checkpoint['message_hub']['runtime_info']
            del info['place_in_data']
            del checkpoint['message_hub']['resumed_keys']['place_in_data']
            info['cfg'] = config
            torch.save(checkpoint, path)

    @pytest.mark.parametrize('old', [False, True])
    @pytest.mark.parametrize('batch, n', [(3, 23), (12, 23), (24, 23), (6, 30), (6, 7)])
    def test_a_complete_epoch_is_complete(self, tmp_path, batch, n, old):
        two = dict(train_cfg=dict(LOOPS['epochs'], max_epochs=2))
        self.trained(tmp_path, 'epochs', 6, resume=False, **two)
        if old:
            self.forget_the_place(tmp_path, 'train_dataloader = dict(batch_size=6)')
        images, runner = self.trained(tmp_path, 'epochs', batch, n)
        length = math.ceil(n / batch)
        assert len(images) == length
        expected = sorted(Points(n).x[:, 0, 0, 0].tolist())
        assert sorted(chain(*images)) == expected
        assert runner.iter == 3 * length == runner.max_iters

    @pytest.mark.parametrize('old', [False, True])
    @pytest.mark.parametrize('batch', [2, 5, 12, 24])
    @pytest.mark.parametrize('loop', LOOPS)
    def test_within_an_epoch_it_goes_on_by_images(self, tmp_path, loop, batch, old):
        first, _ = self.trained(tmp_path, loop, 6, stop_at=6, resume=False)
        if old:
            self.forget_the_place(tmp_path, 'train_dataloader = dict(batch_size=6)')
        rest, runner = self.trained(tmp_path, loop, batch, train_cfg=self.second(loop))
        images = list(chain(*first[4:], *rest))[:23]
        assert sorted(images) == sorted(Points(23).x[:, 0, 0, 0].tolist())
        assert len(rest[0]) == min(batch, 11)
        if loop == 'epochs':
            length = math.ceil(23 / batch)
            assert len(rest) == math.ceil(11 / batch)
            assert runner.iter == 2 * length
        else:
            assert runner.iter == 12 == 6 + len(rest)

    def second(self, loop):
        return dict(LOOPS[loop], **(dict(max_epochs=2) if loop == 'epochs' else {}))

    @pytest.mark.parametrize('stop_at', [4, 8])
    def test_preempted_behind_the_last_image(self, tmp_path, stop_at):
        self.trained(tmp_path, 'epochs', 6, stop_at=stop_at, resume=False)
        images, runner = self.trained(tmp_path, 'epochs', 12)
        assert len(images) == 2 * (3 - stop_at // 4)
        assert runner.iter == runner.max_iters == 6
        assert (tmp_path / f'epoch_{stop_at // 4}.pth').exists()

    def test_other_data_within_an_epoch_is_refused(self, tmp_path):
        self.trained(tmp_path, 'epochs', 6, stop_at=6, resume=False)
        message = r'12 images into an epoch of 23, .* 30 now'
        with pytest.raises(CheckpointError, match=message):
            self.trained(tmp_path, 'epochs', 6, n=30)

    def test_other_data_begin_a_new_pass(self, tmp_path):
        self.trained(tmp_path, 'iterations', 6, stop_at=6, resume=False)
        images, _ = self.trained(tmp_path, 'iterations', 6, n=30)
        expected = sorted(Points(30).x[:, 0, 0, 0].tolist())
        assert sorted(chain(*images[:5])) == expected

    def test_an_old_checkpoint_that_does_not_fit_is_refused(self, tmp_path):
        self.trained(tmp_path, 'epochs', 6, stop_at=7, resume=False)
        self.forget_the_place(tmp_path)
        with pytest.raises(
            CheckpointError, match=r'1 epochs and 7 iterations .* has 2'
        ):
            self.trained(tmp_path, 'epochs', 12)

    @pytest.mark.parametrize('shuffle', [False, True])
    @pytest.mark.parametrize('ranks', [1, 2, 3, 5])
    @pytest.mark.parametrize('start', [0, 6, 20, 23])
    def test_any_number_of_ranks_shares_the_rest(self, ranks, start, shuffle):
        def indices(rank, round_up):
            sampler = DeterministicSampler(
                range(23), shuffle, seed=1, round_up=round_up
            )
            sampler.rank, sampler.world_size = rank, ranks
            sampler.start = start
            found = list(sampler)
            assert len(found) == sampler.left(start)
            return found

        whole = list(DeterministicSampler(range(23), shuffle, seed=1))
        parts = [indices(r, round_up=False) for r in range(ranks)]
        assert sorted(chain(*parts)) == sorted(whole[start:])
        even = [indices(r, round_up=True) for r in range(ranks)]
        assert {len(p) for p in even} == {math.ceil((23 - start) / ranks)}
        assert set(whole[start:]) <= set(chain(*even))
