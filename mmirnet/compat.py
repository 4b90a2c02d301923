"""Repairs of the stack below, each with the version that makes it unneeded.

Applied by ``import mmirnet``; none changes what a working installation does.
"""

import warnings
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError

REQUIRED = {
    'mmengine': ('0.10', '1'),
    'mmcv': ('2.0.1', '2.4'),
    'mmpretrain': ('1.2', '2'),
}
_INSTALL = {
    'mmengine': 'pip install mmengine',
    'mmcv': "pip install 'mmirnet[lite]' (or mmcv with compiled operators)",
    'mmpretrain': 'pip install mmpretrain',
}


def check_versions() -> None:
    """Raise an ImportError of one line if part of OpenMMLab is missing or unfit."""
    for name, (low, high) in REQUIRED.items():
        wanted = f'{name}>={low},<{high}'
        if find_spec(name) is None:
            raise ImportError(
                f'mmirnet needs {wanted}, which is not installed: {_INSTALL[name]}'
            )
        # mmpretrain asserts what it needs of the others while it is imported, so
        # the others come first.
        version = __import__(name).__version__
        from mmengine.utils import digit_version

        if not digit_version(low) <= digit_version(version) < digit_version(high):
            raise ImportError(
                f'mmirnet needs {wanted}, found {version}: {_INSTALL[name]}'
            )


def quiet_imports() -> None:
    """Silence two warnings that every import would print and nobody can act on.

    mmcv-lite misses an operator that classification never uses (2.2.0 asks for it
    at import); MMEngine imports pkg_resources (0.10.7), which is why mmirnet asks
    for a setuptools that still has it.
    """
    warnings.filterwarnings(
        'ignore', message='Fail to import ``MultiScaleDeformableAttention``'
    )
    warnings.filterwarnings('ignore', message='pkg_resources is deprecated')


def _history_method(owner: type, name: str):
    """The one getattr that MMEngine's checkpoints need."""
    from mmengine.logging import HistoryBuffer

    if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise UnpicklingError(f'refused to load getattr({owner!r}, {name!r})')
    return getattr(owner, name)


def allow_mmengine_checkpoints() -> None:
    """Let ``torch.load(weights_only=True)`` read what MMEngine saves beside weights.

    A training checkpoint holds log histories: HistoryBuffer, numpy arrays and
    bound methods of HistoryBuffer, which torch >= 2.6 refuses, so that resuming
    fails. Exactly these are allowed. Unneeded once MMEngine saves plain data (not
    in 0.10.7).
    """
    import numpy as np
    import torch
    from mmengine.logging import HistoryBuffer

    try:
        from numpy._core.multiarray import _reconstruct, scalar
    except ImportError:  # numpy < 2
        from numpy.core.multiarray import _reconstruct, scalar
    dtypes = [type(np.dtype(t)) for t in ('f8', 'f4', 'i8', 'i4', 'u1', 'b1')]
    numpy_names = [
        (f, f'{m}.multiarray.{f.__name__}')
        for f in (_reconstruct, scalar)
        for m in ('numpy._core', 'numpy.core')
    ]
    torch.serialization.add_safe_globals(
        [
            HistoryBuffer,
            np.ndarray,
            np.dtype,
            *dtypes,
            *numpy_names,
            (_history_method, 'builtins.getattr'),
        ]
    )


def find_our_configs() -> None:
    """Make ``_base_ = 'mmirnet::...'`` work, from wheels and editable installs.

    MMEngine takes configs from a fixed list of packages, whose modules it then
    seeks in a registry of that package's name; ours are in MMPretrain's. Unneeded
    once MMEngine takes any package and its scope (not in 0.10.7).
    """
    from mmengine.config import Config

    original = Config._get_cfg_path
    configs = Path(__file__).parent / '.mim' / 'configs'

    def get_cfg_path(cfg_path: str, filename: str) -> tuple[str, str | None]:
        package, _, name = cfg_path.partition('::')
        if package != 'mmirnet' or not name:
            return original(cfg_path, filename)
        if not (configs / name).is_file():
            raise FileNotFoundError(f'{filename}: mmirnet has no config {name}')
        return str(configs / name), 'mmpretrain'

    Config._get_cfg_path = staticmethod(get_cfg_path)


def apply() -> None:
    """Check the versions, then make all repairs."""
    quiet_imports()
    check_versions()
    allow_mmengine_checkpoints()
    find_our_configs()
