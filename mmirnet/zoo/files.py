"""Files that are whole or not there."""

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


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file so that no other process ever sees a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, part = tempfile.mkstemp(prefix=f'.{path.name}.', dir=path.parent)
    try:
        with os.fdopen(fd, 'wb') as f:
            f.write(data)
        os.chmod(part, 0o644)
        os.replace(part, path)
    except OSError:
        Path(part).unlink(missing_ok=True)
        raise
