"""Atomic checkpoints with a checksum.

A checkpoint is written to a temporary file, fsynced, then renamed. It ends with the
SHA-256 of its bytes, stored as the comment of the zip archive, so damage is detected
before the file is read. torch and all zip tools can read the file. Checkpoints of other
programs are checked with the checksums of the zip format.
"""

import contextlib
import hashlib
import logging
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.logging import print_log
from mmengine.runner.checkpoint import CheckpointLoader
from mmengine.utils import apply_to
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint

from ..errors import CheckpointError, first_line
from ..files import sha256_of, write_atomic
from .histories import restore

_MARK = b'mmirnet-sha256:'
_COMMENT = len(_MARK) + 64
#: Names of best and published checkpoints, which have no state of a run.
_NO_STATE = re.compile(r'^best_|-[0-9a-f]{8}\.pth$')


def sealed(archive: bytes) -> bytes:
    """Adds the digest of a zip archive as its comment.

    Args:
        archive (bytes): Output of torch.save, an archive without a comment.

    Returns:
        bytes: The archive with the comment, 79 bytes longer.
    """
    digest = hashlib.sha256(archive).hexdigest().encode()
    # The archive ends with the length of its comment.
    return archive[:-2] + _COMMENT.to_bytes(2, 'little') + _MARK + digest


class AtomicFileBackend(LocalBackend):
    """MMEngine's backend for local files, with atomic writes and digests.

    ``backend_args=dict(backend='whole')`` of a checkpoint hook selects it.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Writes bytes; adds the digest to the output of torch.save."""
        is_archive = obj[:2] == b'PK' and obj[-22:-18] == b'PK\x05\x06'
        if is_archive and (unknown := get_unsafe_globals_in_checkpoint(BytesIO(obj))):
            raise CheckpointError(
                f'{filepath} is not written, as it could not be loaded: it would '
                f'contain {", ".join(sorted(unknown))}, which is not plain data'
            )
        write_atomic(filepath, sealed(obj) if is_archive else obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Writes text."""
        write_atomic(filepath, obj.encode(encoding))


register_backend('whole', AtomicFileBackend, force=True)


def check_intact(path: str | os.PathLike) -> None:
    """Checks that a checkpoint is not damaged.

    Args:
        path (str | os.PathLike): A checkpoint of this package, or another torch.save
            archive. Files in torch's old format have no checksums and pass.

    Raises:
        ValueError: If bytes are missing or changed; names the file.
    """
    size = os.path.getsize(path)
    with open(path, 'rb') as f:
        magic = f.read(2)
        f.seek(max(size - _COMMENT, 0))
        comment = f.read()
        if comment.startswith(_MARK):
            f.seek(0)
            wanted = comment[len(_MARK) :].decode('latin1')
            if _digest(f, size - _COMMENT - 2) != wanted:
                raise CheckpointError(f'{path} is damaged: its SHA-256 does not match')
            return
    if magic != b'PK':
        return
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except Exception as e:  # zipfile raises many kinds of errors on damaged headers
        raise CheckpointError(f'{path} is damaged or cut short: {e}') from e
    if bad is not None:
        raise CheckpointError(
            f'{path} is damaged: the checksum of {bad} does not match'
        )


def _digest(f, size: int) -> str:
    """Computes the SHA-256 of an archive as it was without the comment."""
    sha = sha256_of(f, size)
    sha.update(b'\0\0')
    return sha.hexdigest()


#: Readers of other kinds of files, by suffix. Packed files (``.safetensors``) give
#: latent weights, see :mod:`mmirnet.packed.latent`.
FILE_READERS: dict[str, Callable[[str, Any], dict]] = {}


@CheckpointLoader.register_scheme(prefixes='', force=True)
def load_checkpoint_file(filename: str, map_location=None) -> dict:
    """Loads a checkpoint file that is intact and contains only data.

    This is MMEngine's loader for paths. Resuming, ``load_from``, tests and
    ``Pretrained`` weights all use it. :data:`FILE_READERS` reads other kinds of files.

    Args:
        filename (str): Path of the file.
        map_location: Argument of ``torch.load``.

    Returns:
        dict: The checkpoint.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is damaged, contains objects that could run code, or is
            a folder.
    """
    path = os.path.expanduser(filename)
    if os.path.isdir(path):
        raise CheckpointError(
            f'checkpoint {filename} is a folder: name a checkpoint in it'
        )
    if not os.path.isfile(path):
        raise FileNotFoundError(f'checkpoint {filename}: there is no such file')
    if reader := FILE_READERS.get(os.path.splitext(path)[1]):
        return reader(path, map_location)
    check_intact(path)
    return read_checkpoint(path, map_location)


def read_checkpoint(path: str, map_location=None) -> dict:
    """Loads a checkpoint file that is known to be intact.

    Args:
        path (str): Path of the file.
        map_location: Argument of ``torch.load``.

    Returns:
        dict: The checkpoint, which contains only data.

    Raises:
        ValueError: If the file cannot be read, or contains objects that could run code.
    """
    if kind := _another_format(path):
        raise CheckpointError(
            f'checkpoint {path} is {kind}, which holds a network and not the weights '
            'of one here: give a .pth file, or a packed .safetensors'
        )
    try:
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as e:
        # torch's own message advises to run the code in the file.
        code = re.search(r'GLOBAL (\S+)', str(e))
        reason = (
            f'it holds more than weights and logs, an object of {code[1]}'
            if code
            else 'it is damaged, or no checkpoint'
        )
        raise CheckpointError(f'checkpoint {path} is refused: {reason}') from e
    except EOFError as e:
        raise CheckpointError(f'checkpoint {path} is empty or cut short') from e
    except Exception as e:  # damaged files of the old format raise all kinds of errors
        reason = first_line(e)
        raise CheckpointError(f'checkpoint {path} cannot be read: {reason}') from e
    meta = checkpoint.get('meta') if isinstance(checkpoint, dict) else None
    if isinstance(meta, dict):
        meta.pop('config', None)  # MMEngine would execute this text as Python
        restore(checkpoint)
    return checkpoint


def _another_format(path: str) -> str | None:
    """Describes a file of another format that is often mistaken for a checkpoint."""
    if path.lower().endswith('.onnx'):
        return 'an ONNX model'
    if zipfile.is_zipfile(path):
        with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
            if any(n.endswith('/constants.pkl') for n in archive.namelist()):
                return 'a TorchScript model'
    return None


def on_main_process(function: Callable, *args):
    """Calls a function on the main process and returns its result on all processes.

    An exception is raised on all processes, so that none of them waits for the others.
    """
    outcome = [None]
    if is_main_process():
        try:
            outcome = [(function(*args), None)]
        except Exception as e:
            outcome = [(None, e)]
    broadcast_object_list(outcome)
    result, error = outcome[0]
    if error is not None:
        raise error
    return result


@contextlib.contextmanager
def handed_over(path: str, checkpoint: dict | None):
    """Passes a checkpoint that is in memory to the next load of its file.

    A run checks its checkpoint before it starts. MMEngine then loads it by path.

    Args:
        path (str): File or URL, as the runner knows it.
        checkpoint (dict | None): Content of the file, on the CPU. It is released after
            the first load. None if nothing is loaded.

    Example:
        >>> with handed_over('a.pth', {'state_dict': {}, 'meta': {'epoch': 3}}):
        ...     CheckpointLoader.load_checkpoint('a.pth', logger='silent')['meta']
        {'epoch': 3}
    """
    if checkpoint is None:
        yield
        return
    held = [checkpoint]

    def load_from_memory(filename: str, map_location=None) -> dict:
        if not held or filename != path:
            return former(filename, map_location)
        content = held.pop()
        # Weights move to the model's device when they are loaded, so a map_location
        # that is a function does not apply here.
        if isinstance(map_location, str | torch.device):
            for key in content.keys() - {'state_dict'}:
                content[key] = apply_to(
                    content[key],
                    lambda x: isinstance(x, Tensor),
                    lambda x: x.to(map_location),
                )
        return content

    former = CheckpointLoader._get_checkpoint_loader(path)
    scheme = re.escape(path)
    CheckpointLoader.register_scheme(scheme, load_from_memory, force=True)
    try:
        yield
    finally:
        CheckpointLoader._schemes.pop(scheme, None)


def find_intact_checkpoint(
    work_dir: str | os.PathLike, out_dir: str | None = None, template: str = ''
) -> str | None:
    """Finds the checkpoint to resume from: the newest intact one.

    Args:
        work_dir (str | os.PathLike): Folder of a run. The file that ``last_checkpoint``
            names comes first, then all checkpoints by age. Best and published
            checkpoints have no optimizer state and are skipped.
        out_dir (str | None): ``out_dir`` of the run's checkpoint hook, which writes to
            a subfolder with the name of the run.
        template (str): ``filename_tmpl`` of the hook.

    Returns:
        str | None: A path, or None if the folder has no checkpoint.

    Raises:
        ValueError: If there are checkpoints, but none is intact.
    """
    work_dir = Path(work_dir)
    folders = [work_dir]
    if out_dir:
        folders.append(Path(out_dir) / work_dir.resolve().name)
    patterns = {'*.pth', template.replace('{}', '*') or '*.pth'}
    files = {p for f in folders for pattern in patterns for p in f.glob(pattern)}
    files = [p for p in files if p.is_file() and not _NO_STATE.search(p.name)]
    files = sorted(files, key=lambda p: p.stat().st_mtime_ns, reverse=True)
    last = _last_checkpoint(work_dir, folders)
    if last is not None:
        files = [last, *(p for p in files if p != last)]
    for path in files:
        try:
            check_intact(path)
        except ValueError as e:
            print_log(f'{e}; resuming from an earlier one', 'current', logging.WARNING)
        else:
            if path != last:
                _warn_of_younger_progress(path, files)
            return str(path)
    if files:
        raise CheckpointError(f'all {len(files)} checkpoints in {work_dir} are damaged')
    return None


def _last_checkpoint(work_dir: Path, folders: list[Path]) -> Path | None:
    """Returns the file that ``last_checkpoint`` names, also if the folder was moved."""
    try:
        named = Path((work_dir / 'last_checkpoint').read_text().strip())
    except (OSError, UnicodeDecodeError):
        return None
    places = [*(folder / named.name for folder in folders), named]
    return next((p for p in places if p.is_file()), None)


def _warn_of_younger_progress(path: Path, files: list[Path]) -> None:
    """Warns of a checkpoint that is older in time but further in training."""
    mine = _iteration(path)
    for other in files[files.index(path) + 1 :]:
        if _iteration(other) > mine:
            print_log(
                f'{path} is the newest checkpoint by its time, but {other} is further '
                f'(iteration {_iteration(other)}, not {mine}): --resume {other} '
                'takes that one',
                'current',
                logging.WARNING,
            )
            return


def _iteration(path: Path) -> int:
    """Reads the iteration of a checkpoint without its weights."""
    try:
        content = torch.load(path, map_location='cpu', weights_only=True, mmap=True)
        return int(content['meta']['iter'])
    except Exception:  # damaged files raise all kinds of errors
        return -1
