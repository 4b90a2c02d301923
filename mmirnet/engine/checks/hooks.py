"""Checks of the hooks of a run."""

from collections import Counter
from collections.abc import Iterator

from mmengine.dist import get_world_size
from mmengine.hooks import CheckpointHook, EMAHook
from mmengine.runner import IterBasedTrainLoop, Runner
from mmpretrain.engine import SwitchRecipeHook
from torch import nn
from torch.utils.data import Dataset

from ...binary import Schedule
from ...errors import ConfigError


def hook_problems(runner: Runner) -> Iterator[Exception]:
    """Finds hooks that do not do what they are there for."""
    yield from _repeated(runner)
    yield from _switches(runner)
    yield from _unsaved(runner)
    yield from _averages(runner)
    yield from _averaged_buffers(runner)


def _repeated(runner: Runner) -> Iterator[Exception]:
    """Finds hooks of which one run needs one."""
    counts: Counter[type] = Counter()
    setters: dict[str, list[str]] = {}  # hooks of each schedule
    for hook in runner.hooks:
        # One for each schedule is right where layers of several recipes are mixed.
        if isinstance(schedule := getattr(hook, 'schedule', None), Schedule):
            setters.setdefault(schedule.name, []).append(type(hook).__name__)
        else:
            counts[type(hook)] += 1
    for schedule, names in setters.items():
        if len(names) > 1:
            yield UserWarning(
                f'{" and ".join(names)} set the schedule {schedule!r}: the last one '
                'counts'
            )
    for kind, count in counts.items():
        if count > 1 and kind.__module__.startswith('mmirnet.'):
            yield UserWarning(f'{kind.__name__} is registered {count} times')


def _switches(runner: Runner) -> Iterator[Exception]:
    """Finds recipes that SwitchRecipeHook could not switch to, after epochs."""
    dataset = runner.train_dataloader.dataset
    for hook in runner.hooks:
        if not isinstance(hook, SwitchRecipeHook):
            continue
        if isinstance(runner.train_loop, IterBasedTrainLoop):
            yield ConfigError(
                'SwitchRecipeHook counts epochs, but the training loop counts '
                'iterations: leave it out, or take an epoch-based loop'
            )
        changes = any('train_pipeline' in recipe for recipe in hook.schedule.values())
        if changes and not _has_pipeline(dataset):
            kind = type(getattr(dataset, 'dataset', dataset)).__name__
            way_out = ' (leave out --in-memory)' if kind == 'InMemory' else ''
            yield ConfigError(
                f'SwitchRecipeHook: {kind} has no pipeline that could be switched: '
                f'leave out train_pipeline, or take another train_dataloader.dataset'
                f'{way_out}'
            )


def _has_pipeline(dataset: Dataset) -> bool:
    """Whether SwitchRecipeHook finds the pipeline of a data set."""
    if hasattr(dataset, 'pipeline'):
        return True
    if hasattr(dataset, 'datasets'):
        return all(map(_has_pipeline, dataset.datasets))
    return hasattr(dataset, 'dataset') and _has_pipeline(dataset.dataset)


def _unsaved(runner: Runner) -> Iterator[Exception]:
    """Finds checkpoint hooks that save nothing, or only at the end."""
    iterations = isinstance(runner.train_loop, IterBasedTrainLoop)
    for hook in runner.hooks:
        if not isinstance(hook, CheckpointHook):
            continue
        if iterations and hook.by_epoch and hook.interval > 0:
            yield UserWarning(
                f'{type(hook).__name__} counts epochs, the training loop '
                'iterations: nothing is saved before the end; set by_epoch=False, '
                'and also in log_processor'
            )
            continue
        total = runner.max_epochs if hook.by_epoch else runner.max_iters
        never = hook.interval <= 0 or hook.interval > total
        if never and not hook.save_last and not hook.save_best:
            yield UserWarning(
                f'{type(hook).__name__} saves nothing: interval={hook.interval}, '
                f'save_last=False'
            )


def _averages(runner: Runner) -> Iterator[Exception]:
    """Finds averages that would begin behind the end of the training."""
    iterations = isinstance(runner.train_loop, IterBasedTrainLoop)
    for hook in runner.hooks:
        if not isinstance(hook, EMAHook):
            continue
        unit = 'epoch' if hook.enabled_by_epoch else 'iter'
        begin, total = getattr(hook, f'begin_{unit}'), getattr(runner, f'max_{unit}s')
        if begin <= total:
            continue
        line = f'{type(hook).__name__}: begin_{unit}={begin} '
        if iterations and hook.enabled_by_epoch:
            line += 'counts epochs, the training loop iterations: set begin_iter'
        else:
            line += f'is behind the end of the training, which has {total}: lower it'
        yield ConfigError(line)


def _averaged_buffers(runner: Runner) -> Iterator[Exception]:
    """Warns of averages that each process makes of its own running statistics."""
    batch_norms = nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d  # not SyncBatchNorm
    if get_world_size() == 1 or not any(
        isinstance(module, batch_norms) for module in runner.model.modules()
    ):
        return
    for hook in runner.hooks:
        if isinstance(hook, EMAHook) and hook.ema_cfg.get('update_buffers'):
            yield UserWarning(
                'EMAHook: with update_buffers=True each process averages its own '
                'running statistics, and they evaluate different networks; leave it '
                'out, or train with SyncBN'
            )
