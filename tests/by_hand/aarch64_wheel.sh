#!/usr/bin/env bash
# Installs the wheel for 64-bit ARM beside an ARM Python, under qemu, and compares the
# logits of the published networks with this machine's, bit for bit: as they are and
# with 8-bit layers, on CPUs with and without the instructions for dot products.
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

# What is a float layer in the others, and convolutions of real numbers, too.
quantise='
import sys
from pathlib import Path
import numpy as np
from mmirnet.packed import quantise, read, write

random = np.random.default_rng(1)
for file in sys.argv[2:]:
    packed = read(file)
    images = random.standard_normal((8, *packed.shapes["input"]), np.float32)
    packed = quantise(packed, [images], activations=True)
    write(packed, Path(sys.argv[1]) / f"{Path(file).stem}_int8.safetensors")
'
rm -rf "$work/int8" && mkdir "$work/int8"
"$python" -c "$quantise" "$work/int8" zoo/*_digits-*.safetensors

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
print(count, "comparisons;", *instruction_sets())
'
rm -rf "$work/logits" && mkdir "$work/logits"
networks=(zoo/*.safetensors "$work"/int8/*.safetensors)
"$python" -c "$compare" "$work/logits" "${networks[@]}"
for cpu in max cortex-a53; do
  echo "qemu, $cpu:"
  PYTHONPATH=$work/site qemu-aarch64 -cpu $cpu -L "$work/root" \
    "$work/root/usr/bin/python3.11" -P -c "$compare" "$work/logits" "${networks[@]}" |
    tee "$work/$cpu.log"
done
grep -qx '.* comparisons; neon-dot neon portable' "$work/max.log"
grep -qx '.* comparisons; neon portable' "$work/cortex-a53.log"
