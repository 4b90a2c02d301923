"""IR-Net binary neural networks as a plugin for MMPretrain.

Importing this package registers its layers, backbones, hooks, data sets and trained
models. A config only needs ``custom_imports = dict(imports=['mmirnet'])``. Without
MMEngine nothing is registered, but packed models can be run.
"""

from importlib.util import find_spec
from typing import Any

__version__ = '0.1.0'

if find_spec('mmengine'):
    from . import compat

    compat.apply()

    from . import datasets, engine, models  # noqa: F401
    from .packed import latent  # noqa: F401
    from .zoo import hub  # noqa: F401


def __getattr__(name: str) -> Any:
    if name in ('get_model', 'list_models'):
        from . import zoo

        return getattr(zoo, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
