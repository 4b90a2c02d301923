"""Workarounds for faults of torch and OpenMMLab.

``import mmirnet`` applies them. Each docstring gives the version that no longer needs
the workaround. None of them changes the behaviour of a working installation.
"""

import functools
import json
import warnings
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError

from .errors import MissingPackageError

#: Required packages: lowest version, and first version that is not supported. The
#: extras in pyproject.toml are the same. MMEngine 0.10.5 fails with transformers.
REQUIRED = {
    'mmengine': ('0.10.6', '1'),
    'mmcv': ('2.0.1', '2.4'),
    'mmpretrain': ('1.2', '2'),
}


def check_versions() -> None:
    """Checks the versions of OpenMMLab's packages or of their maintained forks.

    Raises:
        MissingPackageError: If a package is missing or its version is not supported;
            the message has the command that installs it.
    """
    wanted = {name: f'{name}>={low},<{high}' for name, (low, high) in REQUIRED.items()}
    if missing := [name for name in wanted if find_spec(name) is None]:
        raise MissingPackageError(
            f'mmirnet needs {", ".join(wanted[name] for name in missing)}, not '
            f'installed: {_pip(*missing)}'
        )
    for name, (low, high) in REQUIRED.items():
        # mmpretrain asserts the versions of the others when it is imported, so the
        # others come first.
        version = __import__(name).__version__
        from mmengine.utils import digit_version

        if not digit_version(low) <= digit_version(version) < digit_version(high):
            raise MissingPackageError(
                f'mmirnet needs {wanted[name]}, found {version}: {_pip(name)}'
            )


def _pip(*names: str) -> str:
    """Command that installs packages of the installed family."""
    prefix = _prefix()
    packages = []
    for name in names:
        low, high = REQUIRED[name]
        # mmcv has to be compiled, and mmcv-lite is enough for classification.
        name = 'mmcv-lite' if name == 'mmcv' and not prefix else f'{prefix}{name}'
        packages.append(f"'{name}>={low},<{high}'")
    return f'pip install {" ".join(packages)}'


def _prefix() -> str:
    """Prefix of the distributions' names, ``onedl-`` for the forks."""
    for name in REQUIRED:
        try:
            metadata.version(f'onedl-{name}')
        except metadata.PackageNotFoundError:
            continue
        return 'onedl-'
    return ''


def quiet_warnings() -> None:
    """Silences warnings that appear in every run and that users cannot act on.

    - mmcv-lite lacks an operator that classification does not use (2.2.0 imports it).
    - MMEngine imports pkg_resources (0.10.7). For this reason mmirnet requires a
      setuptools that still contains it.
    - Python 3.12 and later warn about two patterns in MMPretrain (1.2.0).
    - MMEngine's wrapper for distributed training uses ``broadcast_buffers``. torch 2.15
      has a new name for it, with another meaning.
    """
    for message in (
        'Fail to import ``MultiScaleDeformableAttention``',
        'pkg_resources is deprecated',
        '`broadcast_buffers` is deprecated',
    ):
        warnings.filterwarnings('ignore', message=message)
    warnings.filterwarnings(
        'ignore', message='invalid escape sequence', module='.*mmpretrain.evaluation'
    )


def _history_method(owner: type, name: str):
    """Restricts getattr to the methods that MMEngine's checkpoints use."""
    from mmengine.logging import HistoryBuffer

    if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise UnpicklingError(f'refused to load getattr({owner!r}, {name!r})')
    return getattr(owner, name)


def allow_mmengine_checkpoints() -> None:
    """Lets ``torch.load(weights_only=True)`` read MMEngine's training checkpoints.

    A training checkpoint contains log histories: HistoryBuffer, numpy arrays and bound
    methods of HistoryBuffer. torch >= 2.6 refuses them, so resuming fails. Exactly
    these are allowed. A ConfigDict in ``metainfo`` becomes a dict. Not needed once
    MMEngine saves plain data (needed in 0.10.7).
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
            (dict, 'mmengine.config.config.ConfigDict'),
        ]
    )


def find_our_configs() -> None:
    """Makes ``_base_ = 'mmirnet::...'`` work in wheels and editable installs.

    MMEngine reads configs from a fixed list of packages and looks up their modules in
    a registry with the name of the package. The modules of mmirnet are in MMPretrain's
    registry. Not needed once MMEngine accepts any package and its scope (needed in
    0.10.7).
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


class _Hue(float):
    """A fraction of the colour circle that mmcv may multiply by 255."""

    def __mul__(self, steps: int) -> int:
        return int(float(self) * steps) % (steps + 1)


def shift_hues_either_way() -> None:
    """Lets mmcv shift hues by negative factors on numpy 2.

    ``adjust_hue`` adds ``np.uint8(hue_factor * 255)``. numpy 1 takes it modulo 256, and
    numpy 2 raises an OverflowError for negative factors, which is every second
    ColorJitter. Needed by mmcv 2.0 to 2.2, not from onedl-mmcv 2.3.6, which computes
    the remainder.
    """
    import mmcv

    original = mmcv.adjust_hue

    @functools.wraps(original)
    def adjust_hue(img, hue_factor, *args, **kwargs):
        return original(img, _Hue(hue_factor), *args, **kwargs)

    for module in (mmcv, mmcv.image, mmcv.image.photometric):
        module.adjust_hue = adjust_hue


def keep_compiled_code_apart() -> None:
    """Separates the cache of ``torch.compile`` by instruction set.

    The key of torch's cache on disk does not include the CPU's instruction set. If
    machines share a home folder, or if ATEN_CPU_CAPABILITY is set, code for AVX-512 may
    run with AVX2 vectors, which gives wrong results or a crash. Not needed once torch
    includes the instruction set in the key (needed in 2.15).
    """
    import torch
    from torch.compiler import config

    capability = torch.backends.cpu.get_cpu_capability()
    if capability not in config.cache_key_tag.split():
        config.cache_key_tag = f'{config.cache_key_tag} {capability}'.strip()


def copy_datasets_apart() -> None:
    """Gives each copy that ``get_subset`` makes a memo of its own.

    MMEngine's method shares one memo dict between all calls (0.10.7), and the memo
    identifies objects by address. If an object is freed, a new object at the same
    address is mistaken for it. A fold of ``KFoldDataset`` then has a data set in the
    place of its pipeline.
    """
    from mmengine.dataset import BaseDataset

    original = BaseDataset._copy_without_annotation

    def copy_without_annotation(self, memo: dict | None = None) -> BaseDataset:
        return original(self, {} if memo is None else memo)

    BaseDataset._copy_without_annotation = copy_without_annotation


def let_collate_fn_be_inherited() -> None:
    """Lets configs inherit a data loader with a collate_fn from another package.

    MMEngine adds ``_scope_`` to every dict of ``_base_ = 'PACKAGE::...'`` and passes
    that of ``collate_fn`` on to the function, which does not accept it (0.10.7).
    """
    from mmengine.runner import Runner

    original = Runner.build_dataloader

    @functools.wraps(original)
    def build_dataloader(dataloader, *args, **kwargs):
        if isinstance(dataloader, dict):
            collate = dataloader.get('collate_fn')
            if isinstance(collate, dict) and '_scope_' in collate:
                rest = {key: v for key, v in collate.items() if key != '_scope_'}
                dataloader = dict(dataloader.items(), collate_fn=rest)
        return original(dataloader, *args, **kwargs)

    Runner.build_dataloader = staticmethod(build_dataloader)


def format_configs_once() -> None:
    """Lets a config whose text has not changed be formatted once.

    MMEngine writes the config into every checkpoint and formats it for each anew, which
    takes a quarter of a second (0.10.7).
    """
    from mmengine.config import config

    original = config.FormatCode

    @functools.lru_cache(maxsize=4)
    def formatted(text: str, options: str) -> tuple[str, bool]:
        return original(text, **json.loads(options))

    @functools.wraps(original)
    def format_code(text: str, **options: dict | bool) -> tuple[str, bool]:
        return formatted(text, json.dumps(options))

    config.FormatCode = format_code


def apply() -> None:
    """Checks the versions, then applies all workarounds."""
    quiet_warnings()
    check_versions()
    allow_mmengine_checkpoints()
    find_our_configs()
    shift_hues_either_way()
    keep_compiled_code_apart()
    copy_datasets_apart()
    let_collate_fn_be_inherited()
    format_configs_once()
