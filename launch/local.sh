#!/usr/bin/env bash
# A run here: one process, or several that find each other over loopback, each with fake CPU devices.
#
#   launch/local.sh [--dry-run] --config=FILE --workdir=DIR [more arguments of videojax.launch]
#   PROCESSES=2 DEVICES=4 launch/local.sh --config=experiments/quickstart.py --workdir=runs/two
#
#   PROCESSES  1; with more, JAX_PLATFORMS=cpu, and the processes share the cores
#   DEVICES    1, the fake CPU devices of each process
#   PORT       of the first process, at which the others find it; default: one at random
#   PYTHON     python
#
# Ctrl-C and SIGTERM go to all processes, which save and end with 143. When one fails, the others
# are killed: what they would do next needs it. Nothing is started again; the same command continues.
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
set -m # each process in a group of its own, so that Ctrl-C reaches it once, through the trap
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
      echo "${0##*/}: process $i failed with $status, the others are killed" >&2
      kill -KILL "${pids[@]}" 2>/dev/null || true
      wait "${pids[@]}" 2>/dev/null || true
      exit "$code"
    fi
  done
  sleep 0.1 || true # which Ctrl-C ends
done
exit "$code"
