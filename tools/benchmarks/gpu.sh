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
    "$python" -m pytest -m gpu || echo '== tests failed'
    captured=()
    images=50000 timed=20 steps=15
    resnet20=('ours compiled' 'ours compiled captured' 'ours compiled bf16 channels_last'
        'ours compiled bf16 channels_last captured')
    resnet18=('ref bf16 channels_last' 'fp compiled bf16 channels_last' 'ours compiled bf16 channels_last')
    sizes=()
else
    options+=(default_hooks.compile.backend=eager val_dataloader.dataset.dataset.indices=64)
    captured=(train_cfg.capture=False val_cfg.capture=False)
    images=256 timed=1 steps=3
    resnet20=('ours eager')
    resnet18=('ref bf16 channels_last')
    sizes=(--size 32)
fi

row() { # row NAME SCRIPT...: at most two minutes; the others go on where one fails
    local name=$1 script=$2
    shift 2
    echo "== $name"
    timeout --kill-after=10 120 "$python" "tools/benchmarks/$script" "$@" || echo "== $name failed: exit status $?"
}
compile() { # compile NAME SCRIPT...: as row, beside others, for the code it leaves in torch's cache
    timeout --kill-after=10 300 "$python" "tools/benchmarks/$2" "${@:3}" > /dev/null 2>&1 &
}
rows() { # rows COMMAND FOLDER STEPS EPOCHS: runs COMMAND for each row, which writes into FOLDER
    local step=(--device "$device" --tf32 --repeats "$3" "${sizes[@]}")
    local runner=(runner_throughput.py "$config" --images "$images" --cfg-options "${options[@]}")
    "$1" step_resnet20 train_step.py "${step[@]}" --batch 128 --out "$2/step_resnet20" --only "${resnet20[@]}"
    "$1" step_resnet18 train_step.py "${step[@]}" --batch "$((images < 50000 ? 2 : 256))" --arch resnet18 \
        --out "$2/step_resnet18" --only "${resnet18[@]}"
    "$1" runner_compiled "${runner[@]}" --epochs "$(($4 < 3 ? $4 : 3))" --out "$2/runner_compiled.json"
    "$1" runner_captured "${runner[@]}" "${captured[@]}" --capture --epochs "$4" --out "$2/runner_captured.json"
    "$1" runner_captured_bf16 "${runner[@]}" "${captured[@]}" --capture --amp --epochs "$4" \
        --out "$2/runner_captured_bf16.json"
}

if [ "$device" = cuda ]; then
    echo '== compiling'
    rows compile "$(mktemp -d)" 2 1
    wait
fi
rows row "$out" "$steps" "$timed"

if [ "$device" != cuda ]; then # a run of minutes
    options+=(train_dataloader.dataset.dataset.indices="$images")
fi
"$python" tools/experiments/run.py "$config" --seeds 0 --results "$out/results.jsonl" --work-dir "$out/runs" \
    --cfg-options train_cfg.type=CapturedEpochLoop val_cfg.type=CapturedValLoop train_cfg.max_epochs="$epochs" \
    optim_wrapper.type=Bf16OptimWrapper "${options[@]}" "${captured[@]}"
