"""Reads the config of a run and sets the defaults of the tools."""

import ast
import importlib.util
import inspect
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mmengine
from mmengine.config import Config, ConfigDict
from mmengine.registry import HOOKS, LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from ..datasets.in_memory import is_in_memory
from ..errors import ConfigError, MmirnetError, first_line
from ..registry import find_class, nearest

_log = logging.getLogger('mmirnet')


#: Hooks that the tools add to every run. A config disables one with None under its
#: key.
DEFAULT_HOOKS = dict(
    check=dict(type='CheckHook'),
    resume=dict(type='ResumeHook'),
    precise_bn=dict(type='PackedPreciseBNHook'),
    tf32=dict(type='TF32Hook', allow=False),
)


#: Keys under which MMEngine's Runner has a hook of its own.
_MMENGINE_HOOKS = frozenset(
    ['runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint']
)

#: Top-level settings that are not arguments of MMEngine's Runner.
_SETTINGS = frozenset(
    [
        'activation_checkpointing',
        'auto_scale_lr',
        'channels_last',
        'compile',
        'env_cfg',
        'find_unused_parameters',
        'in_memory',
        'runner_type',
        'strategy',
        'sync_bn',
        'tf32',
        'tta_model',
        'tta_pipeline',
    ]
)


def load_config(config: str, work_dir: str | None, launcher: str) -> Config:
    """Reads a config file and sets its work folder and launcher.

    Args:
        config (str): The file, or ``package::path`` for one in an installed package.
        work_dir (str | None): The work folder. Defaults to that of the config, or else
            ``work_dirs/<name of the config>``.
        launcher (str): ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``.

    Returns:
        Config: The config.

    Raises:
        ConfigError: If there is no such package, or the file is no config.
        FileNotFoundError: If there is no such file.

    Example:
        >>> cfg = load_config('mmirnet::irnet/resnet20_bireal_digits.py', None, 'none')
        >>> cfg.work_dir
        'work_dirs/resnet20_bireal_digits'
    """
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


def read_config(path: Path) -> Config:
    """Reads a config file.

    Args:
        path (Path): The file.

    Returns:
        Config: The config.

    Raises:
        ConfigError: If it cannot be read; names the file, the line and the reason.
        FileNotFoundError: If one of its base configs is missing.
    """
    try:
        return Config.fromfile(path)
    except (OSError, MmirnetError):
        raise
    except Exception as error:  # code in a config or its imports may raise anything
        # For a failed import, MMEngine's message is about earlier imports.
        cause = error
        while isinstance(cause, ImportError) and cause.__context__ is not None:
            cause = cause.__context__
        reason = getattr(cause, 'msg', None) or first_line(cause)
        if not isinstance(cause, (SyntaxError, ImportError)):
            reason = f'{type(cause).__name__}: {reason}'
        if isinstance(cause, ModuleNotFoundError):
            reason += '; PYTHONPATH has to name the folder that it is in'
        raise ConfigError(f'{_place(path, cause)}: {reason}') from error


def _place(path: Path, error: Exception) -> str:
    """Returns file and line at which reading a config failed, if known."""
    if isinstance(error, ImportError):
        return f'CONFIG {path}'
    if isinstance(error, SyntaxError):
        # MMEngine parses text without a file name, which only the callers know.
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        names = [error.filename, *(f.f_locals.get('filename') for f in frames[::-1])]
        files = [name for name in names if name and Path(name).is_file()]
        return f'{(files or [path])[0]}, line {error.lineno}'
    others = str(Path(mmengine.__file__).parent), ast.__file__, '<', __file__
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith(others):  # ast visits a config's lines
            return f'{frame.filename}, line {frame.lineno}'
    return f'CONFIG {path}'


def merge_options(cfg: Config, options: dict[str, Any] | None) -> None:
    """Merges command-line options into a config.

    Args:
        cfg (Config): The config, changed in place.
        options (dict[str, Any] | None): Settings by dotted key.

    Raises:
        ConfigError: If a setting cannot be merged, or if nothing would read it.

    Example:
        >>> cfg = Config(dict(train_cfg=dict(max_epochs=9)))
        >>> merge_options(cfg, dict(max_epochs=1))
        Traceback (most recent call last):
        mmirnet.errors.ConfigError: --cfg-options max_epochs: nothing reads it; did ...
    """
    for key in options or {}:
        if 'runner_type' not in cfg and (problem := _unread(cfg, key)):
            raise ConfigError(f'--cfg-options {key}: {problem}')
    try:
        cfg.merge_from_dict(options or {})
    except (KeyError, TypeError, AssertionError) as error:
        reason = error.args[0] if error.args else first_line(error)
        raise ConfigError(f'--cfg-options: {reason}') from error


def _unread(cfg: Config, key: str) -> str | None:
    """Explains why a setting would have no effect; None if it is read.

    When a config file has been read, its variables are already copied to the places
    that use them.
    """
    top = key.partition('.')[0]
    known = {*inspect.signature(Runner.__init__).parameters, *_SETTINGS}
    if top in known:
        return None
    if top in cfg:
        places = [
            place
            for place, value in _values(cfg)
            if isinstance(value, (dict, list)) and value == cfg[top] and place != top
        ]
        where = f'set {" and ".join(places)}' if places else 'set what it is used in'
        return f'{top} is a variable that the config file has used already; {where}'
    near = nearest(top, known)
    places = [place for place, _ in _values(cfg) if place.endswith(f'.{key}')]
    if places or near:
        return f'nothing reads it; did you mean {(places or [near])[0]}?'
    return 'nothing reads it'


def _values(cfg: Config) -> Iterator[tuple[str, Any]]:
    """Iterates over the values of a config by dotted key, except those in lists."""

    def below(key: str, value: Any) -> Iterator[tuple[str, Any]]:
        yield key, value
        if isinstance(value, dict):
            for name, inner in value.items():
                yield from below(f'{key}.{name}', inner)

    for key in cfg:
        yield from below(key, cfg[key])


def set_loader_defaults(loader: ConfigDict) -> None:
    """Sets the tools' defaults of a data loader where the config does not set them.

    Args:
        loader (ConfigDict): Config of the data loader, changed in place.
    """
    kept = is_in_memory(loader)
    loader.setdefault('collate_fn', dict(type='as_is' if kept else 'default_collate'))
    loader.setdefault('persistent_workers', not kept)
    loader.setdefault('pin_memory', not kept)


def set_hook(cfg: Config, key: str, **hook) -> None:
    """Sets a hook in a config and keeps its other arguments.

    Args:
        cfg (Config): The config, changed in place.
        key (str): Key of the hook in ``default_hooks``.
        **hook: Type and arguments of the hook.

    Example:
        >>> cfg = Config(dict(default_hooks=dict(tf32=None)))
        >>> set_hook(cfg, 'tf32', type='TF32Hook')
        >>> cfg.default_hooks
        {'tf32': {'type': 'TF32Hook'}}
    """
    hooks = cfg.get('default_hooks') or {}
    cfg.default_hooks = {**hooks, key: {**(hooks.get(key) or {}), **hook}}


def drop_by_epoch(cfg: Config) -> None:
    """Removes ``by_epoch`` from a training loop that also has a type.

    MMEngine takes one of them. MMPretrain's schedules set ``by_epoch``, and a config
    that inherits them sets the type.

    Args:
        cfg (Config): The config, changed in place.

    Raises:
        ConfigError: If the two contradict each other.

    Example:
        >>> cfg = Config(dict(
        ...     train_cfg=dict(by_epoch=True, type='DeterministicEpochLoop')))
        >>> drop_by_epoch(cfg)
        >>> cfg.train_cfg
        {'type': 'DeterministicEpochLoop'}
    """
    train_cfg = cfg.get('train_cfg') or {}
    if not {'type', 'by_epoch'} <= train_cfg.keys():
        return
    loop = find_class(LOOPS, train_cfg['type'])
    by_epoch = train_cfg.pop('by_epoch')
    other = IterBasedTrainLoop if by_epoch else EpochBasedTrainLoop
    if isinstance(loop, type) and issubclass(loop, other):
        raise ConfigError(
            f'train_cfg has type={train_cfg["type"]!r} and by_epoch={by_epoch}, which '
            'contradict each other: remove by_epoch'
        )


def set_captured_loop(cfg: Config) -> None:
    """Lets a config train and validate in the loops that replay CUDA graphs.

    A validation loop other than MMEngine's ``ValLoop`` stays.

    Args:
        cfg (Config): The config, changed in place.

    Raises:
        ConfigError: If its loop has no captured form.

    Example:
        >>> cfg = Config(dict(
        ...     train_cfg=dict(by_epoch=True, max_epochs=4), val_cfg=dict()))
        >>> set_captured_loop(cfg)
        >>> cfg.train_cfg, cfg.val_cfg
        ({'max_epochs': 4, 'type': 'CapturedEpochLoop'}, {'type': 'CapturedValLoop'})
    """
    train_cfg = cfg.get('train_cfg') or {}
    by_epoch = train_cfg.pop('by_epoch', False)
    kind = train_cfg.get('type', 'EpochBasedTrainLoop' if by_epoch else None)
    names = ('EpochBasedTrainLoop', 'DeterministicEpochLoop', 'CapturedEpochLoop')
    if find_class(LOOPS, kind) not in [find_class(LOOPS, name) for name in names]:
        raise ConfigError(
            f'--capture needs an epoch-based loop, and train_cfg.type is {kind!r}: set '
            "'DeterministicEpochLoop', or leave out --capture"
        )
    train_cfg.type = 'CapturedEpochLoop'
    val_cfg = cfg.get('val_cfg')
    if val_cfg is not None and val_cfg.get('type', 'ValLoop') == 'ValLoop':
        val_cfg.type = 'CapturedValLoop'


def add_default_hooks(cfg: Config) -> None:
    """Adds those of :data:`DEFAULT_HOOKS` that a config does not set itself.

    MMEngine accepts None under the keys of its own hooks alone. Under another key,
    ``NoHook`` takes its place, which does nothing.

    Args:
        cfg (Config): The config, changed in place.
    """
    hooks = cfg.get('default_hooks') or {}
    named = [*hooks.values(), *(cfg.get('custom_hooks') or [])]
    kinds = [find_class(HOOKS, h.get('type')) for h in named if isinstance(h, dict)]
    for key, hook in DEFAULT_HOOKS.items():
        if key not in hooks and find_class(HOOKS, hook['type']) not in kinds:
            set_hook(cfg, key, **hook)
    for key, hook in hooks.items():
        if hook is None and key not in _MMENGINE_HOOKS:
            cfg.default_hooks[key] = dict(type='NoHook')


def take_old_switches(cfg: Config) -> bool:
    """Replaces former top-level switches by the hooks that took their place.

    Args:
        cfg (Config): The config, changed in place.

    Returns:
        bool: Whether ``in_memory=True`` was set, which rewrites data loaders.
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
