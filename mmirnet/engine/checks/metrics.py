"""Checks of evaluators, and of what depends on their results."""

from collections.abc import Iterator
from typing import Any

from mmengine.evaluator import Evaluator
from mmengine.hooks import CheckpointHook, EarlyStoppingHook
from mmengine.runner import Runner

from ...errors import ConfigError
from ..wrappers import param_schedulers


def evaluator_problems(
    key: str, evaluator: Evaluator, outputs: int | None
) -> Iterator[Exception]:
    """Finds metrics that do not match the number of classes.

    Args:
        key (str): Key of the evaluator in the config.
        evaluator (Evaluator): The evaluator.
        outputs (int | None): Number of classes, if known.

    Yields:
        Exception: One per problem.
    """
    for metric in getattr(evaluator, 'metrics', []):
        name = type(metric).__name__
        topk = getattr(metric, 'topk', None)
        if min(topk_values(topk), default=1) < 1:
            yield ConfigError(f'{key}: {name} takes topk from 1 on, got {topk}')
        if outputs and max(topk_values(topk), default=0) > outputs:
            fitting = tuple(k for k in topk if k <= outputs) if _is_list(topk) else 1
            yield ConfigError(
                f'{key}: {name} takes topk={topk}, but there are {outputs} classes; '
                f'set {key}.topk={fitting}'
            )
        count = getattr(metric, 'num_classes', None)
        if outputs and isinstance(count, int) and count != outputs:
            yield ConfigError(
                f'{key}: {name} has num_classes={count}, model.head has {outputs}'
            )


def _is_list(topk: Any) -> bool:
    return isinstance(topk, (list, tuple))


def topk_values(topk: Any) -> list[int]:
    """Returns the numbers in a ``topk``, which is one number or a list of them."""
    return [k for k in (topk if _is_list(topk) else (topk,)) if isinstance(k, int)]


def watched_metrics(runner: Runner) -> dict[str, str]:
    """Returns the names of metrics that the run depends on, by their purpose."""
    watched = {}
    for hook in runner.hooks:
        name = type(hook).__name__
        if isinstance(hook, CheckpointHook) and hook.save_best:
            best = hook.save_best
            for key in [best] if isinstance(best, str) else best:
                watched[f'{name}.save_best'] = key
        elif isinstance(hook, EarlyStoppingHook):
            watched[f'{name}.monitor'] = hook.monitor
    for scheduler in param_schedulers(runner):
        if monitor := getattr(scheduler, 'monitor', None):
            watched[f'{type(scheduler).__name__}.monitor'] = monitor
    return {place: key for place, key in watched.items() if key != 'auto'}


def metric_problems(
    watched: dict[str, str], names: set[str] | None, evaluator: Evaluator
) -> Iterator[Exception]:
    """Finds metrics that the run depends on but no evaluator computes."""
    # Metrics of other packages may derive the names of results from the images.
    known = all(
        type(metric).__module__.startswith(('mmpretrain.', 'mmirnet.'))
        for metric in getattr(evaluator, 'metrics', [])
    )
    for place, key in watched.items():
        if names and key not in names:
            line = f'{place} is {key!r}, but val_evaluator gives {sorted(names)}'
            yield ConfigError(line) if known else UserWarning(line)
