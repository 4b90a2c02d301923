"""What a ``type`` of a config stands for: a name, a name with a scope, or a class."""

import difflib
from collections.abc import Callable, Iterable

from mmengine.registry import Registry


def find_class(
    registry: Registry, kind: str | Callable, scope: str | None = None
) -> Callable | None:
    """The class, or function, that MMEngine would build.

    Args:
        registry (Registry): One of ``mmengine.registry``.
        kind (str | Callable): The value of ``type``.
        scope (str | None): The config's ``default_scope``; None for the present one.

    Returns:
        Callable | None: None if nothing of this name is registered.

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
        except RuntimeError:  # what newer versions raise in place of None
            return None


def registered_names(registry: Registry, scope: str | None = None) -> list[str]:
    """All names that :func:`find_class` finds without a scope of their own."""
    names = []
    with registry.switch_scope_and_registry(scope) as found:
        while found is not None:
            names += found.module_dict
            found = found.parent
    return names


def nearest(name: str, names: Iterable[str], likeness: float = 0.6) -> str | None:
    """The name that was probably meant, whatever its capitals.

    Args:
        name (str): What was written.
        names (Iterable[str]): What could have been.
        likeness (float): How like they have to be, 0 to 1; see
            ``difflib.get_close_matches``.

    Returns:
        str | None: None if there is none like it.

    Example:
        >>> nearest('IRconv2D', ['Conv2d', 'IRConv2d'])
        'IRConv2d'
    """
    by_lower = {other.lower(): other for other in names}
    near = difflib.get_close_matches(name.lower(), by_lower, 1, likeness)
    return by_lower[near[0]] if near else None
