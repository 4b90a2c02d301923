"""From a config and a command line's arguments to a run: what the tools call.

`train` and `evaluate` take the arguments of MMPretrain's tools. They differ where
a plain machine differs from the cluster these tools were written for: without a
GPU the processes of a distributed run talk over gloo, data loaders get the
options that fit their workers, and what cannot work is refused before it starts.
"""

import contextlib
import datetime
import importlib.util
import logging
import os
import subprocess
from pathlib import Path
from typing import Any

import mmengine
import numpy as np
import torch
from mmcv.transforms import RandomFlip, TestTimeAug
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.device import get_device
from mmengine.dist import is_main_process
from mmengine.evaluator import DumpResults
from mmengine.hooks import EMAHook
from mmengine.registry import MODELS, RUNNERS
from mmengine.runner import Runner
from mmpretrain.datasets import PackInputs
from torch import distributed
from torch.utils.data import Dataset

from ..datasets import keep_in_memory
from ..errors import ConfigError, DataError
from ..files import check_writable
from .checkpoint import (
    check_whole,
    find_whole_checkpoint,
    handed_over,
    on_main_process,
)
from .config_checks import check_config
from .facts import parts
from .loops import bring_resume_hook
from .speed import allow_tf32, compile_model
from .weights import check_checkpoint
from .wrappers import unwrap

_log = logging.getLogger('mmirnet')

#: Where each launcher says a process's rank, the number of processes, and the
#: rank on its node.
RANK_VARIABLES = {
    'pytorch': ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
    'mpi': (
        'OMPI_COMM_WORLD_RANK',
        'OMPI_COMM_WORLD_SIZE',
        'OMPI_COMM_WORLD_LOCAL_RANK',
    ),
}


def train(
    config: str,
    *,
    work_dir: str | None = None,
    resume: str | None = None,
    amp: bool = False,
    compile: bool = False,
    no_validate: bool = False,
    auto_scale_lr: bool = False,
    no_pin_memory: bool = False,
    no_persistent_workers: bool = False,
    cfg_options: dict | None = None,
    launcher: str = 'none',
) -> Runner:
    """Trains the model of a config.

    Args:
        config (str): A config file, or ``package::path`` for one that an installed
            package carries (``mmirnet::irnet/resnet20_bireal_digits.py``).
        work_dir (str, optional): Folder for logs and checkpoints. Defaults to the
            config's, else ``work_dirs/<name of the config>``.
        resume (str, optional): Checkpoint to continue from; ``'auto'`` for the
            newest whole one in ``work_dir``, if there is any.
        amp (bool): Automatic mixed precision: float16 on GPUs, bfloat16 on CPUs.
            Defaults to False.
        compile (bool): Compiles the backbone, see
            :func:`~mmirnet.engine.speed.compile_model`. Defaults to False.
        no_validate (bool): Skips validation. Defaults to False.
        auto_scale_lr (bool): Scales the learning rate to the batch size in use.
            Defaults to False.
        no_pin_memory (bool): Pageable memory for the batches. Defaults to False.
        no_persistent_workers (bool): New data workers each epoch. Defaults to False.
        cfg_options (dict, optional): Settings by dotted key, over everything else.
        launcher (str): Who started this process: ``'none'``, ``'pytorch'``,
            ``'slurm'`` or ``'mpi'``. Defaults to ``'none'``.

    Returns:
        Runner: The runner, after training.

    Raises:
        ValueError: If an argument, or what the config says, cannot work.
        FileNotFoundError: If the config, the data or the checkpoint is missing.

    Example:
        >>> runner = train('mmirnet::irnet/resnet20_bireal_digits.py')  # doctest: +SKIP
    """
    cfg = load_config(config, work_dir, launcher)
    if compile:
        cfg.compile = cfg.get('compile') or True
    if no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    if amp and torch.cuda.is_available():
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    elif amp:
        cfg.optim_wrapper.type = 'Bf16OptimWrapper'
    if resume is not None:
        if resume.endswith('.safetensors'):
            raise ConfigError(
                f'--resume {resume}: a packed file holds no state of a run; to '
                f'fine-tune it: --cfg-options load_from={resume}'
            )
        cfg.resume = True
        cfg.load_from = None if resume == 'auto' else resume
    if auto_scale_lr:
        if not cfg.get('auto_scale_lr'):
            raise ConfigError(
                f'--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) '
                f'in {config}'
            )
        cfg.auto_scale_lr.enable = True

    runner = build_runner(
        cfg,
        cfg_options,
        loaders=('train_dataloader', 'val_dataloader'),
        pin_memory=not no_pin_memory,
        persistent_workers=not no_persistent_workers,
    )
    with _started_from(runner):
        runner.register_hook(dict(type='UnfoldBatchNormHook'))
        bring_resume_hook(runner)
        runner.train()
    return runner


def evaluate(
    config: str,
    checkpoint: str,
    *,
    work_dir: str | None = None,
    out: str | None = None,
    out_item: str | None = None,
    amp: bool = False,
    show: bool = False,
    show_dir: str | None = None,
    interval: int = 1,
    wait_time: float = 2.0,
    tta: bool = False,
    engine: bool = False,
    no_pin_memory: bool = False,
    cfg_options: dict | None = None,
    launcher: str = 'none',
) -> dict:
    """Evaluates a checkpoint on the test set of a config.

    Args:
        config (str): As in `train`.
        checkpoint (str): Checkpoint file, all of whose weights fit the model, or a
            packed file (``.safetensors``), which brings its network.
        work_dir (str, optional): As in `train`.
        out (str, optional): File for the predictions or the metrics.
        out_item (str, optional): What goes there: ``'pred'`` (``.pkl``) or
            ``'metrics'`` (``.json``, ``.yaml`` or ``.pkl``). Defaults to ``'pred'``.
        amp (bool): Automatic mixed precision. Defaults to False.
        show (bool): Shows predictions in a window. Defaults to False.
        show_dir (str, optional): Folder for pictures of the predictions.
        interval (int): Every how many images one is drawn. Defaults to 1.
        wait_time (float): Seconds a window stays. Defaults to 2.
        tta (bool): Averages the scores of an image and its mirror image, or what the
            config's ``tta_model`` and ``tta_pipeline`` say. Defaults to False.
        engine (bool): Runs a packed file on the 1-bit engine, on the CPU, instead of
            simulating it. Defaults to False.
        no_pin_memory (bool): As in `train`.
        cfg_options (dict, optional): As in `train`.
        launcher (str): As in `train`.

    Returns:
        dict[str, float]: The metrics by name.

    Raises:
        ValueError: If an argument, or what the config says, cannot work.
        FileNotFoundError: If the config, the data or the checkpoint is missing.
    """
    suffixes = ('.json', '.yaml', '.yml') if out_item == 'metrics' else ()
    suffixes += ('.pkl', '.pickle')
    if out_item and not out:
        raise ConfigError('--out-item needs --out FILE')
    if out and not out.endswith(suffixes):
        hint = '' if out_item else '; for metrics add --out-item metrics'
        raise ConfigError(
            f'--out {out}: the name must end in {", ".join(suffixes)}{hint}'
        )
    if out:
        check_writable(out)

    cfg = load_config(config, work_dir, launcher)
    cfg.merge_from_dict(cfg_options or {})
    _settle_test_set(cfg, config)
    packed = checkpoint.endswith('.safetensors')
    if engine and not packed:
        raise ConfigError(f'--engine needs a packed file, not {checkpoint}')
    cfg.load_from = None if packed else checkpoint
    cfg.resume = False  # left behind in the config of a run that was resumed
    if amp:
        cfg.test_cfg.fp16 = True
    if show or show_dir:
        cfg.default_hooks.visualization = dict(
            type='VisualizationHook',
            enable=True,
            interval=interval,
            show=show,
            out_dir=show_dir,
            wait_time=wait_time,
        )
    if tta:
        cfg.in_memory = False  # whose images all come at once

    runner = build_runner(
        cfg,
        None,
        loaders=('test_dataloader',),
        pin_memory=not no_pin_memory,
    )
    if packed:
        from ..deploy.checkpoint import replace_network

        replace_network(runner.model, checkpoint, engine)
        # The file has the weights that were averaged when it was packed.
        runner._hooks = [h for h in runner._hooks if not isinstance(h, EMAHook)]
    loaded = None if packed else check_checkpoint(checkpoint, runner.model)
    if tta:
        _average_over_flips(runner)
    if out and out_item != 'metrics':
        runner.test_evaluator.metrics.append(DumpResults(out_file_path=out))
    with handed_over(checkpoint, loaded):
        metrics = runner.test()
    if out and out_item == 'metrics' and is_main_process():
        binary = out.endswith(('.pkl', '.pickle'))
        mmengine.dump(metrics if binary else plain(metrics), out)
    return metrics


def plain(value: Any) -> Any:
    """A result as JSON and YAML take it: numbers, texts, lists and dicts alone.

    Args:
        value (Any): Metrics of any evaluator; tensors, arrays and what holds them.

    Returns:
        Any: The same in plain Python.

    Example:
        >>> plain({'matrix': torch.eye(2), 'top': (np.float32(0.5), None)})
        {'matrix': [[1.0, 0.0], [0.0, 1.0]], 'top': [0.5, None]}
    """
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, dict):
        keys = (k if isinstance(k, str) else str(plain(k)) for k in value)
        return dict(zip(keys, map(plain, value.values()), strict=True))
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def _settle_test_set(cfg: Config, config: str) -> None:
    """Tests on the validation set where the config has no test set."""
    for phase in ('test', 'val'):
        loader = cfg.get(f'{phase}_dataloader')
        if loader is None:
            continue
        if not isinstance(loader, dict):
            raise ConfigError(
                f'{phase}_dataloader of {config} is a list of {len(loader)}: name one '
                f"data set's loader alone"
            )
        evaluator = cfg.get(f'{phase}_evaluator')
        if evaluator is None:
            raise ConfigError(
                f'{config} has {phase}_dataloader, but no {phase}_evaluator: add one, '
                "such as dict(type='Accuracy')"
            )
        if phase == 'val':
            _log.warning('%s has no test_dataloader: val_dataloader is used', config)
        cfg.test_dataloader, cfg.test_evaluator = loader, evaluator
        cfg.test_cfg = cfg.get('test_cfg') or {}
        return
    raise ConfigError(
        f'{config} has no test set: it needs test_dataloader and test_evaluator (or '
        'val_dataloader and val_evaluator)'
    )


def load_config(config: str, work_dir: str | None, launcher: str) -> Config:
    """Reads a config file and settles its working folder and launcher."""
    path = Path(config)
    if '::' in config:
        package, _, name = config.partition('::')
        spec = importlib.util.find_spec(package)
        if spec is None:
            raise ConfigError(f'CONFIG {config}: there is no package {package}')
        path = Path(spec.origin).parent / '.mim' / 'configs' / name
    if not path.is_file():
        raise FileNotFoundError(f'CONFIG {config}: there is no file {path}')
    cfg = Config.fromfile(path)
    cfg.launcher = launcher
    cfg.work_dir = work_dir or cfg.get('work_dir') or f'work_dirs/{path.stem}'
    if Path(cfg.work_dir).is_file():
        raise ConfigError(f'--work-dir {cfg.work_dir} is a file, not a folder')
    return cfg


def build_runner(
    cfg: Config,
    cfg_options: dict | None,
    loaders: tuple[str, ...],
    *,
    pin_memory: bool = True,
    persistent_workers: bool = True,
) -> Runner:
    """Builds the runner of a config, on one process or as one of several."""
    for name in loaders:
        if cfg.get(name):
            cfg[name].setdefault('collate_fn', dict(type='default_collate'))
            cfg[name].setdefault('persistent_workers', True)
            cfg[name].setdefault('pin_memory', True)
            cfg[name].pin_memory &= pin_memory
            cfg[name].persistent_workers &= persistent_workers
    cfg.merge_from_dict(cfg_options or {})
    check_config(cfg, loaders)
    for name in loaders:
        if loader := cfg.get(name):
            if cfg.get('in_memory'):
                keep_in_memory(loader)
            # Either would only warn or raise: nothing to pin for, nobody to keep.
            loader.pin_memory &= torch.cuda.is_available()
            loader.persistent_workers &= loader.get('num_workers', 0) > 0
    allow_tf32(cfg.get('tf32', False))
    _join_processes(cfg)
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    if 'check' not in (cfg.get('default_hooks') or {}):
        runner.register_hook(dict(type='CheckHook'))
    _build_loops(runner, loaders)
    if cfg.get('channels_last'):
        # Convolutions hand the layout on: images need not be told.
        unwrap(runner.model).to(memory_format=torch.channels_last)
    if options := cfg.get('compile'):
        # MMEngine would compile train_step, with the Python in it.
        options = options if isinstance(options, dict) else {}
        model = unwrap(runner.model)
        runner._maybe_compile = lambda _: compile_model(model, **options)
    return runner


def _build_loops(runner: Runner, loaders: tuple[str, ...]) -> None:
    """Builds data sets, loaders and evaluators, which say what they cannot do."""
    for key in loaders:
        try:
            getattr(runner, key.replace('dataloader', 'loop'))
        except AssertionError as error:  # how OpenMMLab checks arguments
            reason = ' '.join(str(error).split())
            raise ConfigError(f'{key} cannot be built: {reason}') from error
        except ValueError as error:
            if 'need at least one array' not in str(error):
                raise
            raise DataError(f'{key}.dataset is empty') from error


@contextlib.contextmanager
def _started_from(runner: Runner):
    """Finds and checks what a run starts from, which is then loaded once.

    One process reads every byte of the file to see that it is whole: the ranks of a
    cluster share a disk.
    """
    cfg = runner.cfg
    path, resume = cfg.get('load_from'), bool(cfg.get('resume'))
    whole = False
    if resume and not path:
        hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
        path = on_main_process(
            find_whole_checkpoint,
            runner.work_dir,
            hook.get('out_dir'),
            hook.get('filename_tmpl', ''),
        )
        whole = True
        if path is None:
            runner.logger.info(
                f'--resume: no checkpoint to resume from in {runner.work_dir}; '
                'training starts at its beginning'
            )
    cfg.load_from = runner._load_from = path
    cfg.resume = runner._resume = resume = resume and path is not None
    if not path:
        yield
        return
    local = os.path.isfile(os.path.expanduser(path))
    if local and not whole and not path.endswith('.safetensors'):
        on_main_process(check_whole, os.path.expanduser(path))
        whole = True
    checkpoint = check_checkpoint(path, runner.model, partial=not resume, whole=whole)
    with handed_over(path, checkpoint):
        yield


def _average_over_flips(runner: Runner) -> None:
    """Test-time augmentation: the config's own, else an image and its mirror."""
    pipeline = runner.cfg.get('tta_pipeline')
    for part in parts(runner.test_dataloader.dataset):
        part.pipeline = _flips(part) if pipeline is None else Compose(pipeline)
    wrapper = runner.cfg.get('tta_model') or dict(type='AverageClsScoreTTA')
    # Built around the model, which keeps its own data preprocessor.
    runner.model = MODELS.build(dict(wrapper, module=runner.model))


def _flips(dataset: Dataset) -> Compose:
    """A data set's pipeline, giving every image as it is and mirrored."""
    chain = list(getattr(getattr(dataset, 'pipeline', None), 'transforms', []))
    if any(isinstance(t, TestTimeAug) for t in chain):  # gives views of its own
        return dataset.pipeline
    packing = [i for i, t in enumerate(chain) if isinstance(t, PackInputs)]
    if not packing:
        raise ConfigError(
            f'--tta mirrors images before PackInputs, which the test pipeline of '
            f'{type(dataset).__name__} has not; name a tta_pipeline in the config'
        )
    flips = [RandomFlip(prob=p) for p in (0.0, 1.0)]
    both = TestTimeAug([flips, [Compose(chain[packing[0] :])]])
    return Compose([*chain[: packing[0]], both])


def _join_processes(cfg: Config) -> None:
    """Joins the other processes of a distributed run without GPUs.

    MMEngine's launchers call CUDA, so they are left to machines that have it.
    """
    if cfg.launcher == 'none':
        return
    variables = RANK_VARIABLES[cfg.launcher]
    if missing := [name for name in variables if name not in os.environ]:
        raise ConfigError(
            f'--launcher {cfg.launcher} needs {", ".join(missing)} in the '
            f'environment: start with tools/dist_*.sh or tools/slurm_*.sh'
        )
    rank, world_size, local_rank = (int(os.environ[name]) for name in variables)
    if get_device() != 'cpu':
        if local_rank >= torch.cuda.device_count() > 0:
            raise ConfigError(
                f'process {local_rank} of this node has no GPU: '
                f'{torch.cuda.device_count()} are visible'
            )
        return

    dist_cfg = cfg.get('env_cfg', {}).get('dist_cfg', {})
    os.environ.setdefault('MASTER_PORT', str(dist_cfg.get('port', 29500)))
    if cfg.launcher == 'slurm' and 'MASTER_ADDR' not in os.environ:
        nodes = os.environ['SLURM_NODELIST']
        os.environ['MASTER_ADDR'] = subprocess.run(
            ['scontrol', 'show', 'hostname', nodes],
            capture_output=True,
            check=True,
            text=True,
        ).stdout.split()[0]
    os.environ['LOCAL_RANK'] = str(local_rank)
    os.environ['RANK'] = str(rank)
    distributed.init_process_group(
        'gloo',
        rank=rank,
        world_size=world_size,
        timeout=datetime.timedelta(seconds=dist_cfg.get('timeout', 1800)),
    )
    wrapper = dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )
    wrapper.update(cfg.get('model_wrapper_cfg', {}))
    cfg.model_wrapper_cfg = dict(wrapper, device_ids=None)
