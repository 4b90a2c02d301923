import json

import pytest

from mmirnet.analysis.runs import (
    by_layer,
    checkpoints,
    config_file,
    environment,
    read_scalars,
)
from mmirnet.errors import DataError


def write(work_dir, time, *lines):
    folder = work_dir / time / 'vis_data'
    folder.mkdir(parents=True)
    text = '\n'.join(json.dumps(line) for line in lines)
    (folder / 'scalars.json').write_text(text)


def train(epoch, step, loss, t=0.1):
    return dict(loss=loss, t=t, k=max(1 / t, 1), epoch=epoch, iter=step, step=step)


def val(epoch, accuracy):
    return {'accuracy/top1': accuracy, 'step': epoch}


@pytest.fixture
def run(tmp_path):
    write(
        tmp_path,
        '20260101_000000',
        train(1, 10, 2.0),
        train(1, 20, 1.0),
        val(1, 40.0),
        train(2, 30, 0.9, t=1.0),
    )
    return tmp_path


def test_averages_epochs(run):
    curves, by_epoch = read_scalars(run)
    assert by_epoch
    assert curves['loss'] == ([1, 2], [1.5, 0.9])
    assert curves['accuracy/top1'] == ([1], [40.0])
    assert curves['k'] == ([1, 2], [10.0, 1.0])


def test_a_resumed_run_continues_and_an_evaluation_is_left_out(run):
    write(run, '20260102_000000', train(2, 40, 0.5, t=1.0), val(2, 60.0))
    write(run, '20260103_000000', val(0, 99.0))
    curves, _ = read_scalars(run)
    assert curves['loss'] == ([1, 2], [1.5, 0.5])
    assert curves['accuracy/top1'] == ([1, 2], [40.0, 60.0])


def test_iterations(tmp_path):
    write(tmp_path, '1', dict(loss=3.0, step=5), dict(loss=1.0, step=10))
    curves, by_epoch = read_scalars(tmp_path)
    assert not by_epoch
    assert curves['loss'] == ([5, 10], [3.0, 1.0])


def test_a_log_that_ends_within_a_line(run):
    whole = read_scalars(run)
    (log,) = run.glob('*/vis_data/scalars.json')
    text = log.read_text()
    log.write_text(text + '\n{"loss": 1.')
    assert read_scalars(run) == whole
    log.write_text('{"loss": 1.\n' + text)
    with pytest.raises(DataError, match=r'scalars\.json, line 1: '):
        read_scalars(run)


def test_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match='holds no log of a training run'):
        read_scalars(tmp_path)


def test_statistics_by_layer():
    curve = ([2], [0.5])
    names = ['binary/flips', 'binary/b.conv/flips', 'binary/a.conv/flips', 'flips']
    names += ['binary/a.conv/weight_entropy']
    found = by_layer(dict.fromkeys(names, curve), 'flips')
    assert list(found.items()) == [('b.conv', curve), ('a.conv', curve)]


def test_a_resumed_run_has_the_config_and_machine_of_its_last_part(run):
    log = (
        'System environment:\n    Python: 3.{}.1 (main)\n    seed: 7\n'
        '2026 - mmengine - INFO - Config:\n    seed: 8\n'
    )
    for time, minor in ('20260101_000000', 10), ('20260102_000000', 11):
        if minor == 11:
            write(run, time, train(2, 40, 0.5))
        (run / time / 'vis_data' / 'config.py').write_text('')
        (run / time / f'{time}.log').write_text(log.format(minor))
    write(run, '20260103_000000', val(0, 99.0))
    assert config_file(run).parts[-3] == '20260102_000000'
    assert environment(run) == {'Python': '3.11.1 (main)', 'seed': '7'}


def test_no_config(run):
    with pytest.raises(FileNotFoundError, match='holds no config'):
        config_file(run)


@pytest.mark.parametrize(('by_epoch', 'found'), [(True, [2, 10]), (False, [500])])
def test_checkpoints_in_order(tmp_path, by_epoch, found):
    for name in 'epoch_10', 'epoch_2', 'iter_500', 'best_accuracy_top1_epoch_3':
        (tmp_path / f'{name}.pth').touch()
    (tmp_path / 'epoch_last.pth').touch()
    assert list(checkpoints(tmp_path, by_epoch)) == found
