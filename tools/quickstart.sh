#!/usr/bin/env bash
# Creates .venv, trains a binary ResNet-20 on scikit-learn's handwritten digits
# (about two minutes on two CPU cores), evaluates it and draws the plots.
# An interrupted run continues; remove work_dirs/quickstart to start again.
# Usage: bash tools/quickstart.sh
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=_setup_env.sh
source "$(dirname "$0")/_setup_env.sh"

config=configs/irnet/resnet20_bireal_digits.py
work_dir=work_dirs/quickstart

# Filters the validation results from the output of the training.
show_validations() {
  local line result='Epoch\(val\) \[([0-9]+)\].*accuracy/top1: ([0-9.]+)'
  while read -r line; do
    if [[ $line =~ $result ]]; then
      printf '  epoch %2d: %s %% accuracy\n' "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]%??}"
    fi
  done
}

# run LOG TOOL ARGS...: writes the output to the log, and prints its end if the
# tool fails.
run() {
  local log=$1
  shift
  "$python" "$@" 2>&1 | tee -a "$log" | show_validations || {
    tail -n 5 "$log" >&2
    die "$1 failed; everything it wrote is in $log."
  }
}

echo '[1/5] Environment'
setup_env lite,demo
cd "$root"
mkdir -p "$work_dir"

echo '[2/5] Training (about 2 minutes on two CPU cores; continues an interrupted run)'
run "$work_dir/train.txt" tools/train.py "$config" --work-dir "$work_dir" --resume
checkpoint=$work_dir/$(basename "$(<"$work_dir/last_checkpoint")")
[[ $checkpoint == */epoch_* ]] ||
  die 'The training was interrupted. Run this again to continue it.'

echo '[3/5] Evaluation'
run "$work_dir/test.txt" tools/test.py "$config" "$checkpoint" \
  --work-dir "$work_dir/test" --out "$work_dir/metrics.json" --out-item metrics

echo '[4/5] Pictures'
run "$work_dir/plot.txt" tools/analysis/plot.py "$work_dir"

echo '[5/5] A trained model: irnet://resnet20_bireal_digits from the folder zoo'
run "$work_dir/zoo.txt" tools/test.py "$config" irnet://resnet20_bireal_digits \
  --work-dir "$work_dir/zoo" --out "$work_dir/zoo.json" --out-item metrics

# Reads the accuracy from a file of metrics.
accuracy() {
  "$python" -c "import json; print(f'{json.load(open(\"$1\"))[\"accuracy/top1\"]:.2f} %')"
}

# The most accurate 1/1 network for CIFAR-10 in the zoo, if there is one.
cifar10=$("$python" -c 'import json
models = json.load(open("zoo/index.json"))["models"]
names = [n for n in models if "cifar10" in n and "_fp_" not in n and "w1a32" not in n]
print(max(names, key=lambda n: models[n]["metrics"]["accuracy/top1"], default=""))')
cat <<SUMMARY

ResNet-20 with 1-bit weights and activations: $(accuracy "$work_dir/metrics.json") accuracy on the test images.
  published   $(accuracy "$work_dir/zoo.json") by irnet://resnet20_bireal_digits, 60 kB
  log         $work_dir/train.txt
  checkpoint  $checkpoint
  curves      $work_dir/figures/curves.png (loss, accuracy, EDE's t and k)
Next: train it on Fashion-MNIST
  .venv/bin/python tools/prepare_fashion_mnist.py
  .venv/bin/python tools/train.py configs/irnet/resnet20_bireal_fashionmnist.py
SUMMARY
if [[ -n $cifar10 ]]; then
  echo "or classify your own images with a network trained on CIFAR-10:"
  echo "  .venv/bin/python tools/infer.py IMAGES --model $cifar10"
fi
