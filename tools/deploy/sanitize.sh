#!/usr/bin/env bash
# sanitize.sh address|thread [pytest's arguments]: runs the runtime's tests under
# AddressSanitizer and UBSan, or under ThreadSanitizer, in build/sanitize-NAME.
# Needs gcc, cmake and, from pip: nanobind, onednn-cpu-gomp, onednn-devel-cpu-gomp.
set -euo pipefail
cd "$(dirname "$0")/../.."
mode=${1:-address}
shift || true
[[ $# -eq 0 ]] && all=1 || all=0
tests=tests/test_runtime
case $mode in
  address)
    sanitizers=address,undefined
    least=200
    libraries="libasan.so libubsan.so"
    chosen="$tests/test_session.py $tests/test_epilogues.py $tests/test_non_finite.py
      tests/test_packed/test_format.py"
    ;;
  thread)
    sanitizers=thread
    least=40
    libraries=libtsan.so
    chosen="$tests/test_session.py::test_batches_and_threads
      $tests/test_processes.py::test_two_callers_get_their_own_logits
      $tests/test_processes.py::test_engines_share_threads
      $tests/test_processes.py::test_logits_depend_on_the_image_alone"
    ;;
  *)
    echo "sanitize.sh: address or thread, not $mode" >&2
    exit 2
    ;;
esac
python=$("${PYTHON:-python}" -c 'import sys; print(sys.executable)')
build=build/sanitize-$mode
rm -rf "$build" && mkdir -p "$build/tree"
cmake -S mmirnet/runtime/csrc -B "$build/cmake" -DSKBUILD=ON \
  -DMMIRNET_SANITIZE=$sanitizers -DPython_EXECUTABLE="$python" \
  -Dnanobind_DIR="$("$python" -m nanobind --cmake_dir)"
cmake --build "$build/cmake" --parallel
git ls-files -z | xargs -0 cp --parents -Pt "$build/tree"
cmake --install "$build/cmake" --prefix "$build/tree"
cd "$build/tree"
# Python itself leaks by design; its allocator would hide overflows.
export ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc
export UBSAN_OPTIONS=print_stacktrace=1
# What was built without the sanitizer, such as torch, is not looked at.
export TSAN_OPTIONS=halt_on_error=1:ignore_noninstrumented_modules=1
preload=
for library in $libraries; do
  preload+=" $(gcc -print-file-name="$library")"
done
# shellcheck disable=SC2086
LEAST=$((all * least)) LD_PRELOAD=$preload \
  "$python" - -p no:cacheprovider -p no:xdist --capture=sys $chosen "$@" <<'END'
import os
import sys

# An editable install would put the runtime without sanitizers in front.
sys.meta_path[:] = [f for f in sys.meta_path if 'Redirecting' not in type(f).__name__]
sys.path.insert(0, os.getcwd())
from mmirnet.runtime import _native

assert _native.__file__.startswith(os.getcwd()), _native.__file__
import pytest


class AllRun:
    """A run that skips its tests finds nothing either."""

    passed = skipped = 0

    def pytest_runtest_logreport(self, report):
        self.passed += report.passed and report.when == 'call'
        self.skipped += report.skipped


runs = AllRun()
code = pytest.main(sys.argv[1:], plugins=[runs])
print(f'{runs.passed} tests under the sanitizers, {runs.skipped} skipped')
sys.exit(code or (runs.skipped > 0 or runs.passed < int(os.environ['LEAST'])))
END
