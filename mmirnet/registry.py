"""Looks up the ``type`` of a config: a name, a name with a scope, or a class."""

import difflib
from collections.abc import Callable, Iterable

from mmengine.registry import Registry


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
