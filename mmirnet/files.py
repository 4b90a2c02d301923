"""Atomic writes, checks and locks of files. Needs only the standard library."""

import contextlib
import errno
import hashlib
import os
import platform
import re
import time
import uuid
from pathlib import Path
from typing import BinaryIO, TextIO

from .errors import ConfigError

_CHUNK = 1 << 20
_WINDOWS = os.name == 'nt'
_IDLE = 600
_DAY = 24 * 3600
_TEMPORARY = re.compile(r'\..+\.\w{8}-(?P<pid>\d+)-(?P<host>\w*)\.writing')
#: Names of temporary files in earlier versions, without process and host.
_OLD_TEMPORARY = re.compile(r'\.(.+\.pth|last_checkpoint)\.[a-z0-9_]{8}')
_being_written: set[str] = set()


def is_intact(path: Path, size: int, digest: str) -> bool:
    """Whether a file is there, with this length in bytes and this SHA-256."""
    if not path.is_file() or path.stat().st_size != size:
        return False
    with path.open('rb') as f:
        return sha256_of(f, size).hexdigest() == digest


def sha256_of(f: BinaryIO, size: int) -> 'hashlib._Hash':
    """SHA-256 of the next bytes of a file, to be read or updated further."""
    sha = hashlib.sha256()
    while size > 0 and (block := f.read(min(_CHUNK, size))):
        sha.update(block)
        size -= len(block)
    return sha


def write_atomic(path: str | os.PathLike, *data: bytes | memoryview) -> None:
    """Writes a file atomically.

    Writes to a temporary file, fsyncs it, then renames it.

    Args:
        path (str | os.PathLike): The file.
        *data (bytes | memoryview): Content of the file, in parts.

    Raises:
        OSError: If the disk is full or the folder is not writable. An existing file
            is left unchanged.
    """
    path = Path(path)
    temporary = path.with_name(_temporary_name(path.name))
    _being_written.add(temporary.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, 'xb') as f:
            f.writelines(data)
            f.flush()
            os.fsync(f.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as e:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if not isinstance(e, OSError):
            raise
        raise OSError(
            e.errno, f'could not write {path}: {e.strerror}; earlier files are intact'
        ) from e
    finally:
        _being_written.discard(temporary.name)
    _sync_folder(path.parent)


def _temporary_name(name: str) -> str:
    """Name of a temporary file in the same folder, with process and host."""
    return f'.{name}.{uuid.uuid4().hex[:8]}-{os.getpid()}-{_host()}.writing'


def _host() -> str:
    """Name of this machine, usable in file names."""
    return re.sub(r'[^0-9A-Za-z]', '_', platform.node())[:48]


def _sync_folder(folder: Path) -> None:
    """Makes a rename durable, where the system supports it."""
    if _WINDOWS:  # folders cannot be opened
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        # Some network file systems refuse; the content is already on the disk.
        with contextlib.suppress(OSError):
            os.fsync(number)
    finally:
        os.close(number)


def remove_stale_temporaries(folder: str | os.PathLike) -> list[str]:
    """Removes temporary files that killed processes left in a folder.

    A file is removed if the process in its name has ended. If that process ran on
    another machine, the file is removed ten minutes after the last write. After a day
    the file is removed in any case, because process ids are reused.

    Args:
        folder (str | os.PathLike): Folder in which :func:`write_atomic` was used.

    Returns:
        list[str]: Names of the removed files.
    """
    removed = []
    for path in Path(folder).glob('.*'):
        # Another process may remove the file first, or own it.
        with contextlib.suppress(OSError):
            if _is_stale(path):
                path.unlink()
                removed.append(path.name)
    return removed


def _is_stale(path: Path) -> bool:
    age = time.time() - path.stat().st_mtime
    if found := _TEMPORARY.fullmatch(path.name):
        number, host = int(found['pid']), found['host']
        if host != _host() or _WINDOWS:
            return age > _IDLE
        if number == os.getpid():
            return path.name not in _being_written
        return not _is_running(number) or age > _DAY
    return age > _IDLE and _OLD_TEMPORARY.fullmatch(path.name) is not None


def _is_running(number: int) -> bool:
    """Whether a process with this id exists, of any user."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def check_writable(path: str | os.PathLike, *sources: str | os.PathLike | None) -> None:
    """Checks, before a long computation, that its result can be written.

    Args:
        path (str | os.PathLike): File for the result. Its folder is created.
        *sources (str | os.PathLike, optional): Files that the result is made from.

    Raises:
        ConfigError: If the result would overwrite a source.
        OSError: If the file cannot be written.
    """
    path = Path(path)
    for source in filter(None, sources):
        if path.exists() and os.path.exists(source) and path.samefile(source):
            raise ConfigError(f'{path} is read here, and the result would replace it')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.exists()
        with path.open('ab'):
            pass
    except OSError as e:
        raise OSError(e.errno, f'cannot write {path}: {e.strerror}') from e
    if new:
        path.unlink(missing_ok=True)


def lock_folder(folder: str | os.PathLike) -> TextIO | None:
    """Locks a folder for this process until the returned file is closed.

    The system releases the lock when the process ends, for any reason. The file
    ``run.lock`` names the process that holds it.

    Args:
        folder (str | os.PathLike): The folder.

    Returns:
        TextIO | None: The lock, or None if the system or the file system has no locks.

    Raises:
        BlockingIOError: If another process holds the lock; names that process.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    file = open(Path(folder) / 'run.lock', 'a+')  # noqa: SIM115
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        file.seek(0)
        holder = file.read().strip() or 'another process'
        file.close()
        if e.errno not in (errno.EACCES, errno.EAGAIN):
            return None
        raise BlockingIOError(
            e.errno,
            f'another run, {holder}, is training in {folder}: give this one '
            'another --work-dir',
        ) from e
    file.truncate(0)
    file.write(f'process {os.getpid()} on {platform.node()}')
    file.flush()
    return file
