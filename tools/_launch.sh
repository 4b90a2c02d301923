# Sourced by dist_*.sh and slurm_*.sh: chooses Python and checkout, and starts the
# processes. $tools is the folder of the tools.
# shellcheck shell=bash
tools=$(cd -P "$(dirname "${BASH_SOURCE[0]}")" && pwd)

die() {
  echo "error: $*" >&2
  exit 2
}

# Prints the usage, the comment at the top of the calling script.
usage() {
  sed -n '2,/^[^#]/ s/^# \{0,1\}//p' "$0" >&2
  exit 2
}

# A checkout puts its own package first and uses its .venv if no other environment
# is active. An installed wheel (mmirnet/.mim/tools) has no package in the parent
# folder, so nothing is added.
root=$(dirname "$tools")
python=$(command -v python || command -v python3 || echo python3)
if [[ -f $root/mmirnet/__init__.py ]]; then
  export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
  if [[ -z ${VIRTUAL_ENV:-} && -x $root/.venv/bin/python ]]; then
    python=$root/.venv/bin/python
  fi
fi

# launch N SCRIPT ARGS...: starts N processes of the tool SCRIPT on this node.
launch() {
  local n=$1 script=$2 gpus
  shift 2
  [[ $n =~ ^[1-9][0-9]*$ ]] || die "N must be a number of processes, got '$n'"
  gpus=$("$python" -c 'import torch; print(torch.cuda.device_count())') ||
    die "$python cannot import torch: activate the environment with mmirnet"
  if ((gpus > 0 && n > gpus)); then
    die "N = $n processes, but this machine has $gpus GPU(s);" \
      "use N <= $gpus, or hide the GPUs with CUDA_VISIBLE_DEVICES= to run on CPU"
  fi

  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} MKL_NUM_THREADS=${MKL_NUM_THREADS:-1}
  local rendezvous=(--standalone --local_addr 127.0.0.1)
  if ((${NNODES:-1} > 1)) || [[ -n ${PORT:-} ]]; then
    rendezvous=(
      --nnodes "${NNODES:-1}"
      --node_rank "${NODE_RANK:-0}"
      --master_addr "${MASTER_ADDR:-127.0.0.1}"
      --master_port "${PORT:-29500}"
    )
  fi
  exec "$python" "$tools/_torchrun.py" "${rendezvous[@]}" \
    --nproc_per_node "$n" "$tools/$script" "$@" --launcher pytorch
}

# on_slurm PARTITION JOB_NAME SCRIPT ARGS...: starts GPUS tasks of the tool SCRIPT.
on_slurm() {
  local command=(
    srun -p "$1" --job-name="$2"
    --gres="gpu:${GPUS_PER_NODE:-8}"
    --ntasks="${GPUS:-8}"
    --ntasks-per-node="${GPUS_PER_NODE:-8}"
    --cpus-per-task="${CPUS_PER_TASK:-5}"
    --kill-on-bad-exit=1
  )
  # Both variables may contain several words.
  # shellcheck disable=SC2206
  command+=(${SRUN_ARGS:-} "$python" -u "$tools/$3" "${@:4}" ${PY_ARGS:-})
  exec "${command[@]}" --launcher slurm
}
