"""Decoded images of a data set, read once by several processes and kept in a file.

The file lies beside the images. Its name has a digest of their paths, sizes and times,
of the transforms and of the decoder, and a checksum of its content. A file that does
not fit is replaced.
"""

import contextlib
import hashlib
import io
import itertools
import json
import os
import sys
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import mmcv
import numpy as np
import PIL
import torch
from mmengine.logging import print_log
from mmengine.utils import ProgressBar
from torch.utils.data import DataLoader, Dataset

from ..errors import ConfigError, DataError, first_line
from ..files import remove_stale_temporaries, write_atomic
from ..images import opencv

#: Changes when the same files and transforms would give another array.
_FORMAT = 1
_WAY_OUT = 'or leave InMemory out'
# Below this number, processes take longer to start than to read.
_FEW = 500
_BLOCK = 32
_MOST_PROCESSES = 16


def decoded_images(
    infos: Sequence[dict],
    read: Callable[[dict], dict | None],
    transforms: Sequence[dict],
    name: str,
) -> np.ndarray:
    """Returns the images of a data set, from the cache if there is one.

    Args:
        infos (Sequence[dict]): Samples, with ``img_path`` or ``img``. Images that are
            no files are not cached.
        read (Callable): Deterministic transforms that read and prepare a sample.
        transforms (Sequence[dict]): Config of these transforms.
        name (str): Name of the data set for error messages.

    Returns:
        np.ndarray: (N, C, H, W).

    Raises:
        ConfigError: If the images differ in size; names a file that does.
        OSError: If a file cannot be read.
    """
    files = _files(infos, transforms)
    if files is None:
        return _read_all(infos, read, name)
    key, digest, beside = files
    folders = beside, _cache_folder(beside)
    for folder in folders:
        if (images := _load(folder, key, digest, len(infos))) is not None:
            return images
    for folder in folders:
        if not _is_writable(folder):
            continue
        with _locked(folder):
            # Another run may have written it in the meantime.
            images = _load(folder, key, digest, len(infos))
            if images is None:
                images = _read_all(infos, read, name)
                _save(folder, key, digest, images)
        return images
    _log(f'neither {folders[0]} nor {folders[1]} is writable: nothing is kept there')
    return _read_all(infos, read, name)


def _files(
    infos: Sequence[dict], transforms: Sequence[dict]
) -> tuple[str, str, Path] | None:
    """Key, digest and common folder of files; None for images that are no files."""
    paths = [info.get('img_path') for info in infos]
    try:
        facts = [os.stat(path) for path in paths]
        folder = Path(os.path.commonpath([os.path.dirname(p) or '.' for p in paths]))
    except (TypeError, ValueError, OSError):  # not on a disk, or missing
        return None
    names = [os.path.relpath(path, folder) for path in paths]
    versions = [getattr(m, '__version__', '') for m in (mmcv, opencv(), PIL)]
    made = [_FORMAT, transforms, versions, mmcv.image.io.imread_backend]
    key = _sha([names, made])[:12]
    return key, _sha([(f.st_size, f.st_mtime_ns) for f in facts])[:12], folder


def _sha(content: object) -> str:
    text = json.dumps(content, default=repr, sort_keys=True)
    return hashlib.sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()


def _cache_folder(folder: Path) -> Path:
    """Folder for the cache of images in a folder that is read-only."""
    base = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    return Path(base) / 'mmirnet' / _sha(str(folder.resolve()))[:12]


def _is_writable(folder: Path) -> bool:
    """Whether a file can be created, which os.access does not tell of every disk."""
    probe = folder / f'.mmirnet-{uuid.uuid4().hex}'
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Waits until no other process reads images for this folder."""
    try:
        import fcntl
    except ImportError:  # Windows: two runs may read twice, and write the same
        yield
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        # Some network file systems have no locks.
        with contextlib.suppress(OSError):
            fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


def _load(folder: Path, key: str, digest: str, number: int) -> np.ndarray | None:
    """Reads a cache, or None if there is none that is intact."""
    for path in folder.glob(f'.mmirnet-{key}-{digest}-*.npy'):
        try:
            images = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            continue
        if len(images) == number and path.name.endswith(f'-{_checksum(images)}.npy'):
            _log(f'{_what(images)} from {path}')
            return images
        _log(f'{path} is damaged: the images are read again')
    return None


def _save(folder: Path, key: str, digest: str, images: np.ndarray) -> None:
    """Writes a cache atomically and removes those that no longer fit."""
    path = folder / f'.mmirnet-{key}-{digest}-{_checksum(images)}.npy'
    header = io.BytesIO()
    fields = np.lib.format.header_data_from_array_1_0(images)
    np.lib.format.write_array_header_1_0(header, fields)
    try:
        write_atomic(path, header.getvalue(), images.data)
    except OSError as error:
        _log(f'{first_line(error)}; the images are read again next time')
        return
    remove_stale_temporaries(folder)
    for other in folder.glob(f'.mmirnet-{key}-*.npy'):
        if other != path:
            with contextlib.suppress(OSError):
                other.unlink()
    _log(f'{_what(images)} kept in {path}')


def _checksum(images: np.ndarray) -> str:
    return f'{zlib.crc32(images.data):08x}'


def _what(images: np.ndarray) -> str:
    height, width = images.shape[2:]
    return f'{len(images)} images of {width}x{height} ({images.nbytes / 1e6:.0f} MB)'


def _log(text: str) -> None:
    print_log(f'InMemory: {text}', logger='current')


class _Reader(Dataset):
    """Reads one sample. An error is returned, so that it arrives in one line."""

    def __init__(self, infos: Sequence[dict], read: Callable) -> None:
        self.infos, self.read = infos, read

    def __len__(self) -> int:
        return len(self.infos)

    def __getitem__(self, index: int) -> np.ndarray | Exception | None:
        try:
            item = self.read(dict(self.infos[index]))
        except Exception as error:
            return error
        if item is None:
            return DataError(
                f'InMemory cannot leave out {_of(self.infos, index)}, which cannot be '
                f'read: remove it from the data, {_WAY_OUT}'
            )
        return item.get('img')


def _read_all(
    infos: Sequence[dict], read: Callable[[dict], dict | None], name: str
) -> np.ndarray:
    """Reads all images with a progress bar and several processes."""
    if not len(infos):
        raise ConfigError(f'InMemory has nothing to keep: {name} is empty')
    started, files = time.perf_counter(), 'img_path' in infos[0]
    loader = DataLoader(
        _Reader(infos, read),
        batch_size=_BLOCK,
        num_workers=_processes() if files and len(infos) >= _FEW else 0,
        collate_fn=list,
        # The random numbers of the run stay as they are.
        generator=torch.Generator(),
    )
    bar = ProgressBar(len(infos), file=sys.stderr) if files and _is_watched() else None
    images = None
    for i, image in enumerate(itertools.chain.from_iterable(loader)):
        image = _checked(image, name)
        if images is None:
            shape = (len(infos), *image.shape[2:], *image.shape[:2])
            images = np.empty(shape, image.dtype)
        height, width = images.shape[2:]
        if image.shape != (height, width, images.shape[1]):
            raise ConfigError(
                f'InMemory needs images of one size, got {width}x{height} of '
                f'{images.shape[1]} channels ({_of(infos, 0)}) and '
                f'{image.shape[1]}x{image.shape[0]} of {image.shape[2]} '
                f'({_of(infos, i)}) from {name}: let the pipeline resize with '
                f"dict(type='Resize', scale=(W, H)), {_WAY_OUT}"
            )
        images[i] = image.transpose(2, 0, 1)
        if bar:
            bar.update()
    if files:
        seconds = time.perf_counter() - started
        rate = len(infos) / seconds
        _log(f'read {len(infos)} images in {seconds:.1f} s ({rate:.0f} images/s)')
    return images


def _checked(image: np.ndarray | Exception | None, name: str) -> np.ndarray:
    if isinstance(image, Exception):
        raise image
    if image is None:
        raise ConfigError(
            f'InMemory found no images in {name}, which does not read them itself: let '
            f"the pipeline start with dict(type='LoadImageFromFile'), {_WAY_OUT}"
        )
    return np.atleast_3d(image)


def _of(infos: Sequence[dict], index: int) -> str:
    return infos[index].get('img_path') or f'image {index}'


def _is_watched() -> bool:
    return sys.stderr.isatty()


def _processes() -> int:
    available = getattr(os, 'sched_getaffinity', None)
    number = len(available(0)) if available else os.cpu_count() or 1
    return min(number, _MOST_PROCESSES)
