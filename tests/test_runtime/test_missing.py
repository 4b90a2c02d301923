import subprocess
import sys

import pytest
from small_run import LIGHT

from mmirnet.errors import MissingPackageError
from mmirnet.runtime import session


def test_without_the_engine_the_rest_still_works():
    """As after an installation without a compiler."""
    code = LIGHT + (
        'import sys\n'
        "sys.modules['mmirnet.runtime._native'] = None\n"
        'from mmirnet.runtime import instruction_sets\n'
        'try:\n'
        '    instruction_sets()\n'
        'except ImportError as error:\n'
        '    print(error)\n'
    )
    result = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True
    )
    assert 'was not built' in result.stdout
    assert 'Install a C++17 compiler' in result.stdout


REASONS = {
    'ImportError': (
        ImportError('libgomp.so.1: cannot open shared object file'),
        r'installed but cannot be loaded \(libgomp.so.1: cannot open',
    ),
    'no module': (
        ModuleNotFoundError("No module named 'mmirnet.runtime._native'"),
        'was not built when mmirnet was installed',
    ),
}


@pytest.mark.parametrize('reason', REASONS)
def test_the_true_reason_is_named(monkeypatch, reason):
    error, message = REASONS[reason]
    monkeypatch.setattr(session, '_native', None)
    monkeypatch.setattr(session, '_reason', error)
    with pytest.raises(MissingPackageError, match=message):
        session.instruction_sets()


def test_an_engine_of_another_python(monkeypatch, tmp_path):
    name = '_native.cpython-39-x86_64-linux-gnu.so'
    (tmp_path / name).touch()
    monkeypatch.setattr(session, '__file__', str(tmp_path / 'session.py'))
    monkeypatch.setattr(session, '_native', None)
    monkeypatch.setattr(session, '_reason', ModuleNotFoundError())
    here = sys.implementation.cache_tag
    with pytest.raises(
        MissingPackageError, match=rf'another Python \({name}\), not for {here}\. '
    ):
        session.instruction_sets()
