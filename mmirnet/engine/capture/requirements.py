"""What a run needs so that its steps can be captured."""

import torch
from mmengine.dist import get_world_size
from mmengine.optim import AmpOptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import nn
from torch.optim import Optimizer

from ...datasets.in_memory import InMemory
from ...errors import ConfigError
from ..hooks import OvSWHook
from ..wrappers import param_schedulers, unwrap
from .static_step import OPTIMIZERS, WAY_OUT

_ACTS_WITHIN = (
    'CapturedEpochLoop: {} acts between backward pass and optimizer, '
    f'which a replay does not run: leave it out, {WAY_OUT}'
)


def runs_uncaptured(runner: Runner) -> str | None:
    """Returns why a run that could be captured alone runs as usual."""
    if get_world_size() > 1:
        return 'a distributed run waits for other processes in each step'
    if isinstance(runner.optim_wrapper, AmpOptimWrapper):
        return (
            'the loss scale of AmpOptimWrapper depends on the gradients; '
            "optim_wrapper.type='Bf16OptimWrapper' needs no scale"
        )
    return None


def check_capture(runner: Runner, data: object) -> None:
    """Checks that a run can be captured, before it starts.

    Args:
        runner (Runner): The runner.
        data (object): The training data.

    Raises:
        ConfigError: If a part of the run cannot be captured; names it and a way out.
    """
    device = next(runner.model.parameters()).device
    for problem in (
        problem_of_data('train_dataloader', data, device),
        _problem_of_optimizer(runner.optim_wrapper),
        _problem_of_schedulers(param_schedulers(runner)),
        _problem_of_model(unwrap(runner.model)),
    ):
        if problem:
            raise ConfigError(f'CapturedEpochLoop: {problem}, {WAY_OUT}')
    for hook in runner.hooks:
        if isinstance(hook, OvSWHook):
            raise ConfigError(_ACTS_WITHIN.format(type(hook).__name__))


def check_optimizer_hooks(optimizer: Optimizer) -> None:
    """Checks that nothing acts in the optimizer's step, once all hooks are prepared.

    Args:
        optimizer (Optimizer): The optimizer.

    Raises:
        ConfigError: If it has hooks.
    """
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        raise ConfigError(_ACTS_WITHIN.format('a hook of the optimizer'))


def problem_of_data(loader: str, data: object, device: torch.device) -> str | None:
    """Returns why a graph cannot take batches of a data set.

    Args:
        loader (str): Key of its loader in the config.
        data (object): The data set.
        device (torch.device): Device of the model.

    Returns:
        str | None: The problem; None if it can.
    """
    if not isinstance(data, InMemory):
        return (
            f'{loader}.dataset is {type(data).__name__}, whose images are not '
            "in memory: use --in-memory, or dataset=dict(type='InMemory', ...)"
        )
    if data.images.device.type != device.type:
        return (
            f'the images of InMemory are on {data.images.device.type} and the model is '
            f'on {device.type}: leave out {loader}.dataset.device'
        )
    return None


def _problem_of_optimizer(wrapper: object) -> str | None:
    if isinstance(wrapper, OptimWrapperDict):
        return 'optim_wrapper has several optimizers: use one'
    if wrapper._accumulative_counts != 1:
        return (
            f'optim_wrapper.accumulative_counts={wrapper._accumulative_counts} does '
            'not step in every iteration: set 1 and a larger batch_size'
        )
    if (wrapper.clip_grad_kwargs or {}).get('error_if_nonfinite'):
        return (
            'optim_wrapper.clip_grad.error_if_nonfinite waits for the device: leave it '
            'out, FiniteLossHook checks weights'
        )
    optimizer = wrapper.optimizer
    fused = all(group.get('fused') for group in optimizer.param_groups)
    if type(optimizer) not in OPTIMIZERS or not fused:
        names = ', '.join(kind.__name__ for kind in OPTIMIZERS)
        return (
            f'optim_wrapper.optimizer is {type(optimizer).__name__} with '
            f'fused={fused}, and one of {names} with fused=True can be captured: '
            'use one'
        )
    return None


def _problem_of_schedulers(schedulers: list) -> str | None:
    for scheduler in schedulers:
        if scheduler.param_name != 'lr' and not scheduler.by_epoch:
            return (
                f'param_scheduler {type(scheduler).__name__} changes '
                f'{scheduler.param_name} in each iteration, which a replay keeps: set '
                'by_epoch=True'
            )
    return None


def _problem_of_model(model: nn.Module) -> str | None:
    for name, module in model.named_modules():
        kind = type(module).__name__
        share = getattr(module, 'p', getattr(module, 'drop_prob', 0))
        dropout = isinstance(module, nn.modules.dropout._DropoutNd)
        if (dropout or kind == 'DropPath') and share:
            return (
                f'model.{name} is {kind}, whose random numbers a replay cannot seed by '
                'iteration: set its probability to 0'
            )
    if getattr(model.data_preprocessor, 'batch_augments', None) is not None:
        return (
            'model.train_cfg.augments (Mixup, CutMix) draw on the CPU in each step: '
            'leave them out'
        )
    return None
