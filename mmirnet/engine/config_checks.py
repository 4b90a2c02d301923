"""Checks of a config before anything is built from it.

:func:`check_config` lists all problems at once. :mod:`mmirnet.engine.checks` has the
checks that need built objects.
"""

import inspect
import numbers
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import mmengine
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.fileio import list_from_file
from mmengine.logging import print_log
from mmengine.optim import AmpOptimWrapper
from mmengine.registry import DATASETS, OPTIM_WRAPPERS
from mmengine.runner import Runner
from mmpretrain.datasets import CustomDataset

from ..datasets.wrapped import leaves
from ..errors import ConfigError, DataError, MmirnetError, first_line
from ..registry import find_class, nearest
from .keywords import keyword_problems
from .labels import class_name_problems, line_problems

#: Settings that MMEngine requires together or not at all.
_TOGETHER = (
    ('train_dataloader', 'train_cfg', 'optim_wrapper'),
    ('val_dataloader', 'val_cfg', 'val_evaluator'),
    ('test_dataloader', 'test_cfg', 'test_evaluator'),
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
    'default_hooks.logger.interval': (numbers.Integral, 1, False),
    'default_hooks.visualization.interval': (numbers.Integral, 1, False),
    'auto_scale_lr.base_batch_size': (numbers.Integral, 1, False),
    'randomness.seed': (numbers.Integral, 0, False),
}


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
    library = str(Path(mmengine.__file__).parent)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        inside = frame.filename.startswith((library, '<')) or frame.filename == __file__
        if not inside:
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


def report(problems: Iterable[Exception]) -> None:
    """Logs warnings and raises all other problems as one error.

    Args:
        problems (Iterable[Exception]): Output of the checks.

    Raises:
        Exception: One line per problem. It has the class of the problems if they share
            one, or else ConfigError.

    Example:
        >>> report([DataError('a'), DataError('b')])
        Traceback (most recent call last):
        mmirnet.errors.DataError: a
        b
    """
    errors = []
    for problem in problems:
        if isinstance(problem, Warning):
            print_log(str(problem), 'current', level=30)
        else:
            errors.append(problem)
    if errors:
        kinds = {type(error) for error in errors}
        kind = kinds.pop() if len(kinds) == 1 else ConfigError
        raise kind('\n'.join(dict.fromkeys(map(str, errors))))


def check_config(cfg: Config, loaders: tuple[str, ...] = ()) -> None:
    """Refuses a config that cannot be built or that does not match the data.

    Args:
        cfg (Config): The complete config.
        loaders (tuple[str, ...]): Keys of the data loaders that will be built, empty to
            build only the model.

    Raises:
        ValueError: If there are problems; one line per problem.
        FileNotFoundError: If the only problem is missing data.
    """
    if not loaders:
        parts = ('model', 'data_preprocessor', 'default_scope')
        model = {key: cfg[key] for key in parts if key in cfg}
        cfg = Config(dict(default_scope='mmpretrain') | model)
    report(config_problems(cfg, loaders))


def config_problems(cfg: Config, loaders: tuple[str, ...]) -> Iterator[Exception]:
    """Finds all problems of a config.

    Args:
        cfg (Config): The complete config.
        loaders (tuple[str, ...]): Keys of the data loaders that will be built.

    Yields:
        Exception: One per problem. Suspicious settings are warnings.
    """
    wrong_names = list(keyword_problems(cfg, loaders))
    yield from wrong_names
    if loaders:
        yield from _missing_parts(cfg, loaders)
    if 'train_dataloader' in loaders:
        yield from _number_problems(cfg)
        yield from _precision_problems(cfg)
    for key in loaders:
        if isinstance(loader := cfg.get(key), dict):
            yield from _loader_problems(key, loader)
    # Data sets are built to check their files. Skip those that lack arguments.
    if not any(isinstance(p, ConfigError) for p in wrong_names):
        yield from _data_problems(cfg, loaders)


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


def _number_problems(cfg: Config) -> Iterator[Exception]:
    """Finds settings that are not numbers or out of range."""
    for key, (kind, least, more) in _NUMBERS.items():
        *path, name = key.split('.')
        specs = [(path[0], cfg.get(path[0]))]
        if isinstance(specs[0][1], (list, tuple)):
            specs = [(f'{path[0]}[{i}]', part) for i, part in enumerate(specs[0][1])]
        for place, spec in specs:
            for step in path[1:]:
                spec = spec.get(step) if isinstance(spec, dict) else None
            value = spec.get(name) if isinstance(spec, dict) else None
            # Classes of the user may accept other types.
            number = isinstance(value, numbers.Real) and not isinstance(value, bool)
            if not number and not isinstance(value, (str, bool)):
                continue
            if name in ('max_epochs', 'max_iters') and not cfg.get('param_scheduler'):
                least = 0  # a run without steps, which only loads
            fits = number and isinstance(value, kind) and value >= least
            if not fits or (more and value == least):
                what = 'an integer' if kind is numbers.Integral else 'a number'
                bound = f'more than {least}' if more else f'at least {least}'
                place = '.'.join([place, *path[1:], name])
                yield ConfigError(f'{place} must be {what}, {bound}, got {value!r}')


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
    for part in ('dataset', 'sampler'):
        if part not in loader and 'batch_sampler' not in loader:
            yield ConfigError(f'{key} needs a {part}')


def _data_problems(cfg: Config, loaders: tuple[str, ...]) -> Iterator[Exception]:
    """Finds folders and lists of files that are missing or do not match."""
    scope = cfg.get('default_scope', 'mmengine')
    head = cfg.get('model', {}).get('head') or {}
    outputs = head.get('num_classes') if isinstance(head, dict) else None
    names = {}
    for name in loaders:
        dataset = (cfg.get(name) or {}).get('dataset')
        for key, spec in leaves(dataset, f'{name}.dataset'):
            if not isinstance(spec, dict):
                continue
            missing = list(missing_folder(spec, key, scope))
            yield from missing
            kind = find_class(DATASETS, spec.get('type'), scope)
            listed = inspect.isclass(kind) and issubclass(kind, CustomDataset)
            if listed and not missing and '://' not in str(spec.get('data_root')):
                yield from _listed_problems(kind, spec, key, outputs, names)
    yield from class_name_problems(names)


def missing_folder(
    spec: dict, key: str, scope: str | None = None
) -> Iterator[Exception]:
    """Checks that the folder of a data set exists or can be downloaded.

    Args:
        spec (dict): Config of the data set.
        key (str): Its key in the config.
        scope (str | None): ``default_scope`` of the config.

    Yields:
        Exception: A FileNotFoundError if the folder is missing.
    """
    folder = spec.get('data_root')
    if not folder or '://' in folder or Path(folder).expanduser().is_dir():
        return
    kind = find_class(DATASETS, spec['type'], scope)
    downloads = kind is not None and 'download' in inspect.signature(kind).parameters
    if not (downloads and spec.get('download', True)):
        yield FileNotFoundError(
            f'{key}.data_root: there is no folder {folder!r}; make it, or name another '
            f'with --cfg-options {key}.data_root=FOLDER'
        )


def _listed_problems(
    kind: type[CustomDataset],
    spec: dict,
    key: str,
    outputs: int | None,
    names: dict[str, list[str]],
) -> Iterator[Exception]:
    """Checks the files of a data set that is defined by a list or by folders.

    Adds the class names to ``names``.
    """
    spec = {k: v for k, v in spec.items() if k not in ('type', '_scope_', 'pipeline')}
    try:  # without reading its files, but with all its paths
        dataset = kind(**dict(spec, lazy_init=True))
    except (AssertionError, ValueError, OSError) as e:
        yield ConfigError(f'{key}: {" ".join(str(e).split())}')
        return
    if kind.load_data_list is not CustomDataset.load_data_list:
        return
    if dataset.ann_file:
        yield from _list_problems(dataset, key, outputs)
        if dataset.CLASSES is not None:
            names[key] = list(dataset.CLASSES)
        return
    root = Path(dataset.img_prefix)
    if not root.is_dir():
        yield FileNotFoundError(f'{key}: there is no folder {str(root)!r}')
        return
    if not any(dataset.is_valid_file(str(path)) for path in root.rglob('*')):
        yield DataError(
            f'{key}: no images in {root}; their names have to end in one of '
            f'{", ".join(sorted(dataset.extensions))}'
        )
    elif dataset.with_label:
        folders = sorted(path.name for path in root.iterdir() if path.is_dir())
        yield from folder_problems(key, root, folders, dataset.CLASSES)
        names[key] = folders


def _list_problems(
    dataset: CustomDataset, key: str, outputs: int | None
) -> Iterator[Exception]:
    if not Path(dataset.ann_file).is_file():
        yield FileNotFoundError(f'{key}.ann_file: there is no file {dataset.ann_file}')
    elif dataset.with_label:
        classes = dataset.CLASSES
        counts = [n for n in (outputs, len(classes) if classes else None) if n]
        lines = list_from_file(dataset.ann_file)
        yield from line_problems(dataset.ann_file, lines, min(counts, default=None))


def folder_problems(
    key: str, root: Path, folders: list[str], classes: list[str] | None
) -> Iterator[Exception]:
    """Checks that the folders of a data set match its classes, in the same order.

    Args:
        key (str): Key of the data set in the config.
        root (Path): Parent folder.
        folders (list[str]): Names of the folders in order, which define the labels.
        classes (list[str] | None): Class names that the data set was given.

    Yields:
        Exception: A DataError if labels would get wrong names.
    """
    if classes is None or list(classes) == folders:
        return
    if len(classes) != len(folders):
        missing = [name for name in classes if name not in folders]
        lost = f' (no folder {missing[0]!r})' if len(missing) < len(classes) else ''
        yield DataError(
            f'{key}: {root} has {len(folders)} folders, but the data set has '
            f'{len(classes)} classes{lost}; name those of the folders with '
            f"{key}.classes=[...], or take type='CustomDataset', which reads them"
        )
    elif set(classes) & set(folders):
        label = next(i for i, name in enumerate(folders) if name != classes[i])
        yield DataError(
            f'{key}: classes are not in the order of the folders, which number the '
            f'labels: label {label} is {folders[label]!r} in {root}, and '
            f'{classes[label]!r} in classes; leave classes out, or sort them'
        )
