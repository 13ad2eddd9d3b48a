#!/usr/bin/env bash
# A sweep on a SLURM cluster: each task of the array runs its share of the cells; the last job runs
# the held-out cells, once all others are there, and writes the report.
#
#   launch/slurm/sweep.sh [--dry-run] CONFIG WORKDIR TASKS [options of sbatch]
#   launch/slurm/sweep.sh experiments/scaling/worlds_isoflop.py /shared/runs/isoflop 8 \
#     --gres=gpu:1 --time=00:30:00
#
#   PYTHON  python, here and on the nodes
#
# WORKDIR is on a file system that all nodes see. 120 s before its time is up a task saves, and goes
# back into the queue; one that is killed goes on where it was when the same command is given again.
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
