"""Reads the config of a run and sets the defaults of the tools."""

import importlib.util
import logging
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.registry import HOOKS

from ..datasets.in_memory import is_in_memory
from ..errors import ConfigError
from ..registry import find_class
from .config_checks import read_config

_log = logging.getLogger('mmirnet')


#: Hooks that the tools add to every run. A config disables one with None under its
#: key.
DEFAULT_HOOKS = dict(
    check=dict(type='CheckHook'),
    resume=dict(type='ResumeHook'),
    precise_bn=dict(type='PackedPreciseBNHook'),
    tf32=dict(type='TF32Hook', allow=False),
)


def load_config(config: str, work_dir: str | None, launcher: str) -> Config:
    """Reads a config file and sets its work folder and launcher."""
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


def add_default_hooks(cfg: Config) -> None:
    """Adds those of :data:`DEFAULT_HOOKS` that a config does not set itself.

    Args:
        cfg (Config): The config, changed in place.
    """
    hooks = cfg.get('default_hooks') or {}
    named = [*hooks.values(), *(cfg.get('custom_hooks') or [])]
    kinds = [find_class(HOOKS, h.get('type')) for h in named if isinstance(h, dict)]
    for key, hook in DEFAULT_HOOKS.items():
        if key not in hooks and find_class(HOOKS, hook['type']) not in kinds:
            set_hook(cfg, key, **hook)


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
