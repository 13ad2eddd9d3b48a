#!/usr/bin/env bash
# A sweep on a SLURM cluster: each task of the array runs its share of the cells; the last job runs
# the held-out cells, once all others are there, and writes the report.
#
#   launch/sweep_slurm.sh CONFIG WORKDIR TASKS [sbatch options...]
#   launch/sweep_slurm.sh experiments/scaling/worlds_isoflop.py /shared/runs/isoflop 8 \
#     --gres=gpu:1 --time=00:30:00
#
# WORKDIR is on a file system that all nodes see. A task that is killed goes on where it was when
# the same command is given again.
set -euo pipefail
config=$1 workdir=$2 tasks=$3
shift 3
run="${PYTHON:-python} -m videojax.launch --mode=sweep --config=$config --workdir=$workdir"
cells=$($run --list | wc -l)  # nothing runs
share=$(((cells + tasks - 1) / tasks))
tasks=$(((cells + share - 1) / share))  # none without a cell
array=$(sbatch --parsable --job-name=sweep --array=0-$((tasks - 1)) "$@" --wrap \
  "$run --cells=\$((SLURM_ARRAY_TASK_ID * $share)):\$(((SLURM_ARRAY_TASK_ID + 1) * $share))")
sbatch --job-name=sweep-end --dependency=afterok:"$array" "$@" --wrap "$run"
