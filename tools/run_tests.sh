#!/usr/bin/env bash
# Creates .venv with the test extra, then runs ruff and the tests.
# Usage: bash tools/run_tests.sh [arguments of pytest]
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=_setup_env.sh
source "$(dirname "$0")/_setup_env.sh"

setup_env lite,demo,test
cd "$root"
"$python" -m ruff check
"$python" -m ruff format --check
# Thousands of small files are written: in memory, where there is room for them.
if [[ -z ${TMPDIR:-} && -w /dev/shm ]] &&
  df -Pm /dev/shm | awk 'END { exit !($4 > 4000) }'; then
  export TMPDIR=/dev/shm
fi
# On two cores, two test processes with one thread each are the fastest.
export OMP_NUM_THREADS=1
exec "$python" -m pytest -n 2 --dist loadfile "$@"
