"""quickstart.sh and run_tests.sh make .venv: with a stand-in for Python and pip."""

import re
import shutil
import subprocess
from types import SimpleNamespace

import pytest
from small_run import PATIENCE, ROOT

#: Records what it is to run; the variables decide what it cannot do.
FAKE_PYTHON = """#!/usr/bin/env bash
case "$*" in
  '-c import sys'*) exit "${UNFIT:-0}" ;;
  '-c import venv'*) exit "${NO_VENV:-0}" ;;
  '-c import importlib'*) [[ "$*" == *"'${INSTALLED:-nothing}'"* ]]; exit ;;
  --version) echo 'Python 3.8.1' ;;
  '-m venv '*) mkdir -p "$3/bin" && cp "$(command -v "$0")" "$3/bin/python" ;;
  '-m pip '*) echo "$*" >>"$CALLS"; echo "$PIP_SAYS"; exit "${PIP_STATUS:-0}" ;;
  *) echo "$*" >>"$CALLS" ;;
esac
"""

#: What the scripts need of a system beside Python.
COMMANDS = ('awk', 'bash', 'cat', 'cksum', 'df', 'dirname', 'grep', 'tail', 'tee', 'wc')

#: And what the stand-in for Python needs.
ITS_COMMANDS = ('cp', 'mkdir')

#: The sources that an installation compiles.
SOURCES = 'mmirnet/runtime/csrc'


@pytest.fixture
def checkout(tmp_path):
    """A checkout with nothing but the scripts, and a PATH with one Python."""
    shutil.copytree(ROOT / 'tools', tmp_path / 'tools')
    shutil.copytree(ROOT / SOURCES, tmp_path / SOURCES)
    shutil.copy(ROOT / 'pyproject.toml', tmp_path)
    (tmp_path / 'bin').mkdir()
    for name in (*COMMANDS, *ITS_COMMANDS):
        (tmp_path / 'bin' / name).symlink_to(shutil.which(name))
    python = tmp_path / 'bin' / 'python3'
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    return tmp_path


def call(checkout, *command, **variables):
    """Runs a command; also gives what Python was to run during it."""
    calls = checkout / 'calls'
    calls.write_text('')
    env = dict(PATH=str(checkout / 'bin'), CALLS=str(calls), **variables)
    result = subprocess.run(
        command, cwd=checkout, env=env, capture_output=True, text=True, timeout=PATIENCE
    )
    return result, calls.read_text().splitlines()


def run_tests(checkout, *arguments, **variables):
    return call(checkout, 'bash', 'tools/run_tests.sh', *arguments, **variables)


def setup_env(checkout, extras, **variables):
    command = f'set -euo pipefail; source tools/_setup_env.sh; setup_env {extras}'
    return call(checkout, 'bash', '-c', command, **variables)


def test_the_tests_script_installs_checks_and_tests(checkout):
    result, calls = run_tests(checkout, 'tests/test_a.py', '-k', 'a b')
    assert result.returncode == 0, result.stderr
    install, *checks = calls
    assert install.endswith(f'-e {checkout}[lite,demo,test]')
    assert checks[:2] == ['-m ruff check', '-m ruff format --check']
    assert checks[2].startswith('-m pytest ')
    assert checks[2].endswith(' tests/test_a.py -k a b')


def test_the_second_run_installs_nothing(checkout):
    setup_env(checkout, 'lite,demo,test')
    assert setup_env(checkout, 'lite,demo,test')[1] == []
    assert setup_env(checkout, 'lite,demo')[1] == []


def test_installs_again_after_a_change_or_a_failure(checkout):
    setup_env(checkout, 'lite,demo')
    assert len(setup_env(checkout, 'lite,demo,test')[1]) == 1
    for changed in ('pyproject.toml', f'{SOURCES}/CMakeLists.txt'):
        with (checkout / changed).open('a') as file:
            file.write('# changed')
        assert setup_env(checkout, 'lite,demo', PIP_STATUS='1')[0].returncode == 1
        assert len(setup_env(checkout, 'lite,demo')[1]) == 1
        assert setup_env(checkout, 'lite,demo')[1] == []


@pytest.mark.parametrize(
    ('installed', 'extra'),
    [('mmcv', 'openmmlab'), ('onedl-mmengine', 'onedl'), ('mmcv-lite', 'lite')],
)
def test_keeps_the_mmcv_and_the_family_that_are_there(checkout, installed, extra):
    _, calls = setup_env(checkout, 'lite,demo', INSTALLED=installed)
    assert calls[0].endswith(f'[{extra},demo]')


def test_shows_large_downloads_only(checkout):
    says = (
        'Collecting torch\n'
        '  Downloading torch-2.15-cp311.whl (780.4 MB)\n'
        '  Downloading six-1.0.whl (1.2 MB)\n'
        'Installing collected packages: six, torch'
    )
    result, _ = setup_env(checkout, 'lite,demo', PIP_SAYS=says)
    assert [line for line in result.stdout.splitlines() if line[0] == ' '] == [
        '  torch (780.4 MB)',
        '  unpacking 2 packages',
    ]


def pip_fails(message):
    return dict(PIP_STATUS='1', PIP_SAYS=message)


@pytest.mark.parametrize(
    ('variables', 'message'),
    [
        (dict(UNFIT='1'), 'Python 3.10 to 3.13 is needed; found: Python 3.8.1'),
        (dict(NO_VENV='1'), 'no venv module (Debian, Ubuntu: apt install python3-venv'),
        (pip_fails('NewConnectionError: no route'), 'package index cannot be reached'),
        (pip_fails('Temporary failure in name resolution'), 'cannot be reached'),
        (pip_fails('[Errno 28] No space left on device'), 'The disk is full: 7 GB'),
        (pip_fails('ResolutionImpossible'), 'ResolutionImpossible\nerror: pip failed'),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else '',
)
def test_says_what_is_missing(checkout, variables, message):
    result, calls = run_tests(checkout, **variables)
    assert result.returncode == 1
    assert message in result.stderr
    assert not any(line.startswith('-m pytest') for line in calls)


def test_takes_a_python_that_fits(checkout):
    """The first on the path may be too new."""
    newer = checkout / 'bin' / 'python3'
    newer.rename(checkout / 'bin' / 'python3.12')
    newer.write_text('#!/usr/bin/env bash\nexit 1')
    newer.chmod(0o755)
    result, _ = setup_env(checkout, 'lite,demo')
    assert result.returncode == 0, result.stderr
    assert (checkout / '.venv' / 'bin' / 'python').exists()


@pytest.mark.parametrize('version', [(3, 9), (3, 10), (3, 13), (3, 14)])
def test_fit_versions_are_those_of_the_package(checkout, version):
    """What the scripts ask Python is what pyproject.toml asks pip for."""
    script = (checkout / 'tools/_setup_env.sh').read_text()
    condition = re.search(r'sys\.exit\(not (.*)\)', script)[1]
    fits = eval(condition, dict(sys=SimpleNamespace(version_info=version)))
    asked = (checkout / 'pyproject.toml').read_text()
    low, high = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', asked).groups()
    assert fits == (int(low) <= version[1] < int(high))


def test_says_how_much_space_is_missing(checkout):
    df = checkout / 'bin' / 'df'
    df.unlink()
    df.write_text('#!/usr/bin/env bash\necho Header; echo /dev/a 1 1 6291456 50% /')
    df.chmod(0o755)
    result, _ = run_tests(checkout)
    assert result.returncode == 1
    assert '7 GB of free disk space are needed' in result.stderr
    assert 'there are 6 GB' in result.stderr
    assert not (checkout / '.venv').exists()


def test_says_that_venv_is_damaged(checkout):
    python = checkout / '.venv' / 'bin' / 'python'
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/false\n')
    python.chmod(0o755)
    result, _ = run_tests(checkout)
    assert result.returncode == 1
    assert '.venv is damaged, or not of Python 3.10 to 3.13' in result.stderr
