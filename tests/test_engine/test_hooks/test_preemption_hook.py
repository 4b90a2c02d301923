import importlib
import signal
import threading

import pytest
from mmengine.hooks import Hook
from tiny import tiny_runner

from mmirnet.engine import PreemptionHook
from mmirnet.engine.hooks import preemption_hook


def runner_of(folder, **kwargs):
    hooks = dict(checkpoint=dict(type='AtomicCheckpointHook', interval=1))
    hook = [dict(type='PreemptionHook')]
    return tiny_runner(folder, hook, default_hooks=hooks, **kwargs)


def test_needs_the_checkpoint_hook(tmp_path):
    runner = tiny_runner(tmp_path, [dict(type='PreemptionHook')])
    with pytest.raises(ValueError, match='AtomicCheckpointHook'):
        runner.train()


@pytest.mark.parametrize('interval', [0, '10', None])
def test_interval(interval):
    match = f'PreemptionHook needs a positive interval, got {interval!r}'
    with pytest.raises(ValueError, match=match):
        PreemptionHook(interval=interval)


def test_windows_has_one_of_the_signals(monkeypatch):
    monkeypatch.delattr(signal, 'SIGUSR1')
    spec = importlib.util.find_spec('mmirnet.engine.hooks.preemption_hook')
    source = spec.loader.get_source(spec.name).replace('@HOOKS.register_module()', '')
    names = {'__name__': spec.name, '__package__': 'mmirnet.engine.hooks'}
    exec(compile(source, spec.origin, 'exec'), names)
    assert names['PreemptionHook'].signals == (signal.SIGTERM,)
    assert preemption_hook.PreemptionHook.signals[0] is signal.SIGTERM


def test_outside_the_main_thread_training_works_and_says_so(tmp_path):
    runner = runner_of(tmp_path)
    said = []
    runner.logger.warning = said.append
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=runner.train)
    thread.start()
    thread.join()
    assert runner.epoch == 3
    assert any('not run in the main thread' in line for line in said)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize('times', [1, 2])
def test_a_run_that_failed_leaves_signals_alone(tmp_path, times):
    class Fails(Hook):
        def after_train_iter(self, runner, *args, **kwargs):
            raise MemoryError

    received = []
    numbers = PreemptionHook.signals
    before = {n: signal.signal(n, lambda n, _: received.append(n)) for n in numbers}
    try:
        for i in range(times):
            runner = runner_of(tmp_path / str(i))
            runner.register_hook(Fails())
            with pytest.raises(MemoryError):
                runner.train()
        for number in numbers:
            signal.raise_signal(number)
        assert received == list(numbers)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_handlers_that_python_did_not_set_become_the_default(tmp_path, monkeypatch):
    hook = PreemptionHook()
    hook.previous = {signal.SIGUSR1: None}
    before = signal.getsignal(signal.SIGUSR1)
    try:
        hook.after_train(None)
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGUSR1, before)
