import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / 'mmirnet' / 'runtime' / 'csrc'
COMPILER, EMULATOR = TOOLS = 'aarch64-linux-gnu-g++', 'qemu-aarch64'
SYMBOLS = 'aarch64-linux-gnu-nm'
FLAGS = '-std=c++17 -O1 -fno-strict-aliasing -ffp-contract=off -w -DMMIRNET_NEON'
DOT_FLAGS = '-march=armv8.2-a+dotprod'  # as in CMakeLists.txt

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, TOOLS)),
    reason='needs Debian packages g++-aarch64-linux-gnu and qemu-user',
)


@pytest.fixture(scope='module')
def dot_object(tmp_path_factory):
    """What alone is compiled for dot products."""
    path = tmp_path_factory.mktemp('neon') / 'dot.o'
    source = CSRC / 'isa_neon_dot.cpp'
    command = [COMPILER, *FLAGS.split(), DOT_FLAGS, '-c', source, '-o', path]
    subprocess.run(command, check=True)
    return path


@pytest.fixture(scope='module')
def program(dot_object):
    folder = dot_object.parent
    names = ['dispatch', 'float_conv', 'network', 'scheduler', 'thread_pool']
    parts = [CSRC / f'{name}.cpp' for name in names]
    parts += sorted((CSRC / 'ops').glob('*.cpp'))
    # As one source they take half of the time.
    rest = folder / 'rest.cpp'
    rest.write_text(''.join(f'#include "{path}"\n' for path in parts))
    sources = [CSRC / 'isa_neon.cpp', CSRC / 'isa_portable.cpp', rest]
    options = [*FLAGS.split(), '-static', '-pthread', f'-I{CSRC}']
    test = Path(__file__).with_name('neon.cpp')
    path = folder / 'neon'
    command = [COMPILER, *options, *sources, test, dot_object, '-o', path]
    subprocess.run(command, check=True)
    return path


@pytest.mark.parametrize(
    ('cpu', 'wanted'),
    [
        ('max', 'neon-dot neon compared 140, chosen neon-dot'),
        ('cortex-a53', 'neon compared 70, chosen neon'),
    ],
)
def test_neon_equals_portable(program, cpu, wanted):
    """With and without the instructions for dot products, which the program finds."""
    command = [EMULATOR, '-cpu', cpu, program]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.stdout, result.returncode) == (f'{wanted}\n', 0)


def test_dot_products_stay_in_their_file(dot_object):
    """No function that a CPU without them calls comes from there."""
    command = [SYMBOLS, '--extern-only', '--defined-only', '--demangle', dot_object]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    names = [line.split(maxsplit=2)[2] for line in result.stdout.splitlines()]
    assert names == ['mmirnet::neon_dot(mmirnet::DotTask const&)']
