import traceback
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from tiny import tiny_runner

import mmirnet  # noqa: F401
from mmirnet.engine import run
from mmirnet.engine.errors import one_line_errors, user_message
from mmirnet.errors import ConfigError, DataError


class HookWithABug(Hook):
    """Calls something of this package with a wrong keyword."""

    def before_train(self, runner):
        HOOKS.build(dict(type='EDEHook', t_mim=0.1))


def test_a_bug_in_a_hook_is_shown_where_it_is(tmp_path):
    runner = tiny_runner(tmp_path, [HookWithABug()])
    with pytest.raises(TypeError) as caught, one_line_errors():
        runner.train()
    shown = ''.join(traceback.format_exception(caught.value))
    assert "HOOKS.build(dict(type='EDEHook', t_mim=0.1))" in shown


def test_a_data_workers_error_is_its_last_line():
    text = (
        'Caught DataError in DataLoader worker process 0.\nOriginal Traceback (most '
        'recent call last):\n  File "a.py", line 3\nmmirnet.errors.DataError: cannot '
        'read a.png'
    )
    assert user_message(DataError(text)) == 'cannot read a.png'
    assert user_message(DataError('one\ntwo')) == 'one\ntwo'


class TestOneLineErrors:
    """one_line_errors: whose fault it is decides."""

    @staticmethod
    def ours():
        run.load_config('absent::a.py', None, 'none')

    @staticmethod
    def systems():
        Path('absent').read_bytes()

    @staticmethod
    def torchs():
        torch.zeros(2) + torch.zeros(3)

    @staticmethod
    def a_bug():
        run._average_over_flips(None)

    @staticmethod
    def a_wrong_keyword():
        HOOKS.build(dict(type='EDEHook', t_mim=0.1))

    @staticmethod
    def several():
        raise ConfigError('one\ntwo')

    @pytest.mark.parametrize(
        ('fault', 'message'),
        [
            ('ours', 'error: CONFIG absent::a.py: there is no package absent\n'),
            ('several', 'error: one\nerror: two\n'),
            ('systems', "error: [Errno 2] No such file or directory: 'absent'\n"),
        ],
    )
    def test_the_users(self, capsys, fault, message):
        with pytest.raises(SystemExit) as exit, one_line_errors():
            getattr(self, fault)()
        assert exit.value.code == 2
        assert capsys.readouterr().err == message

    @pytest.mark.parametrize('bug', ['torchs', 'a_bug', 'a_wrong_keyword'])
    def test_bugs_keep_their_traceback(self, bug):
        with (
            pytest.raises((RuntimeError, AttributeError, TypeError)),
            one_line_errors(),
        ):
            getattr(self, bug)()

    def test_names_the_rank(self, capsys, monkeypatch):
        monkeypatch.setenv('RANK', '3')
        with pytest.raises(SystemExit), one_line_errors():
            self.systems()
        assert capsys.readouterr().err.startswith('[rank 3] error: ')
