"""IR-Net binary neural networks as an MMPretrain plugin.

Importing this package registers its layers, backbones, hooks and data sets, so
that a config needs ``custom_imports = dict(imports=['mmirnet'])`` and no more.
Without MMEngine nothing is registered: packed models still run.
"""

from importlib.util import find_spec

__version__ = '0.1.0'

if find_spec('mmengine'):
    from . import compat

    compat.apply()

    from . import datasets, engine, models  # noqa: F401
