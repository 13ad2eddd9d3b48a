# What slurm/run.sh and slurm/sweep.sh share; they source it.
# shellcheck shell=bash

# Before the job's time is up SLURM sends its steps SIGTERM (with "B:" it would go to the batch shell
# alone, and srun answers SIGTERM with SIGKILL to its tasks). The run saves and ends with 143.
# shellcheck disable=SC2034 # read by the scripts
options=(--requeue --signal=TERM@120 --open-mode=append)

# check_shared DIR: a directory that all nodes can see.
check_shared() {
  check_workdir "$1"
  case $1 in
    /tmp/* | /var/tmp/* | /dev/shm/*) warn "--workdir=$1 is another directory on each node" ;;
  esac
}

# batch COMMAND: the batch script. A job that was stopped and saved goes back into the queue. It is
# run by sh. scancel ends the script itself, so that a cancelled job does not.
batch() {
  # shellcheck disable=SC2016 # the variables are the job's
  printf 'code=0; srun --kill-on-bad-exit=0 ${SLURM_CPUS_PER_TASK:+--cpus-per-task=$SLURM_CPUS_PER_TASK} %s || code=$?; [ $code -ne 143 ] || scontrol requeue $SLURM_JOB_ID; exit $code' "$1"
}
