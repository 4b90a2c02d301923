"""Compares the configs of a run and of its checkpoint."""

import ast
import logging

from mmengine.config import Config
from mmengine.logging import print_log

#: Settings of a network that do not change what its weights compute.
_OF_TRAINING = {
    *('init_cfg', 'pretrained', 'frozen_stages', 'norm_eval', 'with_cp'),
    *('drop_path_rate', 'drop_rate', 'num_classes', 'batch_augments', '_scope_'),
}


def parse_config(text: str | None) -> dict | None:
    """Parses the text of a config as MMEngine writes it, without executing it.

    Args:
        text (str | None): ``Config.pretty_text``.

    Returns:
        dict | None: Nested dicts and lists, or None if the text is not such a config.
        Expressions other than literals and containers stay text.

    Example:
        >>> parse_config("model = dict(type='Net', sizes=[1, 2], low=-inf)")
        {'model': {'type': 'Net', 'sizes': [1, 2], 'low': '-inf'}}
    """
    try:
        lines = ast.parse(text or '').body
    except (SyntaxError, ValueError, RecursionError):
        return None
    found = {}
    for line in lines:
        if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
            found[line.targets[0].id] = _value(line.value)
    return found or None


def _value(node: ast.expr) -> object:
    match node:
        case ast.Call(func=ast.Name(id='dict'), args=[]):
            return {k.arg: _value(k.value) for k in node.keywords}
        case ast.Dict():
            keys = [_value(k) if k else None for k in node.keys]
            return dict(zip(map(str, keys), map(_value, node.values), strict=True))
        case ast.List() | ast.Tuple() | ast.Set():
            return [_value(n) for n in node.elts]
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


def literal(value: object) -> object:
    """Returns a config's values as :func:`parse_config` gives them.

    Args:
        value (object): A config or a value in it.

    Returns:
        object: Dicts, lists, numbers, texts, and the names of classes.

    Example:
        >>> literal(dict(size=(1, 2), type=dict))
        {'size': [1, 2], 'type': 'dict'}
    """
    if isinstance(value, dict):
        return {str(k): literal(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set):
        return [literal(v) for v in value]
    if isinstance(value, type):
        return value.__name__
    return value


def config_changes(old: dict, new: dict, key: str = '') -> list[tuple]:
    """Finds the differences between two configs, by dotted key.

    Args:
        old (dict): Output of :func:`parse_config`.
        new (dict): Output of :func:`parse_config`.
        key (str): Prefix of the keys.

    Returns:
        list[tuple[str, object, object]]: Keys with the old and the new value, which is
        :data:`NOTHING` for a missing key.

    Example:
        >>> config_changes({'a': {'b': 1, 'c': 2}}, {'a': {'b': 3, 'c': 2}})
        [('a.b', 1, 3)]
    """
    found = []
    for name in [*old, *(n for n in new if n not in old)]:
        a, b = old.get(name, NOTHING), new.get(name, NOTHING)
        place = f'{key}{name}'
        if isinstance(a, dict) and isinstance(b, dict):
            found += config_changes(a, b, f'{place}.')
        elif _dicts(a) and _dicts(b) and len(a) == len(b):
            both = [dict(enumerate(items)) for items in (a, b)]
            found += config_changes(*both, f'{place}.')
        elif a != b:
            found.append((place, a, b))
    return found


class _Nothing:
    def __repr__(self) -> str:
        return 'nothing'


#: Value of a missing key.
NOTHING = _Nothing()


def _dicts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(v, dict) for v in value)


def warn_of_changes(checkpoint: dict, cfg: Config, path: str) -> None:
    """Warns if a checkpoint was trained as another network than that of a config.

    Names and shapes of the weights are the same for 1/1 and 1/32 bits, for other
    recipes, and for other normalisations.

    Args:
        checkpoint (dict): Its content; that of MMEngine's hook has the run's config.
        cfg (Config): The config that it is used with.
        path (str): Where it is from.
    """
    text = (checkpoint.get('meta') or {}).get('cfg')
    trained = parse_config(text if isinstance(text, str) else None)
    if trained is None or not isinstance(trained.get('model'), dict):
        return
    networks = _network(trained), _network(literal(cfg.to_dict()))
    changes = [
        _described(key, old, new)
        for key, old, new in config_changes(*networks)
        if key.split('.')[-1] not in _OF_TRAINING and not _same_class(key, old, new)
    ]
    if changes:
        print_log(
            f'{path} was trained {"; ".join(changes[:3])}'
            f'{"; ..." * (len(changes) > 3)}: its weights may compute something else',
            'current',
            logging.WARNING,
        )


def _described(key: str, old: object, new: object) -> str:
    if old is NOTHING:
        return f'without {key}, and the config has {new!r}'
    if new is NOTHING:
        return f'with {key}={old!r}, and the config is without'
    return f'with {key}={old!r}, and the config has {new!r}'


def _same_class(key: str, old: object, new: object) -> bool:
    """Whether two values name one class, with its scope or module or without."""
    names = [str(value).split('.')[-1] for value in (old, new)]
    return key.endswith('.type') and names[0] == names[1]


def _network(cfg: dict) -> dict:
    """Returns the parts of a config that say what weights compute."""
    model = cfg['model']
    before = model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    return dict(
        backbone=model.get('backbone') or {},
        neck=model.get('neck') or {},
        data_preprocessor={k: before.get(k) for k in ('mean', 'std', 'to_rgb')},
    )
