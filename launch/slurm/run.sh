#!/usr/bin/env bash
# A run on the GPUs of a SLURM cluster: one process per GPU by srun, which jax connects by itself.
#
#   NODES=2 GPUS=8 launch/slurm/run.sh [--dry-run] --config=FILE --workdir=DIR [more arguments of
#     videojax.launch] [-- options of sbatch, e.g. --time=04:00:00 --partition=gpu]
#
#   NODES   1
#   GPUS    8, of each node; 0: none
#   TASKS   as GPUS: processes on each node; 1: one process has all GPUs of its node
#   PYTHON  python, on the nodes
#
# DIR is on a file system that all nodes see. 120 s before the job's time is up, and when it is
# preempted with a grace time, the run saves and the job goes back into the queue, where it
# continues: a run may be longer than the time limit. The log is slurm-JOB.out.
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
if ((tasks == 1 && gpus > 1)); then # under SLURM jax takes for granted that a process has one GPU
  command=(env "JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((gpus - 1)))" "${command[@]}")
fi
run sbatch "${options[@]}" "$@" --wrap "$(batch "$(quote "${command[@]}")")"
