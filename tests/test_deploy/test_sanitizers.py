"""The engine's other tests once more, under AddressSanitizer and UBSan."""

import importlib.util
import shutil
import subprocess
import sys

import pytest
from small_run import ROOT, TOOLS, environment


@pytest.mark.skipif(
    not (shutil.which('g++') and shutil.which('cmake'))
    or importlib.util.find_spec('nanobind') is None
    or not (ROOT / '.git').exists(),
    reason='needs a checkout, g++, cmake and nanobind',
)
def test_no_access_out_of_bounds_and_no_undefined_behaviour():
    result = subprocess.run(
        ['bash', str(TOOLS / 'deploy' / 'sanitize.sh'), '-p', 'no:xdist'],
        env=environment(PYTHON=sys.executable, OMP_NUM_THREADS='1'),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    assert ' passed' in result.stdout or '100%' in result.stdout
