"""From a config and a command line's arguments to a run: what the tools call.

`train` and `evaluate` take the arguments of MMPretrain's tools. They differ where
a plain machine differs from the cluster these tools were written for: without a
GPU the processes of a distributed run talk over gloo, data loaders get the
options that fit their workers, and what cannot work is refused before it starts.
"""

import contextlib
import datetime
import importlib.util
import inspect
import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mmengine
import numpy as np
import torch
from mmcv.transforms import RandomFlip, TestTimeAug
from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose
from mmengine.device import get_device
from mmengine.dist import init_dist, is_main_process
from mmengine.evaluator import DumpResults
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS, MODELS, RUNNERS
from mmengine.runner import Runner
from mmpretrain.datasets import PackInputs
from torch import distributed
from torch.utils.data import Dataset

from ..datasets.in_memory import is_in_memory, keep_in_memory, read_each_image
from ..errors import ConfigError, DataError
from ..files import check_writable
from ..registry import find_class
from .checkpoint import (
    check_whole,
    find_whole_checkpoint,
    handed_over,
    on_main_process,
)
from .config_checks import check_config, merge_options, read_config
from .facts import parts
from .weights import check_checkpoint

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


#: Hooks of every run that the tools start. A config that has None under the key goes
#: without.
DEFAULT_HOOKS = dict(
    check=dict(type='CheckHook'),
    resume=dict(type='ResumeHook'),
    precise_bn=dict(type='PackedPreciseBNHook'),
    tf32=dict(type='TF32Hook', allow=False),
)


def train(
    config: str,
    *,
    work_dir: str | None = None,
    resume: str | None = None,
    amp: bool = False,
    compile: bool = False,
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
        config (str): A config file, or ``package::path`` for one that an installed
            package carries (``mmirnet::irnet/resnet20_bireal_digits.py``).
        work_dir (str, optional): Folder for logs and checkpoints. Defaults to the
            config's, else ``work_dirs/<name of the config>``.
        resume (str, optional): Checkpoint to continue from; ``'auto'`` for the
            newest whole one in ``work_dir``, if there is any.
        amp (bool): Automatic mixed precision: float16 on GPUs, bfloat16 on CPUs.
            Defaults to False.
        compile (bool): Compiles the backbone, see
            :class:`~mmirnet.engine.hooks.CompileHook`. Defaults to False.
        in_memory (bool): Keeps the images on the device and augments whole batches
            there, see :func:`~mmirnet.datasets.keep_in_memory`. Defaults to False.
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
        set_hook(cfg, 'compile', type='CompileHook')
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

    loaders = ('train_dataloader', 'val_dataloader')
    prepare_config(
        cfg,
        cfg_options,
        loaders,
        pin_memory=not no_pin_memory,
        persistent_workers=not no_persistent_workers,
        in_memory=in_memory,
    )
    found = cfg.get('resume') and not cfg.get('load_from')
    if found:
        cfg.load_from = _newest_checkpoint(cfg)
        cfg.resume = cfg.load_from is not None
    runner = build_runner(cfg, loaders)
    if found and not cfg.resume:
        runner.logger.info(
            f'--resume: no checkpoint to resume from in {cfg.work_dir}; training '
            'starts at its beginning'
        )
    with _loaded_once(runner, whole=found):
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
    if interval < 1:
        raise ConfigError(f'--interval {interval}: draw one image in 1 or more')
    if out:
        check_writable(out, config, checkpoint)

    cfg = load_config(config, work_dir, launcher)
    merge_options(cfg, cfg_options)
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
    in_memory = take_old_switches(cfg) and not tta
    if tta:
        read_each_image(cfg.test_dataloader)

    if packed:  # which has the weights that were averaged when it was packed
        _leave_out_hooks(cfg, EMAHook)
    loaders = ('test_dataloader',)
    prepare_config(
        cfg, None, loaders, pin_memory=not no_pin_memory, in_memory=in_memory
    )
    runner = build_runner(cfg, loaders)
    if packed:
        from ..deploy.checkpoint import replace_network

        replace_network(runner.model, checkpoint, engine)
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


def _leave_out_hooks(cfg: Config, kind: type[Hook]) -> None:
    """Takes the hooks of a class out of a config."""

    def is_left(hook: dict) -> bool:
        found = find_class(HOOKS, hook.get('type')) if isinstance(hook, dict) else hook
        return not (inspect.isclass(found) and issubclass(found, kind))

    cfg.custom_hooks = [h for h in cfg.get('custom_hooks') or [] if is_left(h)]
    hooks = cfg.get('default_hooks') or {}
    cfg.default_hooks = {key: h for key, h in hooks.items() if h is None or is_left(h)}


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
    if path.suffix not in ('.py', '.json', '.yaml', '.yml'):
        raise ConfigError(f'CONFIG {config} is no config (.py); it comes first')
    cfg = read_config(path)
    cfg.launcher = launcher
    cfg.work_dir = work_dir or cfg.get('work_dir') or f'work_dirs/{path.stem}'
    if Path(cfg.work_dir).is_file():
        raise ConfigError(f'--work-dir {cfg.work_dir} is a file, not a folder')
    return cfg


def set_loader_defaults(loader: ConfigDict) -> None:
    """Writes into a data loader's config what the tools use where it says nothing.

    Args:
        loader (ConfigDict): Changed in place.
    """
    kept = is_in_memory(loader)
    loader.setdefault('collate_fn', dict(type='as_is' if kept else 'default_collate'))
    loader.setdefault('persistent_workers', not kept)
    loader.setdefault('pin_memory', not kept)


def set_hook(cfg: Config, key: str, **hook) -> None:
    """Sets a hook of a config, and keeps its other arguments.

    Args:
        cfg (Config): Changed in place.
        key (str): The hook's key in ``default_hooks``.
        **hook: Its type and arguments.

    Example:
        >>> cfg = Config(dict(default_hooks=dict(tf32=None)))
        >>> set_hook(cfg, 'tf32', type='TF32Hook')
        >>> cfg.default_hooks
        {'tf32': {'type': 'TF32Hook'}}
    """
    hooks = cfg.get('default_hooks') or {}
    cfg.default_hooks = {**hooks, key: {**(hooks.get(key) or {}), **hook}}


def add_default_hooks(cfg: Config) -> None:
    """Names :data:`DEFAULT_HOOKS` in a config, but for those it names itself.

    Args:
        cfg (Config): Changed in place.
    """
    hooks = cfg.get('default_hooks') or {}
    named = [*hooks.values(), *(cfg.get('custom_hooks') or [])]
    kinds = [find_class(HOOKS, h.get('type')) for h in named if isinstance(h, dict)]
    for key, hook in DEFAULT_HOOKS.items():
        if key not in hooks and find_class(HOOKS, hook['type']) not in kinds:
            set_hook(cfg, key, **hook)


def take_old_switches(cfg: Config) -> bool:
    """Turns switches that were keys of their own into the hooks that took their place.

    Args:
        cfg (Config): Changed in place.

    Returns:
        bool: Whether ``in_memory=True`` was among them, which rewrites data loaders.
    """
    named = dict(
        compile=dict(type='CompileHook'),
        channels_last=dict(type='ChannelsLastHook'),
        tf32=dict(type='TF32Hook', allow=True),
    )
    for switch, hook in named.items():
        if value := cfg.pop(switch, None):
            options = value if isinstance(value, dict) else {}
            set_hook(cfg, switch, **hook | options)
            _log.warning(
                '%s=%r is now default_hooks.%s=%r',
                *(switch, value, switch, cfg.default_hooks[switch]),
            )
    if in_memory := bool(cfg.pop('in_memory', False)):
        _log.warning("in_memory=True is now --in-memory, or dataset.type='InMemory'")
    return in_memory


def prepare_config(
    cfg: Config,
    cfg_options: dict | None,
    loaders: tuple[str, ...],
    *,
    pin_memory: bool = True,
    persistent_workers: bool = True,
    in_memory: bool = False,
) -> None:
    """Settles all that a run is made from, and joins its other processes.

    What stands in the config afterwards is what runs, and what MMEngine writes into
    the working folder.

    Args:
        cfg (Config): Changed in place.
        cfg_options (dict | None): Settings by dotted key, over everything else.
        loaders (tuple[str, ...]): The data loaders that will be built.
        pin_memory (bool): False for pageable memory for the batches.
        persistent_workers (bool): False for new data workers each epoch.
        in_memory (bool): Whether to keep the images of all loaders on the device.

    Raises:
        MmirnetError: With all that is wrong with the config.
    """
    for name in loaders:
        if cfg.get(name):
            set_loader_defaults(cfg[name])
            cfg[name].pin_memory &= pin_memory
            cfg[name].persistent_workers &= persistent_workers
    merge_options(cfg, cfg_options)
    in_memory |= take_old_switches(cfg)
    add_default_hooks(cfg)
    check_config(cfg, loaders)
    for name in loaders:
        if loader := cfg.get(name):
            if in_memory:
                keep_in_memory(loader)
            # Either would only warn or raise: nothing to pin for, nobody to keep.
            loader.pin_memory &= torch.cuda.is_available()
            loader.persistent_workers &= loader.get('num_workers', 0) > 0
    _join_processes(cfg)


def build_runner(cfg: Config, loaders: tuple[str, ...]) -> Runner:
    """Builds the runner of a prepared config, with its data.

    Args:
        cfg (Config): See :func:`prepare_config`.
        loaders (tuple[str, ...]): The data loaders to build.

    Returns:
        Runner: MMEngine's, or the config's ``runner_type``.

    Raises:
        MmirnetError: If data sets, loaders or evaluators cannot be built.
    """
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    _build_loops(runner, loaders)
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


def _newest_checkpoint(cfg: Config) -> str | None:
    """The newest whole checkpoint in a run's folder.

    One process reads every byte of the files to see which are whole: the ranks of a
    cluster share a disk.
    """
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    return on_main_process(
        find_whole_checkpoint,
        cfg.work_dir,
        hook.get('out_dir'),
        hook.get('filename_tmpl', ''),
    )


@contextlib.contextmanager
def _loaded_once(runner: Runner, whole: bool) -> Iterator[None]:
    """Checks the checkpoint that a run starts from, and hands it over as it is read.

    ``whole`` tells that its bytes were read and are whole.
    """
    path, resume = runner.cfg.get('load_from'), bool(runner.cfg.get('resume'))
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
    """Joins the other processes of a distributed run: MMEngine's way, or over gloo.

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
    dist_cfg = cfg.get('env_cfg', {}).get('dist_cfg', {})
    rank, world_size, local_rank = (int(os.environ[name]) for name in variables)
    if get_device() != 'cpu':
        if local_rank >= torch.cuda.device_count() > 0:
            raise ConfigError(
                f'process {local_rank} of this node has no GPU: '
                f'{torch.cuda.device_count()} are visible'
            )
        # As the Runner does, which would do it too late to agree on a checkpoint.
        init_dist(cfg.launcher, **dist_cfg)
        return

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
