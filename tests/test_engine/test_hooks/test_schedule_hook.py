"""One hook moves t and k, ReSTE's o and ReCU's tau. EDEHook has a file of its own."""

import re
from functools import partial

import pytest
from tiny import TinyNet, tiny_runner
from torch import nn

from mmirnet import binary
from mmirnet.binary import schedule_at
from mmirnet.engine import EDEHook, ScheduleHook

HOOKS = {
    'ReSTE': dict(type='ScheduleHook', schedule='reste', o_end=2.5),
    'ReCU': dict(type='ScheduleHook', schedule='recu'),
    'AdaBin': dict(type='EDEHook', t_min=1e-3),
    'IR': dict(type='ScheduleHook', schedule='ede'),
}


def runner_of(work_dir, name, hooks=None, **kwargs):
    model = TinyNet(conv=getattr(binary, f'{name}Conv2d'))
    return tiny_runner(work_dir, hooks or [HOOKS[name]], model=model, **kwargs)


def expected(name, total, repeat):
    hook = HOOKS[name]
    bounds = {k: v for k, v in hook.items() if k not in ('type', 'schedule')}
    steps = [
        schedule_at(hook.get('schedule', 'ede'), i / total, **bounds)
        for i in range(total)
    ]
    return [pytest.approx(step) for step in steps for _ in range(repeat)]


@pytest.mark.parametrize('name', HOOKS)
def test_numbers_of_every_step(tmp_path, name):
    runner = runner_of(tmp_path, name)
    runner.train()
    assert runner.model.seen == expected(name, 3, repeat=4)


@pytest.mark.parametrize('name', ['ReSTE', 'ReCU'])
def test_by_iteration_and_interval(tmp_path, name):
    runner = runner_of(tmp_path, name, [{**HOOKS[name], 'by_epoch': False}])
    runner.train()
    assert runner.model.seen == expected(name, 12, repeat=1)


@pytest.mark.parametrize('interval', [0, '1', 0.5, None])
@pytest.mark.parametrize('hook', [EDEHook, partial(ScheduleHook, 'recu')])
def test_the_interval_is_a_positive_integer(hook, interval):
    match = f'Hook needs a positive interval, got {interval!r}'
    with pytest.raises(ValueError, match=match):
        hook(interval=interval)


@pytest.mark.parametrize('name', ['ReSTE', 'ReCU'])
def test_the_log_has_the_published_name(tmp_path, name):
    runner = runner_of(tmp_path, name)
    runner.train()
    number = dict(ReSTE='o', ReCU='tau')[name]
    last = runner.message_hub.get_scalar(f'train/{number}').current()
    assert last == expected(name, 3, 1)[-1].expected[0]
    assert 'train/k' not in runner.message_hub.log_scalars


@pytest.mark.parametrize('name', HOOKS)
def test_a_resumed_run_has_the_same_values(tmp_path, name):
    whole = runner_of(tmp_path / 'whole', name)
    whole.train()

    class Stop(Exception):
        pass

    first = runner_of(tmp_path / 'cut', name)
    train_step, steps = first.model.train_step, []

    def stopping(*args, **kwargs):
        steps.append(1)
        if len(steps) > 8:
            raise Stop
        return train_step(*args, **kwargs)

    first.model.train_step = stopping
    with pytest.raises(Stop):
        first.train()
    first.model.train_step = train_step
    second = runner_of(tmp_path / 'cut', name, resume=True)
    second.train()
    assert second.model.seen == whole.model.seen[8:]


def test_recipes_side_by_side(tmp_path):
    model = TinyNet()
    model.net[0] = nn.Sequential(
        binary.ReSTEConv2d(4, 4, 1), binary.ReCUConv2d(4, 6, 3)
    )
    hooks = [HOOKS['ReSTE'], HOOKS['ReCU']]
    runner = tiny_runner(tmp_path, hooks, model=model)
    runner.train()
    assert model.seen[0::2] == expected('ReSTE', 3, 4)
    assert model.seen[1::2] == expected('ReCU', 3, 4)


class TestMistakes:
    @pytest.mark.parametrize(
        ('kwargs', 'message'),
        [
            (dict(schedule='rest'), 'schedule must be one of'),
            (dict(schedule='reste', o_edn=3), 'o_edn'),
            (dict(schedule='recu', tau_max=1.0), 'tau_max < 1'),
            (dict(schedule='recu', interval=0), 'positive interval, got 0'),
        ],
    )
    def test_arguments(self, kwargs, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            ScheduleHook(**kwargs)

    def test_a_schedule_that_no_layer_has(self, tmp_path, monkeypatch):
        runner = runner_of(tmp_path, 'ReCU', [dict(type='EDEHook')])
        said = []
        monkeypatch.setattr(runner.logger, 'warning', said.append)
        with pytest.warns(UserWarning, match="schedule='recu'"):
            runner.train()
        assert [m for m in said if "is not 'ede' but 'recu'" in m]

    def test_the_hook_of_ir_net_is_one_case(self):
        ours = ScheduleHook('ede', t_min=0.1, t_max=10.0)
        assert isinstance(EDEHook(), ScheduleHook)
        assert vars(EDEHook()) == vars(ours)
