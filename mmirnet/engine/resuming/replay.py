"""Optimizer settings and schedules that follow the config of a resumed run."""

import contextlib
import copy
import io
import warnings
from typing import NamedTuple

from mmengine.runner import EpochBasedTrainLoop, Runner

from ..wrappers import param_schedulers
from .record import RUNNING, settings_of, state_of


class Start(NamedTuple):
    """Optimizer settings and schedules as the config makes them."""

    groups: list[dict]
    states: list[dict]


def start_of(runner: Runner) -> Start:
    """Copies settings and schedules before a checkpoint is loaded."""
    return Start(
        [settings_of(g) for g in _groups(runner)],
        [state_of(s) for s in param_schedulers(runner)],
    )


def in_step(runner: Runner) -> bool:
    """Whether the schedules have made as many steps as the run."""
    schedulers = param_schedulers(runner)
    return all(s._global_step == _steps(s, runner) for s in schedulers)


def replay(runner: Runner, start: Start) -> dict[str, tuple[float, float]]:
    """Takes the values that a run of this config has after the same progress.

    Schedules that depend on metrics cannot be replayed: they keep their state.

    Args:
        runner (Runner): The runner, after it has loaded a checkpoint.
        start (Start): Settings and schedules as the config makes them.

    Returns:
        dict[str, tuple[float, float]]: Learning rate, momentum and weight decay of the
        first group that changed, with the values before and after.
    """
    before, schedulers = _current(runner), param_schedulers(runner)
    metric = [s for s in schedulers if getattr(s, 'need_val_args', False)]
    kept = [_kept(s, runner) for s in metric]
    for group, settings in zip(_groups(runner), start.groups, strict=True):
        group.update(copy.deepcopy(settings))
    for scheduler, state in zip(schedulers, start.states, strict=True):
        scheduler.__dict__.update(copy.deepcopy(state))
    _advance([s for s in schedulers if s not in metric], runner)
    for scheduler, (state, values, bases) in zip(metric, kept, strict=True):
        scheduler.__dict__.update({k: state[k] for k in RUNNING if k in state})
        for group, value, old in zip(_groups(runner), values, bases, strict=True):
            new = group.get(f'initial_{scheduler.param_name}')
            group[scheduler.param_name] = value * (new / old) if old else value
    after = _current(runner)
    return {k: (before[k], after[k]) for k in after if before[k] != after[k]}


def _kept(scheduler, runner: Runner) -> tuple[dict, list, list]:
    """Copies the state of a scheduler, its values and those that they started from."""
    name = scheduler.param_name
    values = [group[name] for group in _groups(runner)]
    bases = [group.get(f'initial_{name}') for group in _groups(runner)]
    return state_of(scheduler), values, bases


def _advance(schedulers: list, runner: Runner) -> None:
    """Steps schedulers from the start of a run to its progress."""
    by_epoch = [s for s in schedulers if s.by_epoch]
    by_iter = [s for s in schedulers if not s.by_epoch]
    epochs, length = 0, len(runner.train_dataloader)
    if isinstance(runner.train_loop, EpochBasedTrainLoop):
        epochs = runner.epoch
    silent = contextlib.redirect_stdout(io.StringIO())
    with warnings.catch_warnings(), silent:
        warnings.simplefilter('ignore')  # about steps without optimizer steps
        for _ in range(epochs):
            _step(by_iter, length)
            _step(by_epoch, 1)
        _step(by_iter, runner.iter - epochs * length)


def _steps(scheduler, runner: Runner) -> int:
    """Returns the number of steps that a scheduler has made at this progress."""
    if getattr(scheduler, 'need_val_args', False):
        return scheduler._global_step
    return runner.epoch if scheduler.by_epoch else runner.iter


def _step(schedulers: list, times: int) -> None:
    for _ in range(times if schedulers else 0):
        for scheduler in schedulers:
            scheduler.step()


def _current(runner: Runner) -> dict[str, float]:
    """Returns learning rate, momentum and weight decay of the first group."""
    group = runner.optim_wrapper.optimizer.param_groups[0]
    return {
        k: float(group[k]) for k in ('lr', 'momentum', 'weight_decay') if k in group
    }


def _groups(runner: Runner) -> list[dict]:
    return runner.optim_wrapper.param_groups
