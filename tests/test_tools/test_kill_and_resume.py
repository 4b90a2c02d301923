"""One of the kills of tests/by_hand/kill_and_resume.py."""

import signal

import pytest
from killed_runs import differences, finish, state, stop


@pytest.mark.parametrize(
    'case, events, delay',
    [
        ('two ranks', 7, 0.2),  # about a validation
    ],
)
def test_a_killed_run_ends_as_the_unbroken_one(tmp_path, case, events, delay):
    finish(case, tmp_path / 'whole')
    stop(case, tmp_path / 'killed', events, delay, signal.SIGKILL)
    finish(case, tmp_path / 'killed', resume=True)
    assert differences(state(tmp_path / 'whole'), state(tmp_path / 'killed')) == []
