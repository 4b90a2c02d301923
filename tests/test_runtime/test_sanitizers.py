"""The runtime's other tests once more, under sanitizers."""

import importlib.util
import re
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
@pytest.mark.parametrize(
    ('mode', 'least'),
    # Accesses out of bounds and undefined behaviour; data races.
    [('address', 200), ('thread', 40)],
)
def test_no_sanitizer_finds_anything(mode, least):
    result = subprocess.run(
        ['bash', str(TOOLS / 'deploy' / 'sanitize.sh'), mode, '-p', 'no:xdist'],
        env=environment(PYTHON=sys.executable, OMP_NUM_THREADS='1'),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    # A run that skipped its tests, or lost some, found nothing either.
    summary = result.stdout.splitlines()[-1]
    counts = {what: int(n) for n, what in re.findall(r'(\d+) (\w+)', summary)}
    assert counts.get('passed', 0) >= least, summary
    assert not {'skipped', 'deselected', 'xfailed'} & set(counts), summary
