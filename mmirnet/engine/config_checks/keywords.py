"""Finds unknown types and keywords in a config before anything is built."""

import functools
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.hooks import CheckpointHook, EMAHook
from mmengine.registry import (
    DATA_SAMPLERS,
    DATASETS,
    EVALUATOR,
    FUNCTIONS,
    HOOKS,
    LOG_PROCESSORS,
    LOOPS,
    METRICS,
    MODEL_WRAPPERS,
    MODELS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    TRANSFORMS,
    VISBACKENDS,
    VISUALIZERS,
    WEIGHT_INITIALIZERS,
    DefaultScope,
    Registry,
)
from mmengine.runner import Runner
from mmpretrain.models import ImageClassifier
from mmpretrain.registry import BATCH_AUGMENTS
from torch.utils.data import DataLoader

from ...errors import ConfigError
from ...registry import find_class, nearest, registered_names

#: Registry that builds the values of a key, at any depth.
_REGISTRIES: dict[str, Registry] = {
    'dataset': DATASETS,
    'datasets': DATASETS,
    'pipeline': TRANSFORMS,
    'transforms': TRANSFORMS,
    'sampler': DATA_SAMPLERS,
    'batch_sampler': DATA_SAMPLERS,
    'collate_fn': FUNCTIONS,
    'backbone': MODELS,
    'neck': MODELS,
    'head': MODELS,
    'loss': MODELS,
    'teacher': MODELS,
    'distillation': MODELS,
    'regulariser': MODELS,
    'data_preprocessor': MODELS,
    'init_cfg': WEIGHT_INITIALIZERS,
    'augments': BATCH_AUGMENTS,
    'optimizer': OPTIMIZERS,
    'vis_backends': VISBACKENDS,
    'metrics': METRICS,
}

#: The same for top-level keys.
_TOP: dict[str, Registry] = {
    'model': MODELS,
    'data_preprocessor': MODELS,
    'optim_wrapper': OPTIM_WRAPPERS,
    'param_scheduler': PARAM_SCHEDULERS,
    'default_hooks': HOOKS,
    'custom_hooks': HOOKS,
    'train_cfg': LOOPS,
    'val_cfg': LOOPS,
    'test_cfg': LOOPS,
    'val_evaluator': METRICS,
    'test_evaluator': METRICS,
    'visualizer': VISUALIZERS,
    'vis_backends': VISBACKENDS,
    'log_processor': LOG_PROCESSORS,
    'model_wrapper_cfg': MODEL_WRAPPERS,
}

#: MMEngine's default types.
_DEFAULT_TYPES = {
    'optim_wrapper': 'OptimWrapper',
    'val_cfg': 'ValLoop',
    'test_cfg': 'TestLoop',
    'log_processor': 'LogProcessor',
}

#: Keywords that MMEngine removes before it builds.
_EXTRA = {
    HOOKS: {'priority'},
    OPTIM_WRAPPERS: {'constructor', 'paramwise_cfg'},
    PARAM_SCHEDULERS: {'convert_to_iter_based', 'epoch_length'},
    LOOPS: {'by_epoch'},
    MODELS: {'requires_grad'},  # in norm_cfg
}

#: Registries whose objects get exactly the arguments in the config.
_WHOLE = (HOOKS, TRANSFORMS, METRICS, BATCH_AUGMENTS)
#: The same for parts of a model.
_WHOLE_PARTS = tuple(
    f'model.{part}'
    for part in ('backbone', 'neck', 'head', 'teacher', 'distillation', 'regulariser')
)

_LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


class _Part(NamedTuple):
    """A value in the config from which an object is built."""

    key: str
    spec: dict | str  # a string is a mistake if it is the name of a class
    registry: Registry
    whole: bool  # the dict contains all arguments


def keyword_problems(
    cfg: Config, loaders: tuple[str, ...] = _LOADERS
) -> Iterator[Exception]:
    """Finds unregistered types and unknown keywords.

    Args:
        cfg (Config): The complete config.
        loaders (tuple[str, ...]): Keys of the data loaders that will be built.

    Yields:
        Exception: A ConfigError per problem; a warning for a setting without effect.

    Example:
        >>> from mmengine.config import Config
        >>> for problem in keyword_problems(
        ...     Config(dict(custom_hooks=[dict(type='EDEHook', t_mim=0.1)]))):
        ...     print(problem)
        custom_hooks[0]: EDEHook has no argument 't_mim'; did you mean 't_min'?
    """
    scope = cfg.get('default_scope', 'mmengine')
    for part in _parts(cfg, loaders, scope):
        yield from _check_part(part, scope)
    for key in loaders:
        if isinstance(loader := cfg.get(key), dict):
            allowed = {*keywords(DataLoader), *_LOADER_KEYS}
            yield from _check_names(key, 'a data loader', loader, allowed)
    if isinstance(randomness := cfg.get('randomness'), dict):
        allowed = keywords(Runner.set_randomness)
        yield from _check_names('randomness', 'randomness', randomness, allowed)
    settings = set(inspect.signature(Runner.__init__).parameters)
    for key in cfg:
        near = nearest(key, settings, 0.9) if key not in settings else None
        # A variable may have the same name as the setting it is used for.
        if near and not _holds(cfg.get(near), cfg[key]):
            yield UserWarning(f'{key}: nothing reads it; did you mean {near}?')


def dataset_problems(key: str, spec: dict) -> Iterator[Exception]:
    """Finds unregistered types and unknown keywords in the config of a data set.

    Args:
        key (str): Its key in the config.
        spec (dict): Config of the data set, for the current scope.

    Yields:
        Exception: A ConfigError per problem.

    Example:
        >>> spec = dict(type='mmpretrain.CIFAR10', data_rot='data')
        >>> for problem in dataset_problems('test_dataloader.dataset', spec):
        ...     print(problem)
        test_dataloader.dataset: CIFAR10 has no argument 'data_rot'; did you mean ...
    """
    current = DefaultScope.get_current_instance()
    for part in _walk(key, spec, DATASETS):
        yield from _check_part(part, current.scope_name if current else 'mmengine')


def _holds(value: Any, part: Any) -> bool:
    """Whether a value is another or contains it."""
    if value == part:
        return True
    inner = value.values() if isinstance(value, dict) else value
    if not isinstance(value, (dict, list, tuple)):
        return False
    return any(_holds(item, part) for item in inner)


_LOADER_KEYS = ('num_batch_per_epoch', 'disable_subprocess_warning')


def _parts(cfg: Config, loaders: tuple[str, ...], scope: str) -> Iterator[_Part]:
    """Iterates over the values from which objects are built."""
    for key, registry in _TOP.items():
        value = cfg.get(key)
        phase = key.partition('_')[0]
        if phase in ('train', 'val', 'test') and f'{phase}_dataloader' not in loaders:
            continue
        if key == 'default_hooks':
            for name, hook in (value or {}).items():
                yield from _walk(f'{key}.{name}', hook, registry)
            continue
        if isinstance(value, dict) and 'type' not in value:
            value = dict(value, type=_default_type(cfg, key, scope))
        yield from _walk(key, value, registry)
    for key in loaders:
        if isinstance(loader := cfg.get(key), dict):
            yield from _walk(key, loader, None)


def _default_type(cfg: Config, key: str, scope: str) -> str | None:
    if key == 'train_cfg':
        by_epoch = cfg.train_cfg.get('by_epoch', True)
        return 'EpochBasedTrainLoop' if by_epoch else 'IterBasedTrainLoop'
    if key == 'data_preprocessor':
        kind = find_class(MODELS, cfg.get('model', {}).get('type'), scope)
        ours = inspect.isclass(kind) and issubclass(kind, ImageClassifier)
        return 'ClsDataPreprocessor' if ours else None
    return _DEFAULT_TYPES.get(key)


def _walk(key: str, value: Any, registry: Registry | None) -> Iterator[_Part]:
    """Iterates over the parts of a value at any depth."""
    if isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _walk(f'{key}[{i}]', item, registry)
    elif isinstance(value, str) and registry is not None:
        yield _Part(key, value, registry, False)
    elif isinstance(value, dict):
        if registry is not None and value.get('type') is not None:
            whole = registry in _WHOLE or key in _WHOLE_PARTS
            yield _Part(key, value, registry, whole)
        for name, inner in value.items():
            yield from _walk(f'{key}.{name}', inner, _registry_of(name))


def _registry_of(name: str) -> Registry | None:
    if name.endswith(('conv_cfg', 'norm_cfg', 'act_cfg')):
        return MODELS
    return _REGISTRIES.get(name)


def _check_part(part: _Part, scope: str) -> Iterator[Exception]:
    if part.registry is FUNCTIONS:  # functions have no nested parts
        scope = 'mmengine'
    if isinstance(part.spec, str):
        if find_class(part.registry, part.spec, scope):
            yield ConfigError(
                f'{part.key}: write dict(type={part.spec!r}), not only the name'
            )
        return
    kind = part.spec['type']
    cls = find_class(part.registry, kind, scope)
    if cls is None and part.registry is METRICS:
        cls = find_class(EVALUATOR, kind, scope)
    if cls is None:
        yield ConfigError(_unknown_type(part, scope))
        return
    if inspect.isclass(cls) and issubclass(cls, EMAHook):
        allowed = _averaging_keywords(cls, part.spec, scope)
    else:
        allowed = keywords(cls)
    given = {name for name in part.spec if name not in ('type', '_scope_')}
    name = getattr(cls, '__name__', kind)
    if allowed is not None:
        extra = _EXTRA.get(part.registry, set())
        for wrong in sorted(given - allowed - extra):
            yield ConfigError(
                f'{part.key}: {name} has no argument {wrong!r}; {_hint(wrong, allowed)}'
            )
    if part.whole and inspect.isclass(cls):
        for missing in required(cls) - given:
            yield ConfigError(f'{part.key}: {name} needs the argument {missing!r}')


def _averaging_keywords(
    hook: type[EMAHook], spec: dict, scope: str
) -> frozenset[str] | None:
    """Returns the keywords of a hook that passes on what it does not know."""
    kind = spec.get('ema_type', 'ExponentialMovingAverage')
    average = find_class(MODELS, kind, scope)
    passed_on = keywords(average) if average is not None else None
    if passed_on is None:
        return None
    bases = [base for base in hook.__mro__ if '__init__' in vars(base)]
    own = {name for base in bases[:-1] for name in _signature(base.__init__)[0]}
    return (passed_on | own) - {'self', 'model'}


def _unknown_type(part: _Part, scope: str) -> str:
    kind, registry = part.spec['type'], part.registry
    line = f'{part.key}.type: no {registry.name} is called {kind!r}'
    bare = kind.rpartition('.')[2]
    if scope != 'mmpretrain' and find_class(registry, kind, 'mmpretrain'):
        return f"{line} in {scope}, but in MMPretrain: set default_scope='mmpretrain'"
    if near := nearest(bare, registered_names(registry, scope)):
        return f'{line}; did you mean {near!r}?'
    return f'{line}; custom_imports has to name the module that registers it'


def _check_names(
    key: str, what: str, given: dict, allowed: set[str] | None
) -> Iterator[Exception]:
    for wrong in sorted(set(given) - set(allowed or given)):
        yield ConfigError(
            f'{key}: {what} has no setting {wrong!r}; {_hint(wrong, allowed)}'
        )


def _hint(wrong: str, allowed: set[str]) -> str:
    near = nearest(wrong, allowed)
    return f'did you mean {near!r}?' if near else f'allowed are {sorted(allowed)}'


@functools.cache
def keywords(kind: Callable) -> frozenset[str] | None:
    """Returns the keywords that a class or function accepts.

    ``**kwargs`` are resolved to the keywords of the next class in the MRO if they are
    certainly passed on to it.

    Args:
        kind (Callable): The class or function.

    Returns:
        frozenset[str] | None: The keywords, or None if all are accepted.

    Example:
        >>> from mmirnet.engine import EDEHook
        >>> sorted(keywords(EDEHook))
        ['by_epoch', 'interval', 't_max', 't_min']
    """
    if isinstance(kind, functools.partial):  # as for torchvision's transforms
        kind = kind.keywords.get('transform', kind)
    if not inspect.isclass(kind):
        names, rest = _signature(kind)
        return None if rest else frozenset(names)
    names = []
    for base in kind.__mro__:
        if base is object or '__init__' not in vars(base):
            continue
        more, rest = _signature(base.__init__)
        names += more
        # CheckpointHook accepts unknown keywords, but fails when it saves.
        if rest is None or base is CheckpointHook:
            return frozenset(names) - {'self'}
        if not _hands_on(base, rest):
            return None
    return frozenset() if not names else None


def _signature(function: Callable) -> tuple[list[str], str | None]:
    """Returns the keywords of a function and the name of its ``**kwargs``."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # implemented in C
        return [], 'kwargs'
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    rest = [p.name for p in parameters if p.kind is inspect.Parameter.VAR_KEYWORD]
    return [p.name for p in parameters if p.kind in named], *(rest or [None])


def _hands_on(cls: type, rest: str) -> bool:
    """Whether a constructor passes all of its ``**kwargs`` to the next class."""
    if issubclass(cls, BaseDataset) or cls.__module__.startswith('mmirnet.'):
        return True
    try:
        source = inspect.getsource(cls.__init__)
    except (OSError, TypeError):
        return False
    to_next = re.search(rf'super\([^()]*\)\.__init__\([^)]*\*\*{rest}\b', source)
    return bool(to_next) and len(re.findall(rf'\b{rest}\b', source)) == 2


def required(cls: type) -> set[str]:
    """Returns the arguments without a default in the signature of a constructor.

    Args:
        cls (type): The class.

    Returns:
        set[str]: Names of the arguments.

    Example:
        >>> from mmirnet.models import BNLinearClsHead
        >>> sorted(required(BNLinearClsHead))
        ['in_channels', 'num_classes']
    """
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    return {
        p.name
        for p in parameters
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
