"""Checks of a run before it trains or tests.

The checks inspect the built objects: data sets, loaders, model, evaluators. They write
nothing, draw no random numbers and take well under a second for small images.
:class:`~mmirnet.engine.hooks.CheckHook` runs them. MMPretrain's ``ClassNumCheckHook``
compares only the number of classes, for one data set at a time and after the start.
"""

from collections.abc import Iterator, Sequence

from mmengine.evaluator import Evaluator
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from ...errors import ConfigError
from ..facts import dataset_classes, keyed_parts, normalised_twice, predicts
from ..labels import class_name_problems
from ..wrappers import unwrap
from .data_sets import (
    batch_problems,
    dataset_problems,
    order_problems,
    size_problems,
    unlabelled_problems,
)
from .dry_run import dry_run
from .hooks import hook_problems
from .metrics import evaluator_problems, metric_problems, watched_metrics
from .networks import network_problems, parameter_problems, sign_problems
from .schedules import schedule_problems

__all__ = ['problems_before_testing', 'problems_before_training']


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
    model, names = unwrap(runner.model), {}
    if trained_on is not None and runner._resume:
        names['the checkpoint'] = trained_on
    if classes := getattr(getattr(model, 'teacher', None), 'classes', None):
        names['the teacher'] = classes
    yield from _problems(model, loaders, evaluators, names)
    if trained_on is not None and not runner._resume:
        yield from order_problems(runner.train_dataloader.dataset, trained_on)
    yield from _problems_of_dry_runs(runner, loaders, evaluators)
    yield from parameter_problems(runner)
    yield from schedule_problems(runner)
    yield from hook_problems(runner)


def _problems_of_dry_runs(
    runner: Runner, loaders: dict[str, DataLoader], evaluators: dict[str, Evaluator]
) -> Iterator[Exception]:
    """Finds what only images show that pass through the network."""
    model, watched = unwrap(runner.model), watched_metrics(runner)
    for key, loader in loaders.items():
        training = key == 'train_dataloader'
        evaluator = None if training else evaluators['val_evaluator']
        run = dry_run(key, loader, runner.model, evaluator if watched else None)
        yield from run.problems
        yield from unlabelled_problems(key, run.labels, model, evaluators)
        if training:
            yield from batch_problems(loader, run.single)
            yield from sign_problems(run.one_sign)
        else:
            yield from metric_problems(watched, run.metrics, evaluator)


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
    yield from unlabelled_problems(key, run.labels, model, evaluators)


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
        yield from size_problems(key, loader)
        for name, dataset in keyed_parts(loader.dataset, f'{key}.dataset'):
            if classes := dataset_classes(dataset):
                names[name] = classes
            if normalised_twice(dataset, model):
                yield UserWarning(
                    f'{name}: images are normalised twice, by Normalize in the '
                    'pipeline and by data_preprocessor.mean; leave one of them out'
                )
            for problem in dataset_problems(name, dataset, model, outputs):
                # Missing classes in validation are reported only once.
                if key == first or not isinstance(problem, Warning):
                    yield problem
    yield from class_name_problems(names)
    for key, evaluator in evaluators.items():
        yield from evaluator_problems(key, evaluator, outputs)
    yield from network_problems(model, outputs)
