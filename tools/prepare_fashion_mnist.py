"""Unpacks Fashion-MNIST's four .gz files into the folder that the configs use."""

import argparse
import gzip
import math
import os
import struct
import sys
import zlib
from pathlib import Path

DEBIAN_FOLDER = Path('/usr/share/datasets/fashion-mnist')

#: Files with their expected IDX headers: magic number, then sizes.
FILES = {
    'train-images-idx3-ubyte': (0x803, 60000, 28, 28),
    'train-labels-idx1-ubyte': (0x801, 60000),
    't10k-images-idx3-ubyte': (0x803, 10000, 28, 28),
    't10k-labels-idx1-ubyte': (0x801, 10000),
}


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'source',
        nargs='?',
        type=Path,
        default=DEBIAN_FOLDER,
        help='folder with the .gz files (default: that of the Debian package '
        'dataset-fashion-mnist)',
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('data/fashion_mnist'),
        help='folder to unpack to (data/fashion_mnist)',
    )
    return parser.parse_args()


def is_intact(data: bytes, header: tuple[int, ...]) -> bool:
    """Whether data is an IDX file of bytes with this header."""
    head = struct.pack(f'>{len(header)}I', *header)
    return data.startswith(head) and len(data) == len(head) + math.prod(header[1:])


def unpack(source: Path, target: Path, header: tuple[int, ...]) -> None:
    """Unpacks one file atomically."""
    try:
        data = gzip.decompress(source.read_bytes())
    except (EOFError, OSError, zlib.error) as error:
        raise OSError(f'{source} cannot be unpacked: {error}') from error
    if not is_intact(data, header):
        sizes = ' x '.join(map(str, header[1:]))
        raise OSError(f'{source} is not the expected IDX file of {sizes} bytes')
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix('.partial')
    partial.write_bytes(data)
    os.replace(partial, target)


def prepare(source: Path, out: Path) -> None:
    """Unpacks the files that are not in out yet."""
    missing = [name for name in FILES if not (source / f'{name}.gz').is_file()]
    if missing:
        raise FileNotFoundError(
            f'{source} has no {missing[0]}.gz; on Debian and Ubuntu, apt install '
            f'dataset-fashion-mnist brings it to {DEBIAN_FOLDER}'
        )
    for name, header in FILES.items():
        target = out / name
        if target.is_file() and is_intact(target.read_bytes(), header):
            print(f'{target}: already there')
        else:
            unpack(source / f'{name}.gz', target, header)
            print(f'{target}: unpacked')


def main() -> None:
    """Reads the arguments and unpacks."""
    args = parse_args()
    try:
        prepare(args.source, args.out)
    except OSError as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)


if __name__ == '__main__':
    main()
