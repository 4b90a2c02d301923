"""Checks of single settings: missing parts, numbers, names."""

import logging
import numbers
from collections.abc import Iterator
from multiprocessing import get_all_start_methods

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.optim import AmpOptimWrapper
from mmengine.registry import OPTIM_WRAPPERS

from ...errors import ConfigError
from ...registry import find_class

#: Settings that MMEngine requires together or not at all.
_TOGETHER = (
    ('train_dataloader', 'train_cfg', 'optim_wrapper'),
    ('val_dataloader', 'val_cfg', 'val_evaluator'),
    ('test_dataloader', 'test_cfg', 'test_evaluator'),
)

#: Numeric settings with their minimum, and whether it is exclusive.
_NUMBERS = {
    'train_cfg.max_epochs': (numbers.Integral, 1, False),
    'train_cfg.max_iters': (numbers.Integral, 1, False),
    'train_cfg.val_interval': (numbers.Integral, 1, False),
    'optim_wrapper.accumulative_counts': (numbers.Integral, 1, False),
    'optim_wrapper.optimizer.lr': (numbers.Real, 0, False),
    'optim_wrapper.optimizer.momentum': (numbers.Real, 0, False),
    'optim_wrapper.optimizer.weight_decay': (numbers.Real, 0, False),
    'optim_wrapper.clip_grad.max_norm': (numbers.Real, 0, True),
    'optim_wrapper.clip_grad.clip_value': (numbers.Real, 0, True),
    'param_scheduler.T_max': (numbers.Real, 0, True),
    'default_hooks.checkpoint.interval': (numbers.Integral, -1, False),
    'default_hooks.checkpoint.max_keep_ckpts': (numbers.Integral, -1, False),
    'default_hooks.logger.interval': (numbers.Integral, 1, False),
    'default_hooks.visualization.interval': (numbers.Integral, 1, False),
    'auto_scale_lr.base_batch_size': (numbers.Integral, 1, False),
    'randomness.seed': (numbers.Integral, 0, False),
}

#: The same for the model, which every tool builds.
_MODEL_NUMBERS = {
    'model.head.num_classes': (numbers.Integral, 1, False),
    'model.head.in_channels': (numbers.Integral, 1, False),
}


def model_problems(cfg: Config) -> Iterator[Exception]:
    """Finds impossible numbers in the model, which every tool builds."""
    yield from _number_problems(cfg, _MODEL_NUMBERS)


def setting_problems(cfg: Config, loaders: tuple[str, ...]) -> Iterator[Exception]:
    """Finds missing parts and impossible values of a run.

    Args:
        cfg (Config): The complete config.
        loaders (tuple[str, ...]): Keys of the data loaders that will be built.

    Yields:
        Exception: One per problem.
    """
    yield from _missing_parts(cfg, loaders)
    yield from _name_problems(cfg)
    if 'train_dataloader' in loaders:
        yield from _number_problems(cfg, _NUMBERS)
        yield from _precision_problems(cfg)
    for key in loaders:
        if isinstance(loader := cfg.get(key), dict):
            yield from _loader_problems(key, loader)


def _missing_parts(cfg: Config, loaders: tuple[str, ...]) -> Iterator[Exception]:
    for together in _TOGETHER:
        missing = [key for key in together if cfg.get(key) is None]
        if 0 < len(missing) < 3:
            there = [key for key in together if key not in missing]
            yield ConfigError(
                f'{" and ".join(there)} without {" and ".join(missing)}: set all of '
                f'{", ".join(together)}, or none (None)'
            )
        elif missing and together[0] in loaders and together[0] != 'val_dataloader':
            yield ConfigError(f'the config has no {", ".join(together)}')


def _number_problems(cfg: Config, known: dict[str, tuple]) -> Iterator[Exception]:
    """Finds settings that are not numbers or out of range."""
    for key, (kind, least, more) in known.items():
        length = key in ('train_cfg.max_epochs', 'train_cfg.max_iters')
        if length and not cfg.get('param_scheduler'):
            least = 0  # a run without steps, which only loads
        for place, value in _values(cfg, key):
            # Classes of the user may accept other types.
            number = isinstance(value, numbers.Real) and not isinstance(value, bool)
            if not number and not isinstance(value, (str, bool)):
                continue
            fits = number and isinstance(value, kind) and value >= least
            if not fits or (more and value == least):
                what = 'an integer' if kind is numbers.Integral else 'a number'
                bound = f'more than {least}' if more else f'at least {least}'
                yield ConfigError(f'{place} must be {what}, {bound}, got {value!r}')


def _values(cfg: Config, key: str) -> Iterator[tuple[str, object]]:
    """Iterates over the values of a setting: one, or one for each item of a list."""
    top, *path = key.split('.')
    specs = {top: cfg.get(top)}
    if isinstance(specs[top], (list, tuple)):
        specs = {f'{top}[{i}]': part for i, part in enumerate(specs[top])}
    for place, value in specs.items():
        for step in path:
            value = value.get(step) if isinstance(value, dict) else None
        yield '.'.join([place, *path]), value


def _name_problems(cfg: Config) -> Iterator[Exception]:
    """Finds names that logging and multiprocessing do not know."""
    level = cfg.get('log_level')
    if isinstance(level, str) and not isinstance(logging.getLevelName(level), int):
        levels = 'DEBUG, INFO, WARNING, ERROR or CRITICAL'
        yield ConfigError(f'log_level must be {levels}, got {level!r}')
    processes = (cfg.get('env_cfg') or {}).get('mp_cfg') or {}
    method, known = processes.get('mp_start_method'), get_all_start_methods()
    if method is not None and method not in known:
        key = 'env_cfg.mp_cfg.mp_start_method'
        yield ConfigError(f'{key} must be one of {known}, got {method!r}')


def _precision_problems(cfg: Config) -> Iterator[Exception]:
    spec = cfg.get('optim_wrapper')
    kind = spec.get('type') if isinstance(spec, dict) else None
    half = find_class(OPTIM_WRAPPERS, kind, cfg.get('default_scope')) is AmpOptimWrapper
    if half and get_device() == 'cpu':
        yield ConfigError(
            'optim_wrapper.type: AmpOptimWrapper needs a GPU; on a CPU take '
            "type='Bf16OptimWrapper', or --amp, which takes what the machine has"
        )


def _loader_problems(key: str, loader: dict) -> Iterator[Exception]:
    size = loader.get('batch_size', 1)
    if 'batch_sampler' not in loader and not (isinstance(size, int) and size > 0):
        yield ConfigError(f'{key}.batch_size must be a positive integer, got {size!r}')
    workers = loader.get('num_workers', 0)
    if not (isinstance(workers, int) and workers >= 0):
        yield ConfigError(
            f'{key}.num_workers must be an integer from 0 on, got {workers!r}'
        )
    ahead = loader.get('prefetch_factor')
    if ahead is not None and not (isinstance(ahead, int) and ahead > 0):
        yield ConfigError(
            f'{key}.prefetch_factor must be a positive integer, got {ahead!r}'
        )
    for part in ('dataset', 'sampler'):
        if part not in loader and 'batch_sampler' not in loader:
            yield ConfigError(f'{key} needs a {part}')
