"""Files that are whole or not there. Needs the standard library alone."""

import os
import tempfile
from hashlib import sha256
from pathlib import Path

_CHUNK = 1 << 20


def is_whole(path: Path, size: int, digest: str) -> bool:
    """Whether a file is there, with this length in bytes and this SHA-256."""
    if not path.is_file() or path.stat().st_size != size:
        return False
    sha = sha256()
    with path.open('rb') as f:
        while block := f.read(_CHUNK):
            sha.update(block)
    return sha.hexdigest() == digest


def write_whole(path: str | os.PathLike, data: bytes) -> None:
    """Write a file so that at no moment a part of it stands under its name.

    Args:
        path (str | os.PathLike): The file.
        data (bytes): All of its content.

    Raises:
        OSError: If the disk is full or the folder cannot be written; what was
            there before is untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, temporary = tempfile.mkstemp(prefix=f'.{path.name}.', dir=path.parent)
    try:
        with os.fdopen(fd, 'wb') as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as e:
        Path(temporary).unlink(missing_ok=True)
        raise OSError(
            e.errno, f'could not write {path}: {e.strerror}; earlier files are intact'
        ) from e
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename, too, has to outlive a power cut
    finally:
        os.close(folder)


def check_writable(path: str | os.PathLike) -> None:
    """Refuses, before the work is done, a file that its result could not go to.

    Args:
        path (str | os.PathLike): The file; its folder is made.

    Raises:
        OSError: If it cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.exists()
        with path.open('ab'):
            pass
    except OSError as e:
        raise OSError(e.errno, f'cannot write {path}: {e.strerror}') from e
    if new:
        path.unlink(missing_ok=True)
