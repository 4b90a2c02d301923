"""Float layers run on oneDNN, and what happens where it is missing or fails."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import mixed_network, warm_up
from small_run import environment

from mmirnet.packed import pack, write
from mmirnet.runtime import Session, session

LIBRARY = session._library()
pytestmark = pytest.mark.skipif(not LIBRARY, reason='built without oneDNN')


@pytest.fixture(scope='module')
def case(tmp_path_factory):
    torch.manual_seed(3)
    packed = pack(warm_up(mixed_network(), 3, 13, 10), (13, 10))
    folder = tmp_path_factory.mktemp('float_library')
    write(packed, folder / 'model.safetensors')
    x = np.random.default_rng(0).normal(size=(5, 3, 13, 10)).astype(np.float32)
    np.savez(folder / 'case.npz', x=x, wanted=Session(packed, 1).predict(x))
    return packed, folder


@pytest.fixture(scope='module')
def broken(case):
    """Builds the library that fails."""
    compiler = shutil.which('gcc')
    if compiler is None:
        pytest.skip('needs gcc')

    def build(*flags):
        path = case[1] / f'libbroken{"".join(flags)}.so'
        source = Path(__file__).with_name('float_library.c')
        link = ['-Wl,--no-as-needed', LIBRARY, f'-Wl,-rpath,{Path(LIBRARY).parent}']
        subprocess.run(
            [compiler, '-shared', '-fPIC', *flags, source, '-o', path, *link],
            check=True,
        )
        return path

    return build


def run(case, library, code):
    """In a Python of its own: a process loads one library, once."""
    start = f"""
import importlib.util, os, sys, warnings
find = importlib.util.find_spec  # without mmengine no torch is imported
importlib.util.find_spec = lambda n, *a: n != 'mmengine' and find(n, *a)
import numpy as np
from mmirnet.packed import read
from mmirnet.runtime import Session, _native, session
session._library = lambda: {str(library)!r}
packed = read({str(case[1] / 'model.safetensors')!r})
case = np.load({str(case[1] / 'case.npz')!r})
x, wanted = case['x'], case['wanted']
"""
    return subprocess.run(
        [sys.executable, '-c', start + code],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
    )


def test_every_float_layer_runs_on_it(case):
    # Two convolutions with float activations and the classifier; the plain loops
    # that stand in for it are 35 times as slow.
    assert Session(case[0], 1)._network.library_layers == 3


PROBLEMS = {
    'missing': ('', 'there is no libdnnl beside the runtime'),
    'no library': (__file__, 'test_float_library.py: '),
    'another library': (session._native.__file__, ' has no dnnl_'),
}


@pytest.mark.parametrize('problem', [*PROBLEMS, 'old'])
def test_plain_loops_stand_in_and_say_so(case, broken, problem):
    if problem == 'old':
        path = broken('-DOLD')
        text = 'libbroken-DOLD.so is version 2.7, not 3'
    else:
        path, text = PROBLEMS[problem]
    result = run(
        case,
        path,
        """
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    engine = Session(packed, 1)
    assert engine._network.library_layers == 0
    assert np.allclose(engine.predict(x), wanted, atol=1e-4)
    print(*[warning.message for warning in caught], sep='\\n')
""",
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count('\n') == 1
    assert result.stdout.startswith('The float layers run in plain loops')
    assert text in result.stdout


@pytest.mark.skipif(sys.platform != 'linux', reason='tells threads by Linux calls')
@pytest.mark.parametrize('where', ['caller', 'worker'])
def test_what_a_thread_throws_reaches_the_caller(case, broken, where):
    result = run(
        case,
        broken(),
        f"""
_native.Network.share_from(0)  # the smallest images, too
engine = Session(packed, 4)
for batch in x, x[:1]:
    assert (engine.predict(batch) == wanted[: len(batch)]).all()
    os.environ['FAIL_IN'] = {where!r}
    try:
        for _ in range(20_000):  # until the other threads get a part
            engine.predict(batch)
    except RuntimeError as error:
        print(error)
    del os.environ['FAIL_IN']
    assert (engine.predict(batch) == wanted[: len(batch)]).all()
""",
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ['oneDNN: error 1'] * 2
