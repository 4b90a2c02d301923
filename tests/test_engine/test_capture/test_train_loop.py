"""A loop that replays training steps gives what the loop without replays gives."""

import functools
import re

import pytest
from captured_runs import LOOPS, RUNS, SGD, in_memory, runner_of, trained
from killed_runs import differences, state
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from recorded_graphs import record_graphs
from small_run import small_config

from mmirnet.apis.training import train
from mmirnet.engine.capture.static_step import StaticStep
from mmirnet.engine.config import set_captured_loop
from mmirnet.errors import ConfigError, NonFiniteError


@pytest.fixture(scope='module')
def ends(tmp_path_factory):
    """Ends of runs in the deterministic loop, by name."""

    @functools.cache
    def end(name):
        folder = tmp_path_factory.mktemp('run')
        trained(folder, 'DeterministicEpochLoop', **RUNS[name])
        return state(folder)

    return end


@pytest.mark.parametrize(
    'name', ['SGD', 'AdamW', 'EMA and validation', 'learning rate by iteration']
)
def test_ends_as_the_deterministic_loop(tmp_path, ends, name):
    """The same steps without any capture."""
    trained(tmp_path, 'CapturedEpochLoop', **RUNS[name])
    assert differences(ends(name), state(tmp_path)) == []


@pytest.fixture
def recorded(monkeypatch):
    """Captures that record on the CPU; gives the graphs that are made."""
    steps = []
    start = StaticStep.__init__

    def start_capturing(self, *args):
        start(self, *args)
        self.capture = True
        steps.append(self)

    def on_host():
        ema = steps[-1].ema
        return [] if ema is None else [ema.ema_model.steps]

    monkeypatch.setattr(StaticStep, '__init__', start_capturing)
    return record_graphs(monkeypatch, on_host)


@pytest.mark.parametrize('name', RUNS)
def test_replays_end_as_the_deterministic_loop(tmp_path, ends, recorded, name):
    """Weights, optimizer, averages, schedulers, and the history of what is logged.

    Operations are repeated on the tensors of a capture, without any Python.
    """
    runner = trained(tmp_path, 'CapturedEpochLoop', **RUNS[name])
    assert differences(ends(name), state(tmp_path)) == []
    assert sum(graph.replays for graph in recorded) > 0
    # The averages of other kinds act outside of the step.
    strangers = ['EMAHook'] if name == 'another average' else []
    assert runner.train_loop._calls.every == strangers
    assert not runner.train_loop._calls.change_between


def test_refuses_a_step_that_waits_for_the_device(tmp_path, recorded):
    message = r'cannot be captured .*not permitted.*leave out what waits'
    with pytest.raises(ConfigError, match=message) as error:
        trained(tmp_path, 'CapturedEpochLoop', backbone=dict(waits=True))
    assert '\n' not in str(error.value)


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
    'place of the data': (
        dict(data=dict(dataset=dict(in_memory(), device='meta'))),
        'InMemory are on meta and the model is on cpu: leave out',
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
    'OvSW': (dict(hooks=[dict(type='OvSWHook')]), 'OvSWHook acts between backward'),
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


@HOOKS.register_module()
class AtEachStep(Hook):
    """Attaches itself to the optimizer."""

    def before_train(self, runner):
        runner.optim_wrapper.optimizer.register_step_post_hook(lambda *args: None)


def test_hooks_of_the_optimizer_are_refused(tmp_path):
    with pytest.raises(ConfigError, match='a hook of the optimizer acts between'):
        trained(tmp_path, 'CapturedEpochLoop', hooks=[dict(type='AtEachStep')])
    assert not list(tmp_path.glob('*.pth'))


def test_several_processes_run_uncaptured_and_say_so(
    tmp_path, ends, monkeypatch, recorded
):
    monkeypatch.setattr('mmirnet.engine.capture.requirements.get_world_size', lambda: 2)
    trained(tmp_path, 'CapturedEpochLoop', log_level='INFO')
    assert not recorded
    text = next(tmp_path.glob('*/*.log')).read_text()
    assert 'captures nothing: a distributed run waits for other processes' in text
    assert differences(ends('SGD'), state(tmp_path)) == []


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
