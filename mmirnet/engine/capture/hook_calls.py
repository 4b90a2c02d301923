"""When hooks act, for a loop that runs several iterations at once.

MMEngine calls every hook in every iteration, and most of them look at a counter and
return. A loop that trains several iterations at once asks here which hooks have
something to do, and calls only those.
"""

from collections.abc import Callable
from typing import NamedTuple

from mmengine.hooks import (
    CheckpointHook,
    EMAHook,
    Hook,
    IterTimerHook,
    LoggerHook,
    ParamSchedulerHook,
    RuntimeInfoHook,
)
from mmengine.runner import Runner
from mmpretrain.engine import EMAHook as PretrainEMAHook

from ..hooks import (
    BinaryStatsHook,
    CompileHook,
    FiniteLossHook,
    PreemptionHook,
    ScheduleHook,
)

#: Methods of a hook that are called in each iteration of a training.
_METHODS = ('before_train_iter', 'after_train_iter', '_before_iter', '_after_iter')
#: Methods in which a hook may change what a graph keeps.
_BETWEEN = frozenset(
    f'{when}_{what}' for when in ('before', 'after') for what in ('train_epoch', 'val')
) | {'before_val_epoch', 'after_val_epoch'}
#: Hooks whose work in an iteration the loop does itself.
_SERVED = (RuntimeInfoHook, IterTimerHook, FiniteLossHook)


class Iteration(NamedTuple):
    """An iteration to ask about.

    Attributes:
        iter (int): Index in the run.
        batch_idx (int): Index in the epoch.
        length (int): Iterations of an epoch.
        max_iters (int): Iterations of the run.
    """

    iter: int
    batch_idx: int
    length: int
    max_iters: int


def _never(hook: Hook, at: Iteration) -> bool:
    return False


def _always(hook: Hook, at: Iteration) -> bool:
    return True


def _every(interval: int, done: int, start: int = 0) -> bool:
    return interval > 0 and done >= start and (done - start) % interval == 0


def _logs(hook: LoggerHook, at: Iteration) -> bool:
    return (
        _every(hook.interval, at.batch_idx + 1)
        or _every(hook.interval_exp_name, at.iter + 1)
        or at.batch_idx + 1 == at.length
    )


def _saves(hook: CheckpointHook, at: Iteration) -> bool:
    last = hook.save_last and at.iter + 1 == at.max_iters
    return not hook.by_epoch and (
        last or _every(hook.interval, at.iter + 1, hook.save_begin)
    )


def _sets(hook: ScheduleHook, at: Iteration) -> bool:
    return not hook.by_epoch and at.iter % hook.interval == 0


def _records(hook: BinaryStatsHook, at: Iteration) -> bool:
    return bool(hook.layers) and _every(hook.interval, at.iter + 1)


class _Acts(NamedTuple):
    """Whether a hook acts before and after an iteration."""

    before: Callable[[Hook, Iteration], bool] = _never
    after: Callable[[Hook, Iteration], bool] = _never


_KNOWN: dict[type[Hook], _Acts] = {
    **dict.fromkeys(_SERVED, _Acts()),
    LoggerHook: _Acts(after=_logs),
    CheckpointHook: _Acts(after=_saves),
    ScheduleHook: _Acts(before=_sets),
    BinaryStatsHook: _Acts(_records, _records),
    PreemptionHook: _Acts(after=lambda hook, at: hook.received is not None),
    # The loop steps the schedulers of learning rates ahead, and calls it for the last.
    ParamSchedulerHook: _Acts(),
    CompileHook: _Acts(
        lambda hook, at: hook.is_first('train'), lambda hook, at: hook.is_first('train')
    ),
}
_STRANGER = _Acts(_always, _always)


class HookCalls:
    """Tells which hooks act before and after an iteration, in the order of MMEngine.

    Args:
        runner (Runner): The runner with its hooks.
        averaging (EMAHook | None): The hook whose update is part of the step.

    Attributes:
        every (list[str]): Names of the hooks that act in every iteration.
        change_between (bool): Whether a hook of somebody else acts between epochs.
    """

    def __init__(self, runner: Runner, averaging: EMAHook | None = None) -> None:
        self.runner = runner
        self.acts = {}
        for hook in runner.hooks:
            acts = self._average(hook) if hook is averaging else _acts(hook)
            if acts is not None:
                self.acts[hook] = acts
        self.every = [
            type(h).__name__ for h, acts in self.acts.items() if acts is _STRANGER
        ]
        self.change_between = change_between_epochs(runner)

    @staticmethod
    def _average(hook: EMAHook) -> _Acts:
        """The update is part of the step, which changes where the average starts."""
        return _Acts(before=lambda hook, at: at.iter + 1 == hook.begin_iter)

    def before(self, at: Iteration) -> list[Hook]:
        """Returns the hooks that act before an iteration."""
        return [hook for hook, acts in self.acts.items() if acts.before(hook, at)]

    def after(self, at: Iteration) -> list[Hook]:
        """Returns the hooks that act after an iteration."""
        return [hook for hook, acts in self.acts.items() if acts.after(hook, at)]

    def watched(self, hooks: list[Hook]) -> bool:
        """Whether one of the hooks needs the Python code of the step to run."""
        return any(isinstance(hook, (BinaryStatsHook, CompileHook)) for hook in hooks)

    def free(self, at: Iteration, most: int) -> int:
        """Counts the iterations from one on between which no hook acts.

        Args:
            at (Iteration): The first.
            most (int): Where to stop counting.

        Returns:
            int: From 1 to ``most``.
        """
        for n in range(1, most):
            following = at._replace(iter=at.iter + n, batch_idx=at.batch_idx + n)
            previous = at._replace(iter=at.iter + n - 1, batch_idx=at.batch_idx + n - 1)
            if self.after(previous) or self.before(following):
                return n
        return most


def change_between_epochs(runner: Runner) -> bool:
    """Whether a hook of somebody else acts between epochs, and may change the model.

    Some of MMPretrain's do; its EMAHook exchanges weights in place.
    """
    return any(
        not type(hook).__module__.startswith(('mmengine.', 'mmirnet.'))
        and type(hook) is not PretrainEMAHook
        and _BETWEEN & set(hook.get_triggered_stages())
        for hook in runner.hooks
    )


def works_as(hook: Hook, kind: type[Hook]) -> bool:
    """Whether a hook does in an iteration what a kind of hooks does.

    A subclass with methods of its own may do anything.
    """
    same = all(getattr(type(hook), m) is getattr(kind, m) for m in _METHODS)
    return isinstance(hook, kind) and same


def _acts(hook: Hook) -> _Acts | None:
    """Returns when a hook acts; None if it has no part in an iteration."""
    stages = hook.get_triggered_stages()
    if not {'before_train_iter', 'after_train_iter'} & set(stages):
        return None
    for kind, acts in _KNOWN.items():
        if works_as(hook, kind):
            return acts
    return _STRANGER
