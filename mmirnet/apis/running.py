"""Builds the runner of a config."""

import torch
from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ..datasets.in_memory import keep_in_memory
from ..engine.config import (
    add_default_hooks,
    drop_by_epoch,
    merge_options,
    set_loader_defaults,
    take_old_switches,
)
from ..engine.config_checks import check_config
from ..engine.launch import join_processes
from ..errors import ConfigError, DataError
from ..registry import refused_settings


def prepare_config(
    cfg: Config,
    cfg_options: dict | None,
    loaders: tuple[str, ...],
    *,
    pin_memory: bool = True,
    persistent_workers: bool = True,
    in_memory: bool = False,
) -> None:
    """Completes a config and joins the process group of the run.

    Afterwards the config is exactly what runs, and what MMEngine writes into the work
    folder.

    Args:
        cfg (Config): The config, changed in place.
        cfg_options (dict | None): Settings by dotted key that override all others.
        loaders (tuple[str, ...]): Keys of the data loaders that will be built.
        pin_memory (bool): Whether to pin batches in memory. Defaults to True.
        persistent_workers (bool): Whether to keep data workers between epochs. Defaults
            to True.
        in_memory (bool): Whether to keep the images of all loaders on the device.
            Defaults to False.

    Raises:
        MmirnetError: If the config has problems; names all of them.
    """
    for name in loaders:
        if cfg.get(name):
            set_loader_defaults(cfg[name])
            cfg[name].pin_memory &= pin_memory
            cfg[name].persistent_workers &= persistent_workers
    merge_options(cfg, cfg_options)
    in_memory |= take_old_switches(cfg)
    drop_by_epoch(cfg)
    add_default_hooks(cfg)
    check_config(cfg, loaders)
    for name in loaders:
        if loader := cfg.get(name):
            if in_memory:
                keep_in_memory(loader)
            # Without CUDA or workers, these options would only warn or raise.
            loader.pin_memory &= torch.cuda.is_available()
            loader.persistent_workers &= loader.get('num_workers', 0) > 0
    join_processes(cfg)


def build_runner(cfg: Config, loaders: tuple[str, ...]) -> Runner:
    """Builds the runner of a completed config, with its data.

    Args:
        cfg (Config): Output of :func:`prepare_config`.
        loaders (tuple[str, ...]): Keys of the data loaders to build.

    Returns:
        Runner: MMEngine's runner, or that of the config's ``runner_type``.

    Raises:
        MmirnetError: If data sets, loaders or evaluators cannot be built.
    """
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    _build_loops(runner, loaders)
    return runner


def _build_loops(runner: Runner, loaders: tuple[str, ...]) -> None:
    """Builds data sets, loaders and evaluators, and reports their errors."""
    for key in loaders:
        try:
            getattr(runner, key.replace('dataloader', 'loop'))
        except Exception as error:
            if 'need at least one array' in str(error):
                raise DataError(f'{key}.dataset is empty') from error
            reason = refused_settings(error)
            if reason is None and not isinstance(error, AssertionError):
                raise
            reason = reason or ' '.join(str(error).split())
            raise ConfigError(f'{key} cannot be built: {reason}') from error
