"""The former name of :mod:`mmirnet.packed` and :mod:`mmirnet.runtime`."""

import warnings
from typing import Any

from . import packed, runtime

_RENAMED = {'Engine': 'Session'}


def __getattr__(name: str) -> Any:
    new = _RENAMED.get(name, name)
    for module in (runtime, packed):
        if new in module.__all__:
            warnings.warn(
                f'mmirnet.deploy.{name} is now {module.__name__}.{new}',
                FutureWarning,
                stacklevel=2,
            )
            return getattr(module, new)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
