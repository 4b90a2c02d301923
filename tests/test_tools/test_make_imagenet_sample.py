"""A sample that cannot be made is refused before anything is written."""

import subprocess

import pytest
from small_run import TOOLS
from warm_python import python


def make(*arguments):
    command = [python(), TOOLS / 'make_imagenet_sample.py', *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True)


def test_makes_two_classes(tmp_path):
    result = make(tmp_path / 'out', '--train', 2, '--val', 1)
    assert result.returncode == 0, result.stderr
    for split, number in (('train', 2), ('val', 1)):
        folders = list((tmp_path / 'out' / split).iterdir())
        assert [len(list(folder.iterdir())) for folder in folders] == [number] * 2
        for folder in folders:
            assert f'{folder}: {number} images\n' in result.stdout


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--train', -1], '--train and --val: give a whole number from 1 on'),
        (['--val', 0], '--train and --val: give a whole number from 1 on'),
        (['--seed', -5], '--seed: give a whole number from 0 on'),
    ],
)
def test_wrong_numbers(tmp_path, arguments, message):
    result = make(tmp_path / 'out', *arguments)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].endswith(f'error: {message}')
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('name', ['file', 'file/out'])
def test_a_file_is_no_folder(tmp_path, name):
    (tmp_path / 'file').touch()
    result = make(tmp_path / name)
    assert result.returncode == 2
    assert f'cannot create the folder {tmp_path / name}: ' in result.stderr
    assert 'Traceback' not in result.stderr
