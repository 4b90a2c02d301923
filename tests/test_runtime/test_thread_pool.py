import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / 'mmirnet' / 'runtime' / 'csrc'


@pytest.mark.skipif(
    not all(map(shutil.which, ('g++', 'setarch'))), reason='needs g++ on Linux'
)
def test_errors_of_jobs_come_out(tmp_path):
    """Under ThreadSanitizer; a pool that hung would meet the time limit."""
    program = tmp_path / 'pool'
    flags = ['-std=c++17', '-O1', '-g', '-pthread', '-fsanitize=thread']
    sources = [Path(__file__).with_name('thread_pool.cpp'), CSRC / 'thread_pool.cpp']
    subprocess.run(['g++', *flags, f'-I{CSRC}', *sources, '-o', program], check=True)
    result = subprocess.run(
        # Without a fixed layout some kernels' address randomisation stops TSan.
        ['setarch', '-R', program],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout == '0 failures\n'
