# Shared by slurm/run.sh and slurm/sweep.sh, which source it.
# shellcheck shell=bash

# Before the job's time limit, SLURM sends SIGTERM to its steps (with "B:", only to the batch shell,
# and srun answers SIGTERM with SIGKILL to its tasks). The run saves and exits with 143.
# shellcheck disable=SC2034 # read by the scripts
options=(--requeue --signal=TERM@120 --open-mode=append)

# check_shared DIR: a directory that all nodes can see.
check_shared() {
  check_workdir "$1"
  case $1 in
    /tmp/* | /var/tmp/* | /dev/shm/*) warn "--workdir=$1 is a different directory on each node" ;;
  esac
}

# batch COMMAND: prints the batch script, which sh runs. A job that was stopped after saving is
# requeued. A cancelled job is not, because scancel ends the script itself.
batch() {
  # shellcheck disable=SC2016 # the variables are the job's
  printf 'code=0; srun --kill-on-bad-exit=0 ${SLURM_CPUS_PER_TASK:+--cpus-per-task=$SLURM_CPUS_PER_TASK} %s || code=$?; [ $code -ne 143 ] || scontrol requeue $SLURM_JOB_ID; exit $code' "$1"
}
