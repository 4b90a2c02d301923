#!/usr/bin/env bash
# The big run in small: 32 ranks of ResNet-34 over a folder in ImageNet's layout,
# on CPU, to its validation. Prints time and memory: a rank takes 0.65 GB, over half
# of it imports, so that 32 want 21 GB.
# Usage: bash tests/by_hand/dist_32_ranks.sh [RANKS]
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tools/_launch.sh
source tools/_launch.sh

ranks=${1:-32}
folder=$(mktemp -d)
trap 'kill "$sampler"; rm -r "$folder"' EXIT

available() { # memory and swap in MB
  awk '/MemAvailable|SwapFree/ {kb += $2} END {print int(kb / 1024)}' /proc/meminfo
}
before=$(available)
while sleep 1; do available; done >"$folder/memory" &
sampler=$!

"$python" tools/make_imagenet_sample.py "$folder/imagenet" --train "$((2 * ranks))" --val 20
data=()
for loader in train_dataloader val_dataloader; do
  data+=(
    "$loader.dataset.data_root=$folder/imagenet"
    "$loader.dataset.classes=china,flower"
    "$loader.batch_size=2"
    "$loader.num_workers=0"
  )
done
# The last two lines save memory, and so does malloc: gradients are held once, there
# is no momentum, and what is free goes back.
export CUDA_VISIBLE_DEVICES='' MALLOC_ARENA_MAX=1 MALLOC_TRIM_THRESHOLD_=65536
tools/dist_train.sh configs/irnet/resnet34_bireal_in1k.py "$ranks" \
  --work-dir "$folder/work_dir" --auto-scale-lr \
  --cfg-options train_cfg.max_epochs=1 default_hooks.logger.interval=1 "${data[@]}" \
  train_dataloader.dataset.pipeline.1.scale=32 \
  val_dataloader.dataset.pipeline.1.scale=36 \
  val_dataloader.dataset.pipeline.2.crop_size=32 \
  find_unused_parameters=True model_wrapper_cfg.gradient_as_bucket_view=True \
  optim_wrapper.optimizer.momentum=0 optim_wrapper.optimizer.nesterov=False |
  tee "$folder/output" | grep --line-buffered 'Epoch('

grep -q 'Epoch(val).*accuracy/top1' "$folder/output"
least=$(sort -n "$folder/memory" | head -n 1)
echo "$ranks ranks: $SECONDS s, $((before - least)) MB"
