"""Histories of the log come back from a checkpoint as they were."""

import io

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmirnet.engine.histories import compact, restore, whole

HISTORIES = {
    'empty': HistoryBuffer(),
    'counted once': HistoryBuffer([0.1, np.nan, -np.inf], [1, 1, 1]),
    'counted': HistoryBuffer([0.1, 0.2], [1, 3], max_length=2),
}


def through_a_file(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True), len(file.getvalue())


@pytest.mark.parametrize('history', HISTORIES.values(), ids=HISTORIES)
def test_comes_back(history):
    stored, _ = through_a_file(compact(history))
    found = whole(stored)
    assert found.max_length == history.max_length
    for one, other in zip(found.data, history.data, strict=True):
        assert (one.dtype, one.tobytes()) == (other.dtype, other.tobytes())
        assert type(one) is np.ndarray
    found.update(4.0)  # arrays that may grow
    assert found.current() == 4.0
    assert len(history.data[0]) == len(found.data[0]) - 1 or history.max_length == 2


def test_histories_of_mmengine_stay(history=HISTORIES['counted']):
    numbers, counts = history.data
    assert whole(history).data[0] is numbers
    assert history.data[1] is counts


@pytest.mark.parametrize('numbers', [[2**63], [2**70], ['a']])
def test_what_torch_has_no_numbers_for_stays(numbers):
    history = HistoryBuffer(numbers, [1] * len(numbers))
    assert compact(history) is history


def test_comes_back_from_another_device():
    class OnGpu(torch.Tensor):
        """A tensor that numpy cannot read before it is on the CPU."""

        def cpu(self):
            return self.as_subclass(torch.Tensor)

        def numpy(self):
            raise TypeError('on a device')

    history = compact(HISTORIES['counted once'])
    history._log_history = history._log_history.as_subclass(OnGpu)
    assert whole(history).data[0].shape == (3,)


@pytest.mark.parametrize(
    'hub', [None, [1], 'hub', torch.ones(3), {}, dict(log_scalars=None)]
)
def test_checkpoints_of_other_programs(hub):
    restore(dict(message_hub=hub))
    restore(dict(message_hub=dict(log_scalars=dict(loss=hub))))
    restore({})


def test_takes_the_bytes_of_its_numbers():
    numbers = np.random.default_rng(0).random(10_000)
    history = HistoryBuffer(numbers, np.ones(10_000, int))
    _, size = through_a_file(compact(history))
    _, usual = through_a_file(history)
    assert 80_000 < size < 83_000 < 160_000 < usual


def test_mmengine_goes_on_without_undoing():
    history = HistoryBuffer([1.0, 2.0], [1, 1])
    stored, _ = through_a_file(compact(history))
    for buffer in (history, stored):
        buffer.update(6.0)
    assert stored.mean() == history.mean() == 3.0
    assert stored.data[0].tolist() == history.data[0].tolist()
