"""Training, as in ``tools/train.py``."""

import contextlib
import os
from collections.abc import Iterator

import torch
from mmengine.config import Config
from mmengine.runner import Runner

from ..engine.checkpoint import (
    check_intact,
    find_intact_checkpoint,
    handed_over,
    on_main_process,
)
from ..engine.config import load_config, set_captured_loop, set_hook
from ..engine.weights import check_checkpoint
from ..errors import ConfigError
from .running import build_runner, prepare_config


def train(
    config: str,
    *,
    work_dir: str | None = None,
    resume: str | None = None,
    amp: bool = False,
    compile: bool = False,
    capture: bool = False,
    in_memory: bool = False,
    no_validate: bool = False,
    auto_scale_lr: bool = False,
    no_pin_memory: bool = False,
    no_persistent_workers: bool = False,
    cfg_options: dict | None = None,
    launcher: str = 'none',
) -> Runner:
    """Trains the model of a config.

    Args:
        config (str): A config file, or ``package::path`` for one in an installed
            package (``mmirnet::irnet/resnet20_bireal_digits.py``).
        work_dir (str, optional): Folder for logs and checkpoints. Defaults to that of
            the config, or else ``work_dirs/<name of the config>``.
        resume (str, optional): Checkpoint to continue from, or ``'auto'`` for the
            newest intact one of the run, if any.
        amp (bool): Automatic mixed precision: float16 on GPUs, bfloat16 on CPUs.
            Defaults to False.
        compile (bool): Compile the backbone, see
            :class:`~mmirnet.engine.hooks.CompileHook`. Defaults to False.
        capture (bool): Replay whole training steps as CUDA graphs, see
            :class:`~mmirnet.engine.CapturedEpochLoop`. Sets ``in_memory``, and ``amp``
            means bfloat16. Defaults to False.
        in_memory (bool): Keep the images on the device and augment whole batches
            there, see :func:`~mmirnet.datasets.keep_in_memory`. Defaults to False.
        no_validate (bool): Skip validation. Defaults to False.
        auto_scale_lr (bool): Scale the learning rate to the batch size in use.
            Defaults to False.
        no_pin_memory (bool): Do not pin batches in memory. Defaults to False.
        no_persistent_workers (bool): Start new data workers each epoch. Defaults to
            False.
        cfg_options (dict, optional): Settings by dotted key that override all others.
        launcher (str): Launcher of this process: ``'none'``, ``'pytorch'``,
            ``'slurm'`` or ``'mpi'``. Defaults to ``'none'``.

    Returns:
        Runner: The runner, after training.

    Raises:
        ValueError: If an argument or a setting of the config is invalid.
        FileNotFoundError: If the config, the data or the checkpoint does not exist.

    Example:
        >>> runner = train('mmirnet::irnet/resnet20_bireal_digits.py')  # doctest: +SKIP
    """
    cfg = load_config(config, work_dir, launcher)
    start = None
    if compile:
        set_hook(cfg, 'compile', type='CompileHook')
    if no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    if capture:
        set_captured_loop(cfg)
    if amp:
        _use_half_precision(cfg, allow_float16=not capture)
    if resume is not None:
        start = cfg.get('load_from')  # of a second step
        _resume_from(cfg, resume)
    if auto_scale_lr:
        if not cfg.get('auto_scale_lr'):
            raise ConfigError(
                f'--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) '
                f'in {config}'
            )
        cfg.auto_scale_lr.enable = True
    loaders = ('train_dataloader', 'val_dataloader')
    prepare_config(
        cfg,
        cfg_options,
        loaders,
        pin_memory=not no_pin_memory,
        persistent_workers=not no_persistent_workers,
        in_memory=in_memory or capture,
    )
    searched = cfg.get('resume') and not cfg.get('load_from')
    if searched:
        newest = _newest_checkpoint(cfg)
        cfg.resume, cfg.load_from = newest is not None, newest or start
    runner = build_runner(cfg, loaders)
    if searched and not cfg.resume:
        weights = f' with the weights of {cfg.load_from}' if cfg.load_from else ''
        runner.logger.info(
            f'--resume: no checkpoint to resume from in {cfg.work_dir}; training '
            f'starts at its beginning{weights}'
        )
    with _loaded_once(runner, whole=searched and cfg.resume):
        runner.train()
    return runner


def _use_half_precision(cfg: Config, allow_float16: bool) -> None:
    """Sets float16 with a loss scale on GPUs, if it is allowed, or else bfloat16."""
    if allow_float16 and torch.cuda.is_available():
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    else:
        cfg.optim_wrapper.type = 'Bf16OptimWrapper'


def _resume_from(cfg: Config, checkpoint: str) -> None:
    """Lets a run continue from a checkpoint; ``'auto'`` is looked for later."""
    if checkpoint.endswith('.safetensors'):
        raise ConfigError(
            f'--resume {checkpoint}: a packed file holds no state of a run; to '
            f'fine-tune it: --cfg-options load_from={checkpoint}'
        )
    cfg.resume = True
    cfg.load_from = None if checkpoint == 'auto' else checkpoint


def _newest_checkpoint(cfg: Config) -> str | None:
    """Finds the newest intact checkpoint in the folder of a run.

    Only one process reads the files to verify them, because the ranks of a cluster
    share a disk.
    """
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    return on_main_process(
        find_intact_checkpoint,
        cfg.work_dir,
        hook.get('out_dir'),
        hook.get('filename_tmpl', ''),
    )


@contextlib.contextmanager
def _loaded_once(runner: Runner, whole: bool) -> Iterator[None]:
    """Loads and checks the initial checkpoint, so that the run does not read it again.

    ``whole`` says that the file is known to be intact.
    """
    path, resume = runner.cfg.get('load_from'), bool(runner.cfg.get('resume'))
    if not path:
        yield
        return
    local = os.path.isfile(os.path.expanduser(path))
    if local and not whole and not path.endswith('.safetensors'):
        on_main_process(check_intact, os.path.expanduser(path))
        whole = True
    checkpoint = check_checkpoint(path, runner.model, partial=not resume, whole=whole)
    with handed_over(path, checkpoint):
        yield
