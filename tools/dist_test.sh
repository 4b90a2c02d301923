#!/usr/bin/env bash
# Evaluates with N processes on this node: one per GPU, or on CPU without GPUs.
# Usage: tools/dist_test.sh CONFIG CHECKPOINT N [arguments of tools/test.py]
# Several nodes: run it on each, with NNODES, NODE_RANK, MASTER_ADDR and PORT set.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=_launch.sh
source "$(dirname "$0")/_launch.sh"

(($# >= 3)) || usage
launch "$3" test.py "$1" "$2" "${@:4}"
