"""Builds the page that runs packed networks: ``python docs/_demo/make_demo.py FOLDER``.

The runtime is compiled to WebAssembly by Debian's Emscripten (``apt-get install
emscripten``). It goes into the page as text, and so does each packed file, as a script
of its own: a page that is opened from a disk may read nothing else.
"""

import base64
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from filelock import FileLock

from mmirnet.packed import read

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SOURCES = ROOT / 'mmirnet' / 'runtime' / 'csrc'
#: Kept between builds: to compile takes a quarter of a minute.
CACHE = HERE / '_build'
#: Of a page, in this order.
SCRIPTS = ('network.js', 'preparation.js', 'data.js', 'demo.js')
STYLE = 'demo.css'

#: What the page has networks of, in its order.
DATASETS = ('digits', 'Fashion-MNIST', 'CIFAR-10', 'CIFAR-10 (JPEG)')
# As in CMakeLists.txt, but `limits.h` must not hide that of C.
_FLAGS = [
    '-O3',
    '-std=c++17',
    '-msimd128',
    '-ffp-contract=off',
    '-fno-strict-aliasing',
    '-Wall',
    '-Wextra',
    '-iquote',
    str(SOURCES),
]


def missing() -> str | None:
    """Why the page cannot be built; None if it can."""
    if shutil.which('emcc') is None:
        return 'there is no emcc; apt-get install emscripten'
    return None


def compile_runtime() -> bytes:
    """The runtime as WebAssembly, compiled when its sources have changed.

    Raises:
        RuntimeError: With what the compiler says, if it fails.
    """
    sources = sorted(filter(_is_for_wasm, SOURCES.rglob('*.cpp')))
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for path in [*sources, *sorted(SOURCES.glob('*.h'))]:
        digest.update(path.read_bytes())
    CACHE.mkdir(exist_ok=True)
    result = CACHE / f'runtime-{digest.hexdigest()[:16]}.wasm'
    with FileLock(CACHE / 'lock'):
        if not result.exists():
            for old in CACHE.glob('runtime-*.wasm'):
                old.unlink()
            _compile(sources, result)
    return result.read_bytes()


def _is_for_wasm(source: Path) -> bool:
    """Not the kernels of other machines, nor the face that Python sees."""
    name = source.name
    return name == 'isa_wasm.cpp' or not name.startswith(('isa_', 'module'))


def _compile(sources: list[Path], result: Path) -> None:
    """Compiles all sources as one, which takes half of the time."""
    with tempfile.TemporaryDirectory() as folder:
        source, compiled, linked = (
            str(Path(folder) / f'runtime.{suffix}') for suffix in ('cpp', 'o', 'wasm')
        )
        includes = (f'#include "{path.as_posix()}"\n' for path in sources)
        Path(source).write_text(''.join(includes))
        _run('emcc', *_FLAGS, '-c', source, '-o', compiled)
        options = '-O1', '--no-entry', '-sALLOW_MEMORY_GROWTH'
        _run('emcc', *options, compiled, '-o', linked)
        shutil.move(linked, result)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f'{" ".join(command)}: {done.stderr[-2000:]}')


def models() -> list[dict]:
    """The networks of the zoo that the page shows: those with binary layers.

    Raises:
        PackedFileError: If a packed file is damaged. The page does not check it.
    """
    zoo = ROOT / 'zoo'
    found = []
    for name, entry in json.loads((zoo / 'index.json').read_text())['models'].items():
        if entry['dataset'] not in DATASETS:
            continue
        graph = read(zoo / entry['file']).graph
        if not any(operation['op'].startswith('binary_') for operation in graph):
            continue
        accuracy = entry['metrics']['accuracy/top1']
        model = {key: entry[key] for key in ('dataset', 'bytes', 'file')}
        found.append(dict(name=name, accuracy=accuracy, **model))
    return sorted(found, key=lambda model: DATASETS.index(model['dataset']))


def digits() -> dict:
    """The digits of the test split as scikit-learn has them, 8x8 numbers of 0 to 16."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    found = load_digits()
    # As in mmirnet.datasets.Digits, which needs OpenMMLab.
    _, test = train_test_split(
        np.arange(len(found.target)),
        test_size=0.2,
        stratify=found.target,
        random_state=0,
    )
    values = found.images[test].astype(np.uint8)
    return dict(values=_text(values.tobytes()), labels=found.target[test].tolist())


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def build(folder: Path) -> None:
    """Writes the scripts of the page, its style and its packed files into a folder.

    Args:
        folder: Where to; it is made if it is not there.

    Raises:
        RuntimeError: If the runtime does not compile.
        PackedFileError: If a packed file is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*SCRIPTS, STYLE):
        if (HERE / name).exists():
            shutil.copy(HERE / name, folder)
    shown = models()
    for model in shown:
        packed = (ROOT / 'zoo' / model.pop('file')).read_bytes()
        script = f'mmirnet.data.files[{json.dumps(model["name"])}] ='
        text = f"{script} '{_text(packed)}';\n"
        (folder / f'{model["name"]}.js').write_text(text)
    data = dict(models=shown, digits=digits(), files={}, wasm=_text(compile_runtime()))
    # A script knows its folder only while it is read.
    text = (
        f'mmirnet.data = {json.dumps(data)};\n'
        'mmirnet.data.folder = document.currentScript.src;\n'
    )
    (folder / 'data.js').write_text(text)


if __name__ == '__main__':
    if reason := missing():
        sys.exit(f'error: {reason}')
    build(Path(sys.argv[1]))
