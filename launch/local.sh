#!/usr/bin/env bash
# Runs on this machine: one process, or several over loopback, each with fake CPU devices.
#
#   launch/local.sh [--dry-run] --config=FILE --workdir=DIR [more arguments of videojax.launch]
#   PROCESSES=2 DEVICES=4 launch/local.sh --config=experiments/quickstart.py --workdir=runs/two
#
#   PROCESSES  number of processes; default 1. Several use JAX_PLATFORMS=cpu and share the cores
#   DEVICES    fake CPU devices per process; default 1
#   PORT       where the others connect to process 0; default: a random port
#   PYTHON     default: python
#
# Ctrl-C and SIGTERM go to all processes, which save and exit with 143. If one fails, the others,
# which cannot continue without it, are killed. Nothing is restarted: run the same command again.
set -euo pipefail
# shellcheck source=launch/lib.sh
source "${BASH_SOURCE[0]%/*}/lib.sh"
check_flags "$@"
need_flag workdir "$@"
check_workdir "$value"
number 1 PROCESSES DEVICES PORT
processes=${PROCESSES:-1}
((${PORT:-1} < 65536)) || die "PORT=$PORT must be at most 65535"
command=("${PYTHON:-python}" -m videojax.launch "$@")
if ((processes == 1)); then
  [[ $dry ]] || exec "${command[@]}"
  run "${command[@]}"
  exit
fi

address=127.0.0.1:${PORT:-$((20000 + RANDOM % 10000))}
pids=()
set -m # each process in its own group, so that Ctrl-C reaches it once, through the trap
for ((i = 0; i < processes; i++)); do
  one=(env "JAX_COORDINATOR_ADDRESS=$address" "JAX_NUM_PROCESSES=$processes" "JAX_PROCESS_ID=$i"
    JAX_PLATFORMS=cpu "JAX_NUM_CPU_DEVICES=${DEVICES:-1}" "${command[@]}")
  if [[ $dry ]]; then
    run "${one[@]}"
  else
    "${one[@]}" &
    pids+=($!)
  fi
done
set +m
trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' INT TERM
code=0
while ((${#pids[@]})); do
  for i in "${!pids[@]}"; do
    kill -0 "${pids[i]}" 2>/dev/null && continue
    status=0
    wait "${pids[i]}" || status=$?
    unset "pids[i]"
    ((status)) || continue
    ((code)) || code=$status
    if ((status != 143 && ${#pids[@]})); then
      echo "${0##*/}: process $i failed with $status; killing the others" >&2
      kill -KILL "${pids[@]}" 2>/dev/null || true
      wait "${pids[@]}" 2>/dev/null || true
      exit "$code"
    fi
  done
  sleep 0.1 || true # Ctrl-C ends the sleep
done
exit "$code"
