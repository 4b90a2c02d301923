#!/usr/bin/env bash
# aarch64_wheel.sh [FOLDER]: cross-compiles a wheel for 64-bit ARM Linux into FOLDER
# (default: dist), for the version of Python that $PYTHON is (default: python).
# Needs Debian's g++-aarch64-linux-gnu.
set -euo pipefail
cd "$(dirname "$0")/../.."
compiler=aarch64-linux-gnu-g++
command -v $compiler > /dev/null || {
  echo "aarch64_wheel.sh: apt-get install g++-aarch64-linux-gnu" >&2
  exit 2
}
python=${PYTHON:-python}
# The build's own packages are this machine's, so they come before the target is set.
env=build/aarch64-env
"$python" -m venv "$env"
"$env/bin/python" -m pip install -q scikit-build-core nanobind cmake ninja
# What Python and scikit-build-core call the target's files.
suffix=$("$python" -c '
import sys
print(f".{sys.implementation.cache_tag}-aarch64-linux-gnu.so")')
PATH=$PWD/$env/bin:$PATH _PYTHON_HOST_PLATFORM=linux-aarch64 \
  SETUPTOOLS_EXT_SUFFIX=$suffix CMAKE_ARGS="-DCMAKE_SYSTEM_NAME=Linux \
  -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=$compiler \
  -DCMAKE_MODULE_LINKER_FLAGS=-static-libstdc++" \
  python -m pip wheel -q --no-build-isolation --no-deps -w "${1:-dist}" .
