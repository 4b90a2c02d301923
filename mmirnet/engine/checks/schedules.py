"""Checks of the schedules of learning rate and momentum."""

from collections.abc import Iterator
from typing import Any

from mmengine.runner import IterBasedTrainLoop, Runner

from ...errors import ConfigError
from ..wrappers import param_schedulers


def schedule_problems(runner: Runner) -> Iterator[Exception]:
    """Finds schedules that do not end together with the training."""
    for scheduler in param_schedulers(runner):
        if not hasattr(scheduler, 'by_epoch'):
            continue
        name = type(scheduler).__name__
        if scheduler.by_epoch and isinstance(runner.train_loop, IterBasedTrainLoop):
            yield UserWarning(
                f'param_scheduler: {name} counts epochs, the training loop iterations; '
                'set by_epoch=False'
            )
            continue
        unit = 'epochs' if scheduler.by_epoch else 'iterations'
        total = runner.max_epochs if scheduler.by_epoch else runner.max_iters
        yield from _schedule(name, scheduler, total, unit)


def _schedule(name: str, scheduler: Any, total: int, unit: str) -> Iterator[Exception]:
    begin, end = scheduler.begin, min(scheduler.end, total)
    steps = getattr(scheduler, 'total_steps', None)
    if steps is not None and steps < end - begin:
        yield ConfigError(
            f'param_scheduler: {name} has total_steps={steps}, fewer than the '
            f'{end - begin} {unit} to go: set total_steps={end - begin}'
        )
    period = getattr(scheduler, 'T_max', None)
    milestones = [m for m in getattr(scheduler, 'milestones', ()) if m >= total]
    if begin >= total:
        yield UserWarning(
            f'param_scheduler: {name} begins after {begin} of {total} {unit}'
        )
    elif period is not None and period != end - begin:
        yield UserWarning(
            f'param_scheduler: {name} has T_max={period}, but {end - begin} {unit} to '
            f'go; T_max={end - begin} ends with them'
        )
    elif milestones:
        yield UserWarning(
            f'param_scheduler: {name} has milestones {milestones}, which training of '
            f'{total} {unit} does not reach'
        )
