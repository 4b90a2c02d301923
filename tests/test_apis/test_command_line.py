import argparse
import traceback
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from tiny import tiny_runner
from torch import distributed

import mmirnet  # noqa: F401
from mmirnet.apis import command_line as errors
from mmirnet.apis import evaluation
from mmirnet.apis.command_line import (
    at_least,
    one_line_errors,
    parse_options,
    said_by_another,
    user_message,
    writable,
)
from mmirnet.engine.config import load_config
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


def test_settings_that_a_library_refuses_are_one_line(tmp_path, capsys):
    runner = tiny_runner(tmp_path)
    runner.cfg.optim_wrapper = runner.optim_wrapper = dict(
        type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1, nesterov=True)
    )
    with pytest.raises(SystemExit), one_line_errors():
        runner.train()
    assert capsys.readouterr().err == (
        'error: SGD: Nesterov momentum requires a momentum and zero dampening\n'
    )


def test_options_are_settings_by_key():
    assert parse_options(None) is None
    words = ['a.b=[(1,2),x]', 'c=', 'a=x=y', 'c=0.5', 'd=epoch_{}.pth', 'e=mydict(1)']
    assert parse_options(words) == {
        'a.b': [(1, 2), 'x'],
        'a': 'x=y',
        'c': 0.5,
        'd': 'epoch_{}.pth',
        'e': 'mydict(1)',
    }


DICTS = (
    'dicts are not read here; set their values one by one, as in '
    'default_hooks.ema.type=EMAHook, or write them into a config'
)


@pytest.mark.parametrize(
    ('word', 'reason'),
    [
        ('foo', 'write KEY=VALUE'),
        ('=3', 'write KEY=VALUE'),
        ('', 'write KEY=VALUE'),
        ('a=(1,[2)', 'Imbalanced brackets exist in 1,[2'),
        ('a=[1,2],[3,4]', 'the brackets do not make one list'),
        ('a=dict(type=ReLU)', DICTS),
        ("a=[b, dict(type='EMAHook', momentum=1e-3)]", DICTS),
        ('a="{1: 2}"', DICTS),
    ],
)
def test_an_option_that_is_no_setting_is_named(word, reason):
    with pytest.raises(ConfigError) as caught:
        parse_options(['a=1', word])
    assert str(caught.value) == f'--cfg-options {word}: {reason}'


@pytest.mark.parametrize(
    ('least', 'text', 'message'),
    [
        (1, '0', '0: give a whole number from 1 on'),
        (1, '1.5', '1.5: give a whole number from 1 on'),
        (1, 'two', 'two: give a whole number from 1 on'),
        (0.5, 'nan', 'nan: give a number from 0.5 on'),
    ],
)
def test_a_number_below_its_minimum_is_named(least, text, message):
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        at_least(least)(text)
    assert str(caught.value) == message


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / 'a.json').mkdir()
    for path, ending in [(tmp_path, ''), (tmp_path / 'a', '.json')]:
        with pytest.raises(
            argparse.ArgumentTypeError, match=r'cannot write .*: Is a d'
        ):
            writable(str(path), ending)
    new = str(tmp_path / 'folder' / 'b.json')
    assert writable(new) == new
    assert not Path(new).exists()


def test_a_data_workers_error_is_its_last_line():
    text = (
        'Caught DataError in DataLoader worker process 0.\nOriginal Traceback (most '
        'recent call last):\n  File "a.py", line 3\nmmirnet.errors.DataError: cannot '
        'read a.png'
    )
    assert user_message(DataError(text)) == 'cannot read a.png'
    assert user_message(DataError('one\ntwo')) == 'one\ntwo'


class TestSaidByAnother:
    """said_by_another, on the store that torchrun keeps for its processes."""

    @pytest.fixture
    def store(self, monkeypatch):
        store = distributed.TCPStore('127.0.0.1', 0, is_master=True)
        variables = dict(
            TORCHELASTIC_USE_AGENT_STORE='True',
            TORCHELASTIC_RESTART_COUNT='0',
            MASTER_ADDR='127.0.0.1',
            MASTER_PORT=str(store.port),
        )
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return store

    @pytest.fixture(autouse=True)
    def naps(self, monkeypatch):
        """The seconds that are waited, without waiting."""
        naps = []
        monkeypatch.setattr('time.sleep', naps.append)
        return naps

    def test_the_first_speaks(self, store):
        assert not said_by_another('a')
        assert said_by_another('a')
        assert not said_by_another('b')

    def test_a_new_attempt_speaks_again(self, store, monkeypatch):
        assert not said_by_another('a')
        monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '1')
        assert not said_by_another('a')

    def test_a_store_that_is_gone_silences_nobody(self, store, monkeypatch):
        monkeypatch.setattr(errors, '_PATIENCE', 1)
        monkeypatch.setenv('MASTER_PORT', '1')
        assert not said_by_another('a')
        assert not said_by_another('a')

    @pytest.mark.parametrize(('rank', 'waits'), [('0', []), ('3', [3]), ('99', [10])])
    def test_later_tasks_of_slurm_wait_for_their_end(
        self, monkeypatch, naps, rank, waits
    ):
        monkeypatch.delenv('TORCHELASTIC_USE_AGENT_STORE', raising=False)
        monkeypatch.setenv('SLURM_PROCID', rank)
        assert not said_by_another('a')
        assert naps == waits

    def test_of_a_bug_too(self, store, capsys):
        codes = []
        for _ in range(2):
            try:
                with one_line_errors():
                    raise KeyError('bug')
            except KeyError:
                codes.append('traceback')
            except SystemExit as end:
                codes.append(end.code)
        assert codes == ['traceback', 1]
        assert capsys.readouterr().err == ''


class TestOneLineErrors:
    """one_line_errors: whose fault it is decides."""

    @staticmethod
    def ours():
        load_config('absent::a.py', None, 'none')

    @staticmethod
    def systems():
        Path('absent').read_bytes()

    @staticmethod
    def a_download():
        raise URLError(OSError(-2, 'Name or service not known'))

    @staticmethod
    def torchs():
        torch.zeros(2) + torch.zeros(3)

    @staticmethod
    def a_bug():
        evaluation._average_over_flips(None)

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
            (
                'a_download',
                'error: the download failed: [Errno -2] Name or service not known; '
                'check the network, or put the file into its place by hand\n',
            ),
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
