import subprocess
import sys

import pytest

from mmirnet.deploy import engine
from mmirnet.errors import MissingPackageError


def test_without_the_engine_the_rest_still_works():
    """As after an installation without a compiler."""
    code = (
        'import sys\n'
        "sys.modules['mmirnet.deploy._engine'] = None\n"
        'from mmirnet import deploy\n'
        'try:\n'
        '    deploy.instruction_sets()\n'
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
        ModuleNotFoundError("No module named 'mmirnet.deploy._engine'"),
        'was not built when mmirnet was installed',
    ),
}


@pytest.mark.parametrize('reason', REASONS)
def test_the_true_reason_is_named(monkeypatch, reason):
    error, message = REASONS[reason]
    monkeypatch.setattr(engine, '_engine', None)
    monkeypatch.setattr(engine, '_reason', error)
    with pytest.raises(MissingPackageError, match=message):
        engine.instruction_sets()


def test_an_engine_of_another_python(monkeypatch, tmp_path):
    name = '_engine.cpython-39-x86_64-linux-gnu.so'
    (tmp_path / name).touch()
    monkeypatch.setattr(engine, '__file__', str(tmp_path / 'engine.py'))
    monkeypatch.setattr(engine, '_engine', None)
    monkeypatch.setattr(engine, '_reason', ModuleNotFoundError())
    here = sys.implementation.cache_tag
    with pytest.raises(
        MissingPackageError, match=rf'another Python \({name}\), not for {here}\. '
    ):
        engine.instruction_sets()
