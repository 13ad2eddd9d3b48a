#!/usr/bin/env bash
# Runs on the GPUs of a SLURM cluster: srun starts one process per GPU, and jax connects them.
#
#   NODES=2 GPUS=8 launch/slurm/run.sh [--dry-run] --config=FILE --workdir=DIR [more arguments of
#     videojax.launch] [-- options of sbatch, e.g. --time=04:00:00 --partition=gpu]
#
#   NODES   default 1
#   GPUS    GPUs per node; default 8; 0: none
#   TASKS   processes per node; default: GPUS; 1: one process has all GPUs of its node
#   PYTHON  on the nodes; default: python
#
# DIR must be on a file system that all nodes share. 120 s before the job's time limit, and when the
# job is preempted with a grace period, the run saves, and the job is requeued and continues: a run
# may be longer than the time limit. The log is slurm-JOB.out.
set -euo pipefail
# shellcheck source=launch/lib.sh
source "${BASH_SOURCE[0]%/*}/../lib.sh"
# shellcheck source=launch/slurm/batch.sh
source "${BASH_SOURCE[0]%/*}/batch.sh"
arguments=()
while (($#)) && [[ $1 != -- ]]; do
  arguments+=("$1")
  shift
done
(($# == 0)) || shift
check_flags "${arguments[@]}"
need_flag workdir "${arguments[@]}"
check_shared "$value"
number 0 GPUS
number 1 NODES TASKS
gpus=${GPUS:-8} nodes=${NODES:-1}
tasks=${TASKS:-$((gpus ? gpus : 1))}
check_mesh $((nodes * (gpus ? gpus : tasks))) 1 "${arguments[@]}"
value=${value%/}
options+=(--job-name="${value##*/}" --nodes="$nodes" --ntasks-per-node="$tasks")
((gpus == 0)) || options+=(--gres="gpu:$gpus")
command=("${PYTHON:-python}" -m videojax.launch "${arguments[@]}")
if ((tasks == 1 && gpus > 1)); then # under SLURM, jax assumes that each process has one GPU
  command=(env "JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((gpus - 1)))" "${command[@]}")
fi
run sbatch "${options[@]}" "$@" --wrap "$(batch "$(quote "${command[@]}")")"
