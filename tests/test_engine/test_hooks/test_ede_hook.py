import json
from pathlib import Path

import pytest
from tiny import TinyNet, tiny_runner

from mmirnet.binary import ede
from mmirnet.engine import EDEHook


def schedule(total, interval=1, repeat=1, **bounds):
    """t and k of each training step, by the formula."""
    steps = [ede((i - i % interval) / total, **bounds) for i in range(total)]
    return [pytest.approx(step) for step in steps for _ in range(repeat)]


def scalars(runner):
    path = next(Path(runner.log_dir).rglob('scalars.json'))
    return [json.loads(line) for line in path.read_text().splitlines()]


def by_iteration(max_iters=12):
    return dict(train_cfg=dict(by_epoch=False, max_iters=max_iters))


CASES = {
    'paper': (dict(), dict(), schedule(3, repeat=4)),
    'bounds': (
        dict(t_min=1e-3, t_max=100),
        dict(),
        schedule(3, repeat=4, t_min=1e-3, t_max=100),
    ),
    'every second epoch': (dict(interval=2), dict(), schedule(3, 2, repeat=4)),
    'iterations of epochs': (dict(by_epoch=False), dict(), schedule(12)),
    'every fifth iteration': (
        dict(by_epoch=False, interval=5),
        dict(),
        schedule(12, 5),
    ),
    'iteration loop': (dict(by_epoch=False), by_iteration(), schedule(12)),
}


@pytest.mark.parametrize('case', CASES)
def test_t_and_k_of_every_step(tmp_path, case):
    hook, config, expected = CASES[case]
    runner = tiny_runner(tmp_path, [dict(type='EDEHook', **hook)], **config)
    runner.train()
    assert runner.model.seen == expected


def test_t_and_k_are_in_the_log(tmp_path):
    backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
    runner = tiny_runner(
        tmp_path,
        [dict(type='EDEHook')],
        visualizer=dict(type='Visualizer', vis_backends=backends),
    )
    runner.train()
    rows = scalars(runner)
    assert [(r['t'], r['k']) for r in rows] == schedule(3, repeat=4)

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(next(tmp_path.rglob('events.out*')).parent))
    events.Reload()
    logged = [e.value for e in events.Scalars('t')]
    assert logged == [pytest.approx(t.expected[0]) for t in schedule(3, repeat=4)]


@pytest.mark.parametrize('hook', [dict(), dict(by_epoch=False, interval=3)])
def test_a_resumed_run_has_the_same_values(tmp_path, hook):
    hooks = [dict(type='EDEHook', **hook)]
    whole = tiny_runner(tmp_path / 'whole', hooks)
    whole.train()

    class Stop(Exception):
        pass

    class StoppingNet(TinyNet):
        def train_step(self, *args, **kwargs):
            if len(self.seen) == 10:
                raise Stop
            return super().train_step(*args, **kwargs)

    first = tiny_runner(
        tmp_path / 'cut',
        hooks,
        model=StoppingNet(),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)),
    )
    with pytest.raises(Stop):
        first.train()
    second = tiny_runner(tmp_path / 'cut', hooks, resume=True)
    second.train()
    # stopped in the third epoch: it is trained again from its start
    assert second.model.seen == whole.model.seen[8:]


@pytest.mark.parametrize('ema', [False, True])
def test_averaged_models_train_with_the_same_values(tmp_path, ema):
    hooks = [dict(type='EDEHook')] + [dict(type='EMAHook')] * ema
    runner = tiny_runner(tmp_path, hooks)
    runner.train()
    assert runner.model.seen == schedule(3, repeat=4)


def test_compiled_model(tmp_path):
    runner = tiny_runner(
        tmp_path, [dict(type='EDEHook')], cfg=dict(compile=dict(backend='aot_eager'))
    )
    runner.train()
    assert next(iter(runner.model.modules())).seen[-1] == pytest.approx(ede(2 / 3))


class TestMistakes:
    def test_model_without_binary_layers(self, tmp_path, caplog, monkeypatch):
        runner = tiny_runner(tmp_path, [dict(type='EDEHook')], binary=False)
        said = []
        monkeypatch.setattr(runner.logger, 'warning', said.append)
        runner.train()
        assert [m for m in said if 'no binary layers' in m]

    def test_binary_layers_without_hook(self, tmp_path):
        with pytest.warns(UserWarning, match=r"add dict\(type='EDEHook'\)"):
            tiny_runner(tmp_path).train()

    def test_epochs_in_an_iteration_loop(self, tmp_path):
        runner = tiny_runner(tmp_path, [dict(type='EDEHook')], **by_iteration())
        with pytest.raises(ValueError, match='by_epoch=False'):
            runner.train()

    @pytest.mark.parametrize(
        'kwargs, message',
        [
            (dict(t_min=10, t_max=0.1), '0 < t_min < t_max, got t_min=10'),
            (dict(t_min=0), '0 < t_min < t_max'),
            (dict(t_max=-1), '0 < t_min < t_max'),
            (dict(interval=0), 'positive interval, got 0'),
        ],
    )
    def test_arguments(self, kwargs, message):
        with pytest.raises(ValueError, match=message):
            EDEHook(**kwargs)
