"""Checkpoints that are whole or not there at all.

A file is written beside its place, flushed to the disk and renamed. It ends with
the SHA-256 of its bytes, as the comment that a zip archive may have, so that damage
is found before anything is read; torch and every zip tool read it as before. Files
of others are checked by the checksums of the zip format.
"""

import hashlib
import os
import pickle
import zipfile
from pathlib import Path

import torch
from mmengine.fileio import LocalBackend, register_backend
from mmengine.logging import print_log
from mmengine.runner.checkpoint import CheckpointLoader

from ..errors import CheckpointError
from ..files import write_whole

_MARK = b'mmirnet-sha256:'
_COMMENT = len(_MARK) + 64
_CHUNK = 1 << 20


def sealed(archive: bytes) -> bytes:
    """A zip archive without a comment, with its digest as the comment.

    Args:
        archive (bytes): What torch.save wrote.

    Returns:
        bytes: The same archive, 79 bytes longer.
    """
    digest = hashlib.sha256(archive).hexdigest().encode()
    # The archive ends with the length of its comment.
    return archive[:-2] + _COMMENT.to_bytes(2, 'little') + _MARK + digest


class WholeFileBackend(LocalBackend):
    """MMEngine's local files, written whole, with digests on checkpoints.

    ``backend_args=dict(backend='whole')`` of a checkpoint hook chooses it.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes; a torch.save archive gets its digest."""
        is_archive = obj[:2] == b'PK' and obj[-22:-18] == b'PK\x05\x06'
        write_whole(filepath, sealed(obj) if is_archive else obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Write text."""
        write_whole(filepath, obj.encode(encoding))


register_backend('whole', WholeFileBackend, force=True)


def check_whole(path: str | os.PathLike) -> None:
    """Raise a ValueError that names the file if a checkpoint is damaged.

    Args:
        path (str | os.PathLike): A checkpoint, ours or another torch.save archive.
            Files in torch's old format have no checksums and pass.

    Raises:
        ValueError: If bytes are missing or changed.
    """
    size = os.path.getsize(path)
    with open(path, 'rb') as f:
        magic = f.read(2)
        f.seek(max(size - _COMMENT, 0))
        comment = f.read()
        if comment.startswith(_MARK):
            f.seek(0)
            if _digest(f, size - _COMMENT - 2) != comment[len(_MARK) :].decode(
                'latin1'
            ):
                raise CheckpointError(f'{path} is damaged: its SHA-256 does not match')
            return
    if magic != b'PK':
        return
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except Exception as e:  # zipfile raises many kinds on damaged headers
        raise CheckpointError(f'{path} is damaged or cut short: {e}') from e
    if bad is not None:
        raise CheckpointError(
            f'{path} is damaged: the checksum of {bad} does not match'
        )


def _digest(f, size: int) -> str:
    """SHA-256 of an archive's bytes as they were without the comment."""
    sha = hashlib.sha256()
    while size > 0:
        block = f.read(min(_CHUNK, size))
        sha.update(block)
        size -= len(block)
    sha.update(b'\0\0')
    return sha.hexdigest()


@CheckpointLoader.register_scheme(prefixes='', force=True)
def load_checkpoint_file(filename: str, map_location=None) -> dict:
    """Load a checkpoint file that is whole and holds nothing but data.

    MMEngine's loader for paths: resuming, ``load_from``, tests and ``Pretrained``
    weights all come through here. A packed file (``.safetensors``) gives latent
    weights, see :mod:`mmirnet.deploy.latent`.

    Args:
        filename (str): Path of the file.
        map_location: As for torch.load.

    Returns:
        dict: The checkpoint.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, or holds objects that could run code.
    """
    path = os.path.expanduser(filename)
    if not os.path.isfile(path):
        raise FileNotFoundError(f'checkpoint {filename}: there is no such file')
    if path.endswith('.safetensors'):
        # Not above: deploy builds on engine, and needs safetensors.
        from ..deploy.latent import load_packed_checkpoint

        return load_packed_checkpoint(path, map_location)
    check_whole(path)
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as e:
        raise CheckpointError(
            f'checkpoint {filename} is refused: it is damaged or holds more than '
            f'weights and logs ({str(e).strip().splitlines()[0]})'
        ) from e
    except Exception as e:  # damaged files of the old format raise anything
        raise CheckpointError(f'checkpoint {filename} cannot be read: {e}') from e


def find_whole_checkpoint(work_dir: str | os.PathLike) -> str | None:
    """The checkpoint to resume from: the newest one that is whole.

    Args:
        work_dir (str | os.PathLike): Folder of a run. The file ``last_checkpoint``
            comes first, then all checkpoints by age; the best ones hold no
            optimizer and are left out.

    Returns:
        str | None: A path, or None if the folder has no checkpoint.

    Raises:
        ValueError: If there are checkpoints and none is whole.
    """
    work_dir = Path(work_dir)
    files = sorted(
        (p for p in work_dir.glob('*.pth') if not p.name.startswith('best_')),
        key=lambda p: p.stat().st_mtime_ns,
        reverse=True,
    )
    pointer = work_dir / 'last_checkpoint'
    if pointer.is_file():
        last = work_dir / Path(pointer.read_text().strip()).name
        files = [p for p in files if p == last] + [p for p in files if p != last]
    for path in files:
        try:
            check_whole(path)
        except ValueError as e:
            print_log(f'{e}; resuming from an earlier one', 'current', level=30)
        else:
            return str(path)
    if files:
        raise CheckpointError(
            f'none of the {len(files)} checkpoints in {work_dir} is whole'
        )
    return None
