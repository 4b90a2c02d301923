"""Repairs of the stack below, each with the version that makes it unneeded.

Applied by ``import mmirnet``; none changes what a working installation does.
"""

import functools
import warnings
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError

from .errors import MissingPackageError

#: What is imported, from this version to below that; pyproject.toml's extras ask for
#: the same. MMEngine 0.10.5 fails beside the package transformers.
REQUIRED = {
    'mmengine': ('0.10.6', '1'),
    'mmcv': ('2.0.1', '2.4'),
    'mmpretrain': ('1.2', '2'),
}


def check_versions() -> None:
    """Check that OpenMMLab, or its maintained forks, is there.

    Raises:
        MissingPackageError: If a package is missing or unfit; one line with the
            command that installs it.
    """
    wanted = {name: f'{name}>={low},<{high}' for name, (low, high) in REQUIRED.items()}
    if missing := [name for name in wanted if find_spec(name) is None]:
        raise MissingPackageError(
            f'mmirnet needs {", ".join(wanted[name] for name in missing)}, not '
            f'installed: {_pip(*missing)}'
        )
    for name, (low, high) in REQUIRED.items():
        # mmpretrain asserts what it needs of the others while it is imported, so
        # the others come first.
        version = __import__(name).__version__
        from mmengine.utils import digit_version

        if not digit_version(low) <= digit_version(version) < digit_version(high):
            raise MissingPackageError(
                f'mmirnet needs {wanted[name]}, found {version}: {_pip(name)}'
            )


def _pip(*names: str) -> str:
    """The command that installs packages of the family that is there."""
    prefix = _prefix()
    packages = []
    for name in names:
        low, high = REQUIRED[name]
        # mmcv itself has to be compiled, and classification needs no more.
        name = 'mmcv-lite' if name == 'mmcv' and not prefix else f'{prefix}{name}'
        packages.append(f"'{name}>={low},<{high}'")
    return f'pip install {" ".join(packages)}'


def _prefix() -> str:
    """What the distributions' names begin with: the forks' with ``onedl-``."""
    for name in REQUIRED:
        try:
            metadata.version(f'onedl-{name}')
        except metadata.PackageNotFoundError:
            continue
        return 'onedl-'
    return ''


def quiet_warnings() -> None:
    """Silence warnings of every run that nobody can act on.

    - mmcv-lite misses an operator that classification never uses (2.2.0 asks for it
      at import).
    - MMEngine imports pkg_resources (0.10.7), which is why mmirnet asks for a
      setuptools that still has it.
    - Python 3.12 and later find fault with two patterns of MMPretrain (1.2.0).
    - MMEngine's wrapper for distributed training takes ``broadcast_buffers``, for
      which torch 2.15 has a new name with another meaning.
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
    """The one getattr that MMEngine's checkpoints need."""
    from mmengine.logging import HistoryBuffer

    if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise UnpicklingError(f'refused to load getattr({owner!r}, {name!r})')
    return getattr(owner, name)


def allow_mmengine_checkpoints() -> None:
    """Let ``torch.load(weights_only=True)`` read what MMEngine saves beside weights.

    A training checkpoint holds log histories: HistoryBuffer, numpy arrays and
    bound methods of HistoryBuffer, which torch >= 2.6 refuses, so that resuming
    fails. Exactly these are allowed; and where a config left dicts of its own kind
    in ``metainfo``, these become plain ones. Unneeded once MMEngine saves plain data
    (not in 0.10.7).
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


class _Hue(float):
    """A share of the colour circle that mmcv may multiply by 255."""

    def __mul__(self, steps: int) -> int:
        return int(float(self) * steps) % (steps + 1)


def shift_hues_either_way() -> None:
    """Let mmcv turn hues backwards on numpy 2.

    ``adjust_hue`` adds ``np.uint8(hue_factor * 255)``, which numpy 1 took modulo
    256 and numpy 2 refuses where the factor is negative: an OverflowError in every
    second ColorJitter. Unneeded from onedl-mmcv 2.3.6, which takes the remainder;
    needed by mmcv 2.0 to 2.2.
    """
    import mmcv

    original = mmcv.adjust_hue

    @functools.wraps(original)
    def adjust_hue(img, hue_factor, *args, **kwargs):
        return original(img, _Hue(hue_factor), *args, **kwargs)

    for module in (mmcv, mmcv.image, mmcv.image.photometric):
        module.adjust_hue = adjust_hue


def keep_compiled_code_apart() -> None:
    """Let no process run what ``torch.compile`` made for another vector length.

    The cache on disk does not know the CPU's instruction set. In a home folder that
    machines share, or with ATEN_CPU_CAPABILITY set, code for AVX-512 then runs with
    AVX2's vectors, and gives wrong numbers or ends the process. Unneeded once torch
    takes the instruction set into its key (not in 2.15).
    """
    import torch
    from torch.compiler import config

    capability = torch.backends.cpu.get_cpu_capability()
    if capability not in config.cache_key_tag.split():
        config.cache_key_tag = f'{config.cache_key_tag} {capability}'.strip()


def copy_datasets_apart() -> None:
    """Let ``get_subset`` copy a data set without what earlier copies remember.

    MMEngine's method has one dict for all calls (0.10.7), which names objects by their
    address. When one of them is gone, another at the same address is taken for it: a
    part of ``KFoldDataset`` then has a data set in place of its pipeline.
    """
    from mmengine.dataset import BaseDataset

    original = BaseDataset._copy_without_annotation

    def copy_without_annotation(self, memo: dict | None = None) -> BaseDataset:
        return original(self, {} if memo is None else memo)

    BaseDataset._copy_without_annotation = copy_without_annotation


def let_collate_fn_be_inherited() -> None:
    """Let a data loader that is inherited from another package name its collate_fn.

    MMEngine notes in every part of ``_base_ = 'PACKAGE::...'`` whose it is, and hands
    the note of ``collate_fn`` to the function, which does not take it (0.10.7).
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


def apply() -> None:
    """Check the versions, then make all repairs."""
    quiet_warnings()
    check_versions()
    allow_mmengine_checkpoints()
    find_our_configs()
    shift_hues_either_way()
    keep_compiled_code_apart()
    copy_datasets_apart()
    let_collate_fn_be_inherited()
