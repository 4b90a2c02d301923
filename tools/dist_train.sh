#!/usr/bin/env bash
# Trains with N processes on this node: one per GPU, or on CPU without GPUs.
# Usage: tools/dist_train.sh CONFIG N [arguments of tools/train.py]
# Several nodes: run it on each, with NNODES, NODE_RANK, MASTER_ADDR and PORT set.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=_launch.sh
source "$(dirname "$0")/_launch.sh"

(($# >= 2)) || usage
launch "$2" train.py "$1" "${@:3}"
