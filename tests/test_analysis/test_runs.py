import json

import pytest

from mmirnet.analysis.runs import read_scalars


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


def test_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match='holds no log of a training run'):
        read_scalars(tmp_path)
