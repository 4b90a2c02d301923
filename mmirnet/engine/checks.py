"""Checks of a run before it trains or tests.

The checks inspect the built objects: data sets, loaders, model, evaluators. They write
nothing, draw no random numbers and take well under a second for small images.
:class:`~mmirnet.engine.hooks.CheckHook` runs them. MMPretrain's ``ClassNumCheckHook``
compares only the number of classes, for one data set at a time and after the start.
"""

import math
import pickle
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from mmengine.dataset import BaseDataset, InfiniteSampler
from mmengine.dist import get_world_size
from mmengine.evaluator import Evaluator
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, EMAHook
from mmengine.runner import IterBasedTrainLoop, Runner
from mmpretrain.datasets import MultiTaskDataset
from mmpretrain.evaluation import (
    Accuracy,
    AveragePrecision,
    ConfusionMatrix,
    MultiLabelMetric,
    SingleLabelMetric,
)
from mmpretrain.models.heads import ClsHead, MultiLabelClsHead, MultiTaskHead
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ..binary import Schedule
from ..errors import ConfigError, DataError
from .dry_run import dry_run
from .facts import dataset_classes, keyed_parts, normalised_twice, predicts
from .folder_checks import folder_problems
from .labels import class_name_problems, label_problems
from .wrappers import unwrap


def problems_before_training(
    runner: Runner, trained_on: Sequence[str] | None = None
) -> Iterator[Exception]:
    """Finds all problems of a run before training.

    Args:
        runner (Runner): The runner, with its loops built.
        trained_on (Sequence[str] | None): Class names of the loaded checkpoint, if it
            has any.

    Yields:
        Exception: One per problem. Suspicious settings are warnings.
    """
    loaders = {'train_dataloader': runner.train_dataloader}
    evaluators = {}
    if runner.val_loop is not None:
        loaders['val_dataloader'] = runner.val_dataloader
        evaluators['val_evaluator'] = runner.val_evaluator
    names = {}
    if trained_on is not None and runner._resume:
        names['the checkpoint'] = trained_on
    model = unwrap(runner.model)
    if classes := getattr(getattr(model, 'teacher', None), 'classes', None):
        names['the teacher'] = classes
    watched = _watched(runner)
    runs = {
        key: dry_run(
            key,
            loader,
            runner.model,
            runner.val_evaluator if watched and key == 'val_dataloader' else None,
        )
        for key, loader in loaders.items()
    }
    yield from _problems(model, loaders, evaluators, names)
    for key, run in runs.items():
        yield from run.problems
        yield from _unlabelled(key, run.labels, model, evaluators)
    if trained_on is not None and not runner._resume:
        yield from _order_problems(runner.train_dataloader.dataset, trained_on)
    single = runs['train_dataloader'].single
    yield from _training_batches(runner.train_dataloader, single)
    yield from _trainable(runner)
    yield from _schedules(runner)
    yield from _repeated_hooks(runner)
    yield from _unsaved(runner)
    yield from _averaged_buffers(runner)
    yield from _signs(runs['train_dataloader'].one_sign)
    yield from _parameter_keys(runner)
    if 'val_dataloader' in runs:
        metrics = runs['val_dataloader'].metrics
        yield from _missing_metrics(watched, metrics, runner.val_evaluator)


def problems_before_testing(
    runner: Runner, phase: str = 'test', trained_on: Sequence[str] | None = None
) -> Iterator[Exception]:
    """Finds all problems of a run before testing.

    Args:
        runner (Runner): The runner, with its loop built.
        phase (str): ``'test'`` or ``'val'``.
        trained_on (Sequence[str] | None): Class names of the checkpoint, if it has any.

    Yields:
        Exception: One per problem. Suspicious settings are warnings.
    """
    loop = runner.test_loop if phase == 'test' else runner.val_loop
    names = {}
    model = unwrap(runner.model)
    if not predicts(model):
        yield ConfigError(
            f'model: {type(model).__name__} has no classification head, so there is '
            'nothing to test'
        )
        return
    network = getattr(getattr(model, 'backbone', None), 'network', None)
    packed = getattr(network, 'packed', None)
    if packed is not None and packed.classes is not None:
        names['the packed file'] = packed.classes
    elif trained_on is not None:
        names['the checkpoint'] = trained_on
    key = f'{phase}_dataloader'
    evaluators = {f'{phase}_evaluator': loop.evaluator}
    yield from _problems(model, {key: loop.dataloader}, evaluators, names)
    run = dry_run(key, loop.dataloader, runner.model)
    yield from run.problems
    yield from _unlabelled(key, run.labels, model, evaluators)


def _problems(
    model: nn.Module,
    loaders: dict[str, DataLoader],
    evaluators: dict[str, Evaluator],
    names: dict[str, Sequence[str]],
) -> Iterator[Exception]:
    """Finds the problems that training and testing share."""
    outputs = getattr(getattr(model, 'head', None), 'num_classes', None)
    first = next(iter(loaders))
    for key, loader in loaders.items():
        yield from _size(key, loader)
        for name, dataset in keyed_parts(loader.dataset, f'{key}.dataset'):
            if classes := dataset_classes(dataset):
                names[name] = classes
            if normalised_twice(dataset, model):
                yield UserWarning(
                    f'{name}: images are normalised twice, by Normalize in the '
                    'pipeline and by data_preprocessor.mean; leave one of them out'
                )
            for problem in _dataset(name, dataset, model, outputs):
                # Missing classes in validation are reported only once.
                if key == first or not isinstance(problem, Warning):
                    yield problem
    yield from class_name_problems(names)
    for key, evaluator in evaluators.items():
        yield from _evaluator(key, evaluator, outputs)
    yield from _head(model, outputs)
    yield from _preprocessor(model, outputs)


def _size(key: str, loader: DataLoader) -> Iterator[Exception]:
    images = len(loader.dataset)
    if images == 0:
        yield DataError(f'{key}.dataset is empty')
    elif len(loader) == 0:
        yield DataError(
            f'{key} gives no batch: {len(loader.sampler)} images per process are less '
            f'than batch_size={loader.batch_size}, and drop_last is True; lower '
            f'{key}.batch_size'
        )
    elif loader.drop_last and not key.startswith('train'):
        lost = len(loader.sampler) % (loader.batch_size or 1)
        if lost:
            yield UserWarning(
                f'{key}.drop_last=True leaves {lost} images out of the result'
            )


def _dataset(
    key: str, dataset: Dataset, model: nn.Module, outputs: int | None
) -> Iterator[Exception]:
    classes = dataset_classes(dataset)
    if outputs and classes and len(classes) != outputs:
        line = (
            f'{key} has {len(classes)} classes, but model.head.num_classes is {outputs}'
        )
        fits = len(classes) < outputs
        yield UserWarning(line) if fits else ConfigError(line)
        if not fits:
            return
    folders = getattr(dataset, 'folder_to_idx', None)
    if folders and getattr(dataset, 'with_label', True):
        # With folders, labels are always in range and named by the folders.
        yield from folder_problems(key, dataset.img_prefix, sorted(folders), classes)
        return
    head = getattr(model, 'head', None)
    several = None
    if isinstance(head, (ClsHead, MultiLabelClsHead)):
        several = isinstance(head, MultiLabelClsHead)
    if (samples := known_samples(dataset)) is not None:
        where = getattr(dataset, 'ann_file', '')
        name = f'{key} ({where})' if where else key
        if isinstance(head, MultiTaskHead):
            yield from _task_problems(name, samples, head)
        else:
            yield from label_problems(name, samples, outputs, several)


def _task_problems(
    name: str, samples: list[dict], head: MultiTaskHead
) -> Iterator[Exception]:
    """Checks each task separately; a sample may lack the labels of some tasks."""
    for task, part in head.task_heads.items():
        labelled = [
            dict(sample, gt_label=sample['gt_label'][task])
            for sample in samples
            if isinstance(sample['gt_label'], dict) and task in sample['gt_label']
        ]
        place = f'{name}, task {task}'
        if not labelled:
            yield DataError(f'{place}: no sample has a label')
        elif isinstance(part, MultiTaskHead):
            yield from _task_problems(place, labelled, part)
        else:
            outputs = getattr(part, 'num_classes', None)
            several = isinstance(part, MultiLabelClsHead)
            yield from label_problems(place, labelled, outputs, several)


def known_samples(dataset: Dataset) -> list[dict] | None:
    """Returns the samples of a data set without reading their images.

    Args:
        dataset (Dataset): The data set.

    Returns:
        list[dict] | None: ``gt_label`` and ``img_path``, if available. None if the data
        set has no such information.

    Example:
        >>> from mmirnet.datasets import Digits
        >>> known_samples(Digits(split='test'))[0]
        {'gt_label': 7}
    """
    if isinstance(labels := getattr(dataset, 'labels', None), torch.Tensor):
        return [dict(gt_label=label) for label in labels.tolist()]
    if isinstance(dataset, MultiTaskDataset):
        infos = dataset.data_list
    elif isinstance(dataset, BaseDataset) and len(dataset):
        if 'gt_label' not in dataset.get_data_info(0):  # none, or boxes, captions, ...
            return None
        infos = _infos(dataset)
    else:
        return None
    return [
        {key: info[key] for key in ('gt_label', 'img_path') if key in info}
        for info in infos
    ]


def _infos(dataset: BaseDataset) -> Iterator[dict]:
    if type(dataset).get_data_info is not BaseDataset.get_data_info or not (
        dataset.serialize_data and len(dataset)
    ):
        yield from (dataset.get_data_info(i) for i in range(len(dataset)))
        return
    # A faster version of the same: a million samples take seconds.
    data, start = memoryview(dataset.data_bytes), 0
    for end in dataset.data_address.tolist():
        yield pickle.loads(data[start:end])
        start = end


def _unlabelled(
    key: str, labels: set[str] | None, model: nn.Module, evaluators: dict
) -> Iterator[Exception]:
    """Finds images without the labels that training or the metrics need."""
    if labels is None:
        return
    if key == 'train_dataloader':
        head = getattr(model, 'head', None)
        taught = getattr(model, 'teacher', None) is not None and not model.label_weight
        if isinstance(head, (ClsHead, MultiLabelClsHead)) and not (labels or taught):
            yield DataError(
                f'{key}.dataset has no labels, which {type(head).__name__} learns from'
            )
        return
    evaluator = key.replace('dataloader', 'evaluator')
    for metric in getattr(evaluators.get(evaluator), 'metrics', []):
        single = isinstance(metric, (Accuracy, SingleLabelMetric, ConfusionMatrix))
        several = isinstance(metric, (MultiLabelMetric, AveragePrecision))
        if (single and 'gt_label' not in labels) or (several and not labels):
            without = '--no-validate leaves it out'
            if key == 'test_dataloader':
                without = 'for predictions alone set test_evaluator=[]'
            yield DataError(
                f'{key}.dataset has no labels, which {type(metric).__name__} compares '
                f'with; {without}'
            )


def _order_problems(dataset: Dataset, trained_on: Sequence[str]) -> Iterator[Exception]:
    """Warns of fine-tuning on the same classes in another order."""
    classes = dataset_classes(dataset)
    if classes and set(classes) == set(trained_on) and classes != list(trained_on):
        yield UserWarning(
            'train_dataloader.dataset has the classes of the checkpoint in another '
            'order: the weights of its head do not fit'
        )


def _evaluator(
    key: str, evaluator: Evaluator, outputs: int | None
) -> Iterator[Exception]:
    for metric in getattr(evaluator, 'metrics', []):
        name = type(metric).__name__
        topk = getattr(metric, 'topk', None)
        if min(_counts(topk), default=1) < 1:
            yield ConfigError(f'{key}: {name} takes topk from 1 on, got {topk}')
        if outputs and max(_counts(topk), default=0) > outputs:
            fitting = tuple(k for k in topk if k <= outputs) if _many(topk) else 1
            yield ConfigError(
                f'{key}: {name} takes topk={topk}, but there are {outputs} classes; '
                f'set {key}.topk={fitting}'
            )
        count = getattr(metric, 'num_classes', None)
        if outputs and isinstance(count, int) and count != outputs:
            yield ConfigError(
                f'{key}: {name} has num_classes={count}, model.head has {outputs}'
            )


def _many(topk: Any) -> bool:
    return isinstance(topk, (list, tuple))


def _counts(topk: Any) -> list[int]:
    return [k for k in (topk if _many(topk) else (topk,)) if isinstance(k, int)]


def _head(model: nn.Module, outputs: int | None) -> Iterator[Exception]:
    head = getattr(model, 'head', None)
    if not outputs or head is None:
        return
    topk = getattr(head, 'topk', None)
    if getattr(head, 'cal_acc', False) and max(_counts(topk), default=0) > outputs:
        yield ConfigError(f'model.head.topk is {topk}, but there are {outputs} classes')
    loss = getattr(head, 'loss_module', None)
    for name in ('class_weight', 'pos_weight', 'weight'):
        weights = getattr(loss, name, None)
        many = isinstance(weights, (list, tuple, torch.Tensor))
        if many and len(weights) not in (1, outputs):
            yield ConfigError(
                f'model.head.loss.{name} has {len(weights)} weights for '
                f'{outputs} classes'
            )
    count = getattr(loss, 'num_classes', None)
    if isinstance(count, int) and count != outputs:
        yield ConfigError(
            f'model.head.loss.num_classes is {count}, model.head.num_classes {outputs}'
        )


def _preprocessor(model: nn.Module, outputs: int | None) -> Iterator[Exception]:
    preprocessor = getattr(model, 'data_preprocessor', None)
    for name in ('mean', 'std'):
        values = getattr(preprocessor, name, None)
        if isinstance(values, torch.Tensor):
            numbers = values.flatten().tolist()
            wrong = [x for x in numbers if not math.isfinite(x)]
            if name == 'std':
                wrong += [x for x in numbers if x <= 0]
            if wrong:
                yield ConfigError(f'data_preprocessor.{name} holds {wrong[0]}')
    count = getattr(preprocessor, 'num_classes', None)
    if outputs and getattr(preprocessor, 'to_onehot', False) and count != outputs:
        yield ConfigError(
            f'data_preprocessor.num_classes is {count}, but model.head.num_classes is '
            f'{outputs}: batch augmentations mix labels of that length; set '
            f'data_preprocessor.num_classes={outputs}'
        )


def _training_batches(loader: DataLoader, single: list[str]) -> Iterator[Exception]:
    key, size = 'train_dataloader', loader.batch_size
    shuffle = getattr(loader.sampler, 'shuffle', None)
    if shuffle is False:
        yield UserWarning(f'{key}.sampler.shuffle is False: every epoch has one order')
    if not size or not len(loader.dataset):
        return
    images = len(loader.sampler)  # of one process
    endless = isinstance(loader.sampler, InfiniteSampler)
    last_of_one = images % size == 1 and not loader.drop_last and not endless
    if size > 1 and not last_of_one:
        return
    if not single:
        return
    norm = f'model.{single[0]} normalises over the images of a batch'
    if size == 1:
        yield ConfigError(f'{key}.batch_size is 1, but {norm} and needs two')
    else:
        yield ConfigError(
            f'{key}: the last batch of an epoch has one image ({images} images per '
            f'process, batch_size={size}), but {norm} and needs two; set '
            f'{key}.drop_last=True'
        )


def _trainable(runner: Runner) -> Iterator[Exception]:
    if not any(p.requires_grad for p in runner.model.parameters()):
        yield ConfigError('the model has no parameter to train: all are frozen')


def _schedules(runner: Runner) -> Iterator[Exception]:
    """Finds schedules that do not end together with the training."""
    for scheduler in _schedulers(runner):
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


def _schedulers(runner: Runner) -> list:
    schedulers = runner.param_schedulers or []
    if isinstance(schedulers, dict):  # for several optimizers
        schedulers = [s for several in schedulers.values() for s in several]
    return schedulers


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


def _repeated_hooks(runner: Runner) -> Iterator[Exception]:
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


def _signs(layers: list[str]) -> Iterator[Exception]:
    """Warns of binary layers whose inputs have the same signs for every image."""
    if layers:
        others = f' and {len(layers) - 1} others' if len(layers) > 1 else ''
        yield UserWarning(
            f'model.{layers[0]}{others} take the signs of inputs that all have one '
            'sign, as behind a ReLU: they carry no information. Take a backbone with '
            'Hardtanh in front of them (IRResNet, IRResNet_CIFAR, IRVGGSmall), or '
            'binarise weights alone with binarize_input=False'
        )


def _parameter_keys(runner: Runner) -> Iterator[Exception]:
    """Finds settings for parameters that do not exist."""
    spec = runner.cfg.get('optim_wrapper')
    spec = (spec.get('paramwise_cfg') if isinstance(spec, dict) else None) or {}
    names = [name for name, _ in runner.model.named_parameters()]
    for key in spec.get('custom_keys') or {}:
        if not any(key in name for name in names):
            yield UserWarning(
                f'optim_wrapper.paramwise_cfg.custom_keys: no parameter has {key!r} in '
                'its name'
            )


def _watched(runner: Runner) -> dict[str, str]:
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
    for scheduler in _schedulers(runner):
        if monitor := getattr(scheduler, 'monitor', None):
            watched[f'{type(scheduler).__name__}.monitor'] = monitor
    return {place: key for place, key in watched.items() if key != 'auto'}


def _missing_metrics(
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
