"""What a run depends on, as its checkpoints record it."""

import contextlib
import copy

import mmengine
import torch
from mmengine.runner import EpochBasedTrainLoop, Runner

from ... import __version__
from ..changes import parse_config
from ..plain import plain
from ..speed import device_name
from ..wrappers import param_schedulers

#: State of a scheduler that it counts itself or takes from the optimizer.
RUNNING = (
    'last_step',
    '_global_step',
    '_last_value',
    'base_values',
    'best',
    'num_bad_epochs',
    'cooldown_counter',
)


def made_with(runner: Runner) -> dict:
    """Collects what a run depends on, as plain data for its checkpoints.

    Args:
        runner (Runner): The runner, after it has built optimizer and schedulers.

    Returns:
        dict: Sizes, optimizer settings, schedules, versions and device.
    """
    loader = runner.train_dataloader
    optimizer = runner.optim_wrapper.optimizer
    parameter = next(runner.model.parameters(), torch.empty(0))
    made = dict(
        batch_size=loader.batch_size,
        processes=runner.world_size,
        images=len(loader.dataset),
        length=len(loader),
        epochs=runner.max_epochs,
        iterations=runner.max_iters,
        by_epoch=isinstance(runner.train_loop, EpochBasedTrainLoop),
        optimizer=type(optimizer).__name__,
        precision=type(runner.optim_wrapper).__name__,
        deterministic=runner.deterministic,
        groups=[_initial(g) for g in optimizer.param_groups],
        schedulers=[
            dict(_fixed(state_of(s)), type=type(s).__name__)
            for s in param_schedulers(runner)
        ],
        versions=dict(
            torch=torch.__version__,
            mmengine=mmengine.__version__,
            mmirnet=__version__,
        ),
        device=device_name(parameter.device),
    )
    return plain(made, 'made_with')


def made_with_before(checkpoint: dict) -> dict:
    """Returns :func:`made_with` of the run that wrote a checkpoint, if available."""
    info = checkpoint['message_hub'].get('runtime_info', {})
    if 'made_with' in info:
        return info['made_with']
    config = parse_config(checkpoint['meta'].get('cfg')) or {}
    found = dict(schedulers=None, groups=None)
    if isinstance(states := checkpoint.get('param_schedulers'), list):
        found['schedulers'] = [_fixed(s) for s in states]
    if 'optimizer' in checkpoint:
        groups = checkpoint['optimizer'].get('param_groups', [])
        found['groups'] = [_initial(g) for g in groups]
    with contextlib.suppress(KeyError, TypeError, AttributeError):
        found['optimizer'] = config['optim_wrapper']['optimizer']['type'].split('.')[-1]
    with contextlib.suppress(KeyError, TypeError):
        found['batch_size'] = config['train_dataloader']['batch_size']
    with contextlib.suppress(KeyError, TypeError):
        found['epochs'] = config['train_cfg']['max_epochs']
    return found


def state_of(scheduler) -> dict:
    """Copies the state of a scheduler."""
    return copy.deepcopy(scheduler.state_dict())


def _fixed(state: dict) -> dict:
    """Returns the part of a scheduler's state that its config sets."""
    return {k: v for k, v in state.items() if k not in RUNNING and not callable(v)}


def settings_of(group: dict) -> dict:
    """Copies the settings of a parameter group."""
    return copy.deepcopy({k: v for k, v in group.items() if k != 'params'})


def _initial(group: dict) -> dict:
    """Returns the settings of a parameter group before any schedule."""
    names = [k for k in group if k != 'params' and not k.startswith('initial_')]
    return {k: group.get(f'initial_{k}', group[k]) for k in names}
