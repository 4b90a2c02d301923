"""Feeds packed files that libFuzzer has made to the reader and the runtime.

    pip install atheris
    python tests/by_hand/fuzz_packed.py -max_total_time=600

Options are libFuzzer's. Any error but PackedFileError, any crash, more than 2 GB or
more than 30 s for one file ends the run and keeps the file.
"""

import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import FunctionType

import atheris
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / 'helpers'))

from int8_networks import int8_network
from networks import EveryOperation, mixed_network, warm_up

from mmirnet.errors import NonFiniteError
from mmirnet.packed import PackedFileError, format, pack, read, write
from mmirnet.runtime import Session, plan
from mmirnet.runtime import session as engine

FOLDER = Path(tempfile.mkdtemp())

# Instrumenting imports would miss an editable install.
for module in (engine, format, plan):
    for value in vars(module).values():
        if isinstance(value, FunctionType) and value.__module__ == module.__name__:
            atheris.instrument_func(value)


def one(data: bytes) -> None:
    """Read one file; run the network if it is one."""
    path = FOLDER / 'input.safetensors'
    path.write_bytes(data)
    try:
        packed = read(path)
    except PackedFileError:
        return
    spec = packed.input
    if spec['height'] * spec['width'] > 10_000:
        return  # right, and slow
    shape = (1, spec['height'], spec['width'], spec['channels'])
    with suppress(NonFiniteError):  # of weights that are huge
        Session(packed, threads=1).predict(np.zeros(shape, np.uint8))


def main() -> None:
    """Fuzz, starting from packed networks."""
    corpus = FOLDER / 'corpus'
    corpus.mkdir()
    for network in (mixed_network(), EveryOperation()):
        seed = corpus / f'{type(network).__name__}.safetensors'
        write(pack(warm_up(network, 3, 9, 9), (9, 9)), seed)
    write(int8_network(3, 8, (9, 9), padding=1), corpus / 'int8.safetensors')
    options = ['-max_len=40000', '-rss_limit_mb=2048', '-timeout=30', '-len_control=0']
    atheris.Setup([sys.argv[0], *options, *sys.argv[1:], str(corpus)], one)
    atheris.Fuzz()


if __name__ == '__main__':
    main()
