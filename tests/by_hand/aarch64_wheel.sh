#!/usr/bin/env bash
# Installs the wheel for 64-bit ARM beside an ARM Python, under qemu, and compares the
# logits of the published networks with this machine's, bit for bit.
# Needs Debian 12, its packages g++-aarch64-linux-gnu and qemu-user, and Python 3.11
# with mmirnet as $PYTHON (default: python).
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python}
work=$PWD/build/aarch64-check
mkdir -p "$work"/{lists/partial,cache/archives/partial,root,site,dist}
touch "$work/status"

# An ARM Python, without installing it here.
apt=(apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures::=arm64
  -o Dir::State="$work" -o Dir::State::lists="$work/lists"
  -o Dir::State::status="$work/status" -o Dir::Cache="$work/cache"
  -o APT::Sandbox::User=root)
"${apt[@]}" update
"${apt[@]}" install -y --download-only --no-install-recommends python3.11 \
  libstdc++6 > /dev/null
for package in "$work"/cache/archives/*.deb; do dpkg -x "$package" "$work/root"; done

PYTHON=$python bash tools/deploy/aarch64_wheel.sh "$work/dist"
"$python" -m pip install -q --target "$work/site" --upgrade --only-binary=:all: \
  --platform manylinux2014_aarch64 --platform manylinux_2_28_aarch64 \
  --python-version 3.11 --no-deps numpy safetensors
"$python" -m zipfile -e "$work"/dist/mmirnet-*-cp311-cp311-linux_aarch64.whl "$work/site"

compare='
import sys
from pathlib import Path
import numpy as np
from mmirnet.packed import read
from mmirnet.runtime import Session, instruction_sets

wanted = Path(sys.argv[1])
random = np.random.default_rng(0)
count = 0
for file in sys.argv[2:]:
    packed = read(file)
    size = [packed.input[name] for name in ("height", "width", "channels")]
    images = random.integers(0, 256, (4, *size), np.uint8)
    for isa in instruction_sets():
        logits = Session(packed, 2, isa).predict(images)
        stored = wanted / f"{Path(file).stem}.npy"
        if not stored.exists():
            np.save(stored, logits)
        assert np.array_equal(logits, np.load(stored)), (file, isa)
        count += 1
        print(Path(file).stem, isa, "equal")
print(count, "comparisons")
'
rm -rf "$work/logits" && mkdir "$work/logits"
"$python" -c "$compare" "$work/logits" zoo/*.safetensors
PYTHONPATH=$work/site qemu-aarch64 -L "$work/root" "$work/root/usr/bin/python3.11" -P \
  -c "$compare" "$work/logits" zoo/*.safetensors
