#!/usr/bin/env bash
# gpu.sh [OUT [EPOCHS]]: what a machine with one GPU has to show about the speed of training.
# Tests first, then times as JSON in OUT, then a run of EPOCHS epochs on CIFAR-10, which
# tools/prepare_data.py unpacks. DEVICE=cpu tries the script, with tiny sizes and without captures.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-work_dirs/gpu} epochs=${2:-400} device=${DEVICE:-cuda} python=${PYTHON:-python}
config=configs/irnet/resnet20_bireal_cifar10-jpeg.py
options=(default_hooks.tf32.allow=True)
if [ "$device" = cuda ]; then
    "$python" -m pytest -m gpu
    captured=()
    images=50000 timed=20
    resnet20=('ours compiled' 'ours compiled captured' 'ours compiled bf16 channels_last'
        'ours compiled bf16 channels_last captured')
    resnet18=('ref bf16 channels_last' 'fp compiled bf16 channels_last' 'ours compiled bf16 channels_last')
    sizes=()
else
    options+=(default_hooks.compile.backend=eager val_dataloader.dataset.dataset.indices=64)
    captured=(train_cfg.capture=False val_cfg.capture=False)
    images=256 timed=1
    resnet20=('ours eager')
    resnet18=('ref bf16 channels_last')
    sizes=(--size 32 --repeats 3)
fi

row() { # row NAME SCRIPT...: at most two minutes; the others go on where one fails
    local name=$1 script=$2
    shift 2
    echo "== $name"
    timeout --kill-after=10 120 "$python" "tools/benchmarks/$script" "$@" || echo "== $name failed: exit status $?"
}
runner() { # runner NAME EPOCHS FLAG...
    row "$1" runner_throughput.py "$config" --images "$images" --epochs "$2" --out "$out/$1.json" "${@:3}"
}

row step_resnet20 train_step.py --device "$device" --tf32 --batch 128 "${sizes[@]}" \
    --out "$out/step_resnet20" --only "${resnet20[@]}"
row step_resnet18 train_step.py --device "$device" --tf32 --batch "$((images < 50000 ? 2 : 256))" "${sizes[@]}" \
    --arch resnet18 --out "$out/step_resnet18" --only "${resnet18[@]}"
runner runner_compiled "$((timed < 3 ? timed : 3))" --cfg-options "${options[@]}"
runner runner_captured "$timed" --capture --cfg-options "${options[@]}" "${captured[@]}"
runner runner_captured_bf16 "$timed" --capture --amp --cfg-options "${options[@]}" "${captured[@]}"

if [ "$device" != cuda ]; then # a run of minutes
    options+=(train_dataloader.dataset.dataset.indices="$images")
fi
"$python" tools/experiments/run.py "$config" --seeds 0 --results "$out/results.jsonl" --work-dir "$out/runs" \
    --cfg-options train_cfg.type=CapturedEpochLoop val_cfg.type=CapturedValLoop train_cfg.max_epochs="$epochs" \
    optim_wrapper.type=Bf16OptimWrapper "${options[@]}" "${captured[@]}"
