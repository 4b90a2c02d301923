import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / 'mmirnet' / 'runtime' / 'csrc'
TOOLS = 'aarch64-linux-gnu-g++', 'qemu-aarch64'


@pytest.mark.skipif(
    not all(map(shutil.which, TOOLS)),
    reason='needs Debian packages g++-aarch64-linux-gnu and qemu-user',
)
def test_neon_equals_portable(tmp_path):
    compiler, emulator = TOOLS
    names = ['dispatch', 'float_conv', 'network', 'scheduler', 'thread_pool']
    parts = [CSRC / f'{name}.cpp' for name in names]
    parts += sorted((CSRC / 'ops').glob('*.cpp'))
    # As one source they take half of the time.
    rest = tmp_path / 'rest.cpp'
    rest.write_text(''.join(f'#include "{path}"\n' for path in parts))
    sources = [CSRC / 'isa_neon.cpp', CSRC / 'isa_portable.cpp', rest]
    flags = '-std=c++17 -O1 -fno-strict-aliasing -ffp-contract=off -w'
    program = tmp_path / 'neon'
    options = [*flags.split(), '-static', '-pthread', '-DMMIRNET_NEON', f'-I{CSRC}']
    test = Path(__file__).with_name('neon.cpp')
    subprocess.run([compiler, *options, *sources, test, '-o', program], check=True)
    result = subprocess.run(
        [emulator, program], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ['neon', 'portable', '126', 'compared']
