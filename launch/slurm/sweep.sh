#!/usr/bin/env bash
# Runs a sweep on a SLURM cluster: each task of an array runs its share of the cells; after all of
# them, a last job runs the held-out cells and writes the report.
#
#   launch/slurm/sweep.sh [--dry-run] CONFIG WORKDIR TASKS [options of sbatch]
#   launch/slurm/sweep.sh experiments/scaling/worlds_isoflop.py /shared/runs/isoflop 8 \
#     --gres=gpu:1 --time=00:30:00
#
#   PYTHON  here and on the nodes; default: python
#
# WORKDIR must be on a file system that all nodes share. 120 s before its time limit, a task saves
# and is requeued. A task that was killed continues when you run the same command again.
set -euo pipefail
# shellcheck source=launch/lib.sh
source "${BASH_SOURCE[0]%/*}/../lib.sh"
# shellcheck source=launch/slurm/batch.sh
source "${BASH_SOURCE[0]%/*}/batch.sh"
(($# >= 3)) || die "CONFIG WORKDIR TASKS are needed; see --help"
config=$1 workdir=$2
[[ $config != -* && $workdir != -* ]] || die "CONFIG WORKDIR TASKS come before the options of sbatch"
check_shared "$workdir"
split "$config" "$3"
shift 3
sweep=$(quote "${PYTHON:-python}" -m videojax.launch --mode=sweep "--config=$config" "--workdir=$workdir")
options+=(--ntasks=1 "$@")
array=$(run sbatch --parsable --job-name=sweep --array=0-$((shares - 1)) "${options[@]}" --wrap \
  "$(batch "$sweep --cells=\$((SLURM_ARRAY_TASK_ID * $each)):\$(((SLURM_ARRAY_TASK_ID + 1) * $each))")")
run sbatch --job-name=sweep-end --dependency=afterok:"${array:-ARRAY}" "${options[@]}" --wrap "$(batch "$sweep")"
