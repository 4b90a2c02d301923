#!/usr/bin/env bash
# Evaluates on a Slurm cluster, one task per GPU.
# Usage: tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [arguments of tools/test.py]
# Environment: GPUS (8), GPUS_PER_NODE (8), CPUS_PER_TASK (5), SRUN_ARGS, PY_ARGS
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=_launch.sh
source "$(dirname "$0")/_launch.sh"

(($# >= 4)) || usage
on_slurm "$1" "$2" test.py "$3" "$4" "${@:5}"
