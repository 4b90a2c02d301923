import pytest
from mmengine.hooks import Hook
from tiny import tiny_runner

from mmirnet.engine import CheckHook
from mmirnet.engine.hooks import check_hook
from mmirnet.errors import ConfigError


class Starts(Hook):
    """Notes that training has come so far."""

    priority = 'VERY_HIGH'
    started = False

    def before_train(self, runner):
        self.started = True


def test_stops_a_run_before_anything_else_starts(tmp_path):
    later = Starts()
    runner = tiny_runner(tmp_path, [later, CheckHook()])
    runner.model.requires_grad_(False)
    with pytest.raises(ConfigError, match='no parameter to train'):
        runner.train()
    assert not later.started


def test_lists_all_that_is_wrong_and_logs_what_looks_wrong(tmp_path, monkeypatch):
    def problems(runner, trained_on):
        yield ConfigError('one')
        yield UserWarning('perhaps')
        yield ConfigError('two')
        yield ConfigError('one')

    warned = []
    monkeypatch.setattr(check_hook, 'problems_before_training', problems)
    runner = tiny_runner(tmp_path, [CheckHook()])
    monkeypatch.setattr(runner.logger, 'handle', warned.append)
    with pytest.raises(ConfigError) as caught:
        runner.train()
    assert str(caught.value) == 'one\ntwo'
    warnings = [r.getMessage() for r in warned if r.levelname == 'WARNING']
    assert 'perhaps' in warnings


@pytest.mark.parametrize(
    'meta',
    [
        dict(dataset_meta=dict(classes=('a', 'b'))),
        dict(CLASSES=['a', 'b']),
    ],
)
def test_knows_the_classes_of_a_checkpoint(meta):
    hook = CheckHook()
    hook.after_load_checkpoint(None, dict(meta=meta))
    assert hook.trained_on == ['a', 'b']


@pytest.mark.parametrize('checkpoint', [{}, dict(meta=None), dict(meta=dict())])
def test_a_checkpoint_may_be_without_classes(checkpoint):
    hook = CheckHook()
    hook.after_load_checkpoint(None, checkpoint)
    assert hook.trained_on is None


def test_a_run_with_it_trains_as_one_without(tmp_path):
    states = []
    for hooks in ([], [CheckHook()]):
        runner = tiny_runner(tmp_path, hooks)
        runner.train()
        states.append({n: p.clone() for n, p in runner.model.state_dict().items()})
    assert all(states[0][name].equal(value) for name, value in states[1].items())
