"""Looks up the ``type`` of a config: a name, a name with a scope, or a class."""

import difflib
import sys
import traceback
from collections.abc import Callable, Iterable

from mmengine.registry import Registry, build_from_cfg

#: Packages whose classes raise these errors for settings that they do not accept.
_PACKAGES = {'mmcv', 'mmengine', 'mmirnet', 'mmpretrain', 'torch', 'torchvision'}
_PACKAGES |= {'numpy', *sys.stdlib_module_names}
_ERRORS = (AssertionError, KeyError, NotImplementedError, TypeError, ValueError)


def find_class(
    registry: Registry, kind: str | Callable, scope: str | None = None
) -> Callable | None:
    """Returns the class or function that MMEngine would build.

    Args:
        registry (Registry): A registry of ``mmengine.registry``.
        kind (str | Callable): Value of ``type``.
        scope (str | None): ``default_scope`` of the config. None means the current one.

    Returns:
        Callable | None: The class, or None if no such name is registered.

    Example:
        >>> from mmengine.registry import DATA_SAMPLERS
        >>> find_class(DATA_SAMPLERS, 'mmengine.DefaultSampler').__name__
        'DefaultSampler'
    """
    if not isinstance(kind, str):
        return kind
    with registry.switch_scope_and_registry(scope) as found:
        try:
            return found.get(kind)
        except RuntimeError:  # newer versions raise this instead of returning None
            return None


def registered_names(registry: Registry, scope: str | None = None) -> list[str]:
    """Returns all names that :func:`find_class` finds without a scope."""
    names = []
    with registry.switch_scope_and_registry(scope) as found:
        while found is not None:
            names += found.module_dict
            found = found.parent
    return names


def nearest(name: str, names: Iterable[str], likeness: float = 0.6) -> str | None:
    """Returns the most similar name, ignoring case.

    Args:
        name (str): The given name.
        names (Iterable[str]): Valid names.
        likeness (float): Minimum similarity, 0 to 1; see
            ``difflib.get_close_matches``.

    Returns:
        str | None: The name, or None if none is similar enough.

    Example:
        >>> nearest('IRconv2D', ['Conv2d', 'IRConv2d'])
        'IRConv2d'
    """
    by_lower = {other.lower(): other for other in names}
    near = difflib.get_close_matches(name.lower(), by_lower, 1, likeness)
    return by_lower[near[0]] if near else None


def refused_settings(error: Exception) -> str | None:
    """Explains an error that a class raised when a library built it from a config.

    Args:
        error (Exception): An error, as caught.

    Returns:
        str | None: The class and the reason. None if the error may be a bug: nothing
        was being built, this package raised it, or code of others took part.

    Example:
        >>> from mmengine.optim import build_optim_wrapper
        >>> from torch import nn
        >>> try:
        ...     build_optim_wrapper(
        ...         nn.Linear(1, 1), dict(optimizer=dict(type='SGD', lr=-1)))
        ... except ValueError as error:
        ...     print(refused_settings(error))
        SGD: Invalid learning rate: -1
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    building = [i for i, f in enumerate(frames) if f.f_code is build_from_cfg.__code__]
    if not isinstance(error, _ERRORS) or not building:
        return None
    modules = [frame.f_globals.get('__name__', '') for frame in frames]
    start = building[0]
    while start and modules[start].startswith('mmengine.registry.'):
        start -= 1  # to who had it built
    packages = [module.partition('.')[0] for module in modules[start:]]
    built = frames[building[-1]].f_locals
    if packages[-1] == 'mmirnet' or set(packages) - _PACKAGES or 'obj_cls' not in built:
        return None
    # OpenMMLab has assertions without a message.
    line = traceback.extract_tb(error.__traceback__)[-1].line
    reason = ' '.join(str(error.args[0] if error.args else line).split())
    name = getattr(built['obj_cls'], '__name__', '')
    return f'{name}: {reason}' if name else reason
