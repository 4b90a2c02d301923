#!/usr/bin/env bash
# Runs the engine's tests under AddressSanitizer and UBSan, in build/sanitize.
# Needs gcc, cmake and, from pip: nanobind, onednn-cpu-gomp, onednn-devel-cpu-gomp.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$("${PYTHON:-python}" -c 'import sys; print(sys.executable)')
build=build/sanitize
rm -rf $build && mkdir -p $build/tree
cmake -S mmirnet/deploy/csrc -B $build/cmake -DSKBUILD=ON -DMMIRNET_SANITIZE=ON \
  -DPython_EXECUTABLE="$python" \
  -Dnanobind_DIR="$("$python" -m nanobind --cmake_dir)"
cmake --build $build/cmake --parallel
git ls-files -z | xargs -0 cp --parents -Pt $build/tree
cmake --install $build/cmake --prefix $build/tree
cd $build/tree
# Python itself leaks by design; its allocator would hide overflows.
export ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc
export UBSAN_OPTIONS=print_stacktrace=1
LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" \
  "$python" - -p no:cacheprovider --capture=sys tests/test_deploy/test_engine.py \
  tests/test_deploy/test_format.py "$@" <<'END'
import os
import sys

# An editable install would put the engine without sanitizers in front.
sys.meta_path[:] = [f for f in sys.meta_path if 'Redirecting' not in type(f).__name__]
sys.path.insert(0, os.getcwd())
from mmirnet.deploy import _engine

assert _engine.__file__.startswith(os.getcwd()), _engine.__file__
import pytest

sys.exit(pytest.main(sys.argv[1:]))
END
