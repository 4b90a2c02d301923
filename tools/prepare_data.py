"""Unpacks archives of images into the folders that the configs use.

An archive holds NAME/SPLIT/CLASS/FILE, as cifar10.tar.xz and imagenette224.tar do.
Files that are there already, byte for byte, stay; the others are written.
"""

import argparse
import lzma
import os
import re
import sys
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ARCHIVES = (Path('data/cifar10.tar.xz'), Path('data/imagenette224.tar'))

#: Images of each split, by the folder in the archive.
IMAGES = {
    'cifar10': {'train': 50000, 'test': 10000},
    'imagenette224': {'train': 9469, 'val': 3925},
}


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'archives',
        nargs='*',
        type=Path,
        default=ARCHIVES,
        help='.tar, .tar.gz or .tar.xz files (default: '
        f'{" and ".join(map(str, ARCHIVES))})',
    )
    parser.add_argument(
        '--out', type=Path, default=Path('data'), help='folder to unpack into (data)'
    )
    return parser.parse_args()


class _Member(tarfile.TarInfo):
    """A file of an archive that ends with an end-of-archive block, or is refused."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> tarfile.TarInfo:
        # TarFile takes a bad header for the end of the archive.
        try:
            return super().fromtarfile(tar)
        except (tarfile.EmptyHeaderError, tarfile.TruncatedHeaderError) as error:
            raise tarfile.ReadError('it is truncated') from error
        except tarfile.InvalidHeaderError as error:
            raise tarfile.ReadError(f'it is damaged: {error}') from error


def _open(archive: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(archive, tarinfo=_Member)
    except tarfile.ReadError as error:
        raise tarfile.ReadError(
            'it is no tar archive, or damaged at its start'
        ) from error


def files(archive: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Iterates over the files of an archive.

    Yields:
        tuple[PurePosixPath, bytes]: Relative path of four parts, and content.

    Raises:
        OSError: If the archive is missing, damaged, or would write elsewhere.
    """
    try:
        with _open(archive) as tar:
            for member in tar:
                if member.isdir():
                    continue
                path = PurePosixPath(member.name)
                # No links and no devices: what they point to may lie anywhere.
                if not member.isreg() or not _is_plain(path):
                    raise OSError(
                        f'{archive} is refused: {member.name!r} is not a plain file '
                        'NAME/SPLIT/CLASS/FILE'
                    )
                yield path, tar.extractfile(member).read()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f'there is no archive {archive}: put it there, or give its path'
        ) from error
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError) as error:
        raise OSError(f'{archive} cannot be unpacked: {error}') from error


def _is_plain(path: PurePosixPath) -> bool:
    # A backslash or a colon would mean something else on Windows.
    parts = [part for part in path.parts if re.fullmatch(r'[^\\:]+', part)]
    return len(parts) == len(path.parts) == 4 and not {'..', '/'} & set(parts)


def place(target: Path, data: bytes) -> bool:
    """Writes a file atomically, unless it is there; returns whether it wrote."""
    if target.is_file() and target.read_bytes() == data:
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f'.{target.name}.{os.getpid()}.partial')
    try:
        partial.write_bytes(data)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return True


def prepare(archive: Path, out: Path) -> None:
    """Unpacks an archive and says what it did.

    Raises:
        OSError: If the archive is refused, damaged or incomplete.
    """
    found, written = Counter(), 0
    for path, data in files(archive):
        found[path.parts[:2]] += 1
        written += place(out / path, data)
    if not found:
        raise OSError(f'{archive} holds no files')
    for name in sorted({name for name, _ in found}):
        splits = {split: n for (top, split), n in sorted(found.items()) if top == name}
        for split, wanted in IMAGES.get(name, {}).items():
            if splits.get(split, 0) != wanted:
                raise OSError(
                    f'{archive} is incomplete: it holds {splits.get(split, 0)} of '
                    f'{wanted} images of {name}/{split}'
                )
        counts = ', '.join(f'{n} in {split}' for split, n in splits.items())
        print(f'{out / name}: {counts}')
    print(f'{archive}: {written} files unpacked, {found.total() - written} were there')


def main() -> None:
    """Reads the arguments and unpacks all archives that can be."""
    args = parse_args()
    failed = False
    for archive in args.archives:
        try:
            prepare(archive, args.out)
        except OSError as error:
            print(f'error: {error}', file=sys.stderr)
            failed = True
    sys.exit(2 if failed else 0)


if __name__ == '__main__':
    main()
