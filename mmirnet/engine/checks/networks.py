"""Checks of the network and of the parameters to train."""

import math
from collections.abc import Iterator
from inspect import signature

import torch
from mmengine.runner import Runner
from torch import nn

from ...errors import ConfigError
from ..wrappers import optim_wrappers
from .metrics import topk_values


def network_problems(model: nn.Module, outputs: int | None) -> Iterator[Exception]:
    """Finds parts of a model that do not match its number of classes.

    Args:
        model (nn.Module): The model.
        outputs (int | None): Its number of classes, if known.

    Yields:
        Exception: One per problem.
    """
    yield from _head_problems(model, outputs)
    yield from _preprocessor_problems(model, outputs)


def parameter_problems(runner: Runner) -> Iterator[Exception]:
    """Finds parameters that cannot be trained, and settings for unknown ones."""
    yield from _frozen(runner)
    yield from _closures(runner)
    yield from _unknown_parameters(runner)


def _head_problems(model: nn.Module, outputs: int | None) -> Iterator[Exception]:
    head = getattr(model, 'head', None)
    if not outputs or head is None:
        return
    topk = getattr(head, 'topk', None)
    if getattr(head, 'cal_acc', False) and max(topk_values(topk), default=0) > outputs:
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


def _preprocessor_problems(
    model: nn.Module, outputs: int | None
) -> Iterator[Exception]:
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


def _frozen(runner: Runner) -> Iterator[Exception]:
    if not any(p.requires_grad for p in runner.model.parameters()):
        yield ConfigError('the model has no parameter to train: all are frozen')


def _closures(runner: Runner) -> Iterator[Exception]:
    """Finds optimizers that compute the loss themselves."""
    for wrapper in optim_wrappers(runner):
        closure = signature(wrapper.optimizer.step).parameters.get('closure')
        if closure is not None and closure.default is closure.empty:
            yield ConfigError(
                f'optim_wrapper.optimizer: {type(wrapper.optimizer).__name__} needs a '
                'closure that computes the loss, which MMEngine does not give it: take '
                'another optimizer'
            )


def sign_problems(layers: list[str]) -> Iterator[Exception]:
    """Warns of binary layers whose inputs have the same signs for every image."""
    if layers:
        others = f' and {len(layers) - 1} others' if len(layers) > 1 else ''
        yield UserWarning(
            f'model.{layers[0]}{others} take the signs of inputs that all have one '
            'sign, as behind a ReLU: they carry no information. Take a backbone with '
            'Hardtanh in front of them (IRResNet, IRResNet_CIFAR, IRVGGSmall), or '
            'binarise weights alone with binarize_input=False'
        )


def _unknown_parameters(runner: Runner) -> Iterator[Exception]:
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
