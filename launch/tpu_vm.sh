#!/usr/bin/env bash
# Runs on a TPU VM of one or more hosts: requests a queued resource or uses the VM of that name,
# installs the last commit of this repository on all workers, runs the command on all of them and
# shows their output. If the VM is preempted or deleted, requests another and repeats the command.
#
#   ZONE=us-east1-d TYPE=v6e-8 SPOT=1 launch/tpu_vm.sh [--dry-run] run NAME \
#     --config=FILE --workdir=gs://BUCKET/DIR [more arguments of videojax.launch]
#   ZONE=us-east1-d launch/tpu_vm.sh [--dry-run] delete NAME    stops the run first, which saves
#
#   TYPE     accelerator type: v6e-8, v5litepod-16 (or v5e-16), v5p-32, v4-8, ...
#   SPOT     1: a spot VM, which costs less and may be preempted
#   RUNTIME  software version of the VM; default: according to TYPE
#   WAIT     seconds between looks at a VM that is being created or was lost; default 60
#
# gs://BUCKET/ in the arguments becomes /mnt/gs/BUCKET/, where gcsfuse mounts the workdir's bucket
# on every worker; the bucket needs a hierarchical namespace, so that directories can be renamed.
# Several workers need `ssh-add ~/.ssh/google_compute_engine`. If the connection is lost or this
# script ends (Ctrl-C), the run continues, and the same command waits for it. The VM is kept at the
# end of the run.
set -euo pipefail
# shellcheck source=launch/lib.sh
source "${BASH_SOURCE[0]%/*}/lib.sh"
(($# >= 2)) || die "run NAME or delete NAME is needed; see --help"
need ZONE
verb=$1 name=$2 wait=${WAIT:-60}
shift 2
[[ $verb == run || $verb == delete ]] || die "'$verb' is neither run nor delete; see --help"
[[ $verb == delete ]] || need TYPE
match NAME "$name" "[a-z]([a-z0-9-]{0,61}[a-z0-9])?" "up to 63 of a-z, 0-9 and -, starting with a letter"
match ZONE "$ZONE" "[a-z]+(-[a-z0-9]+)+" "a zone, like us-east1-d"
cd "$root"

tpus() { run gcloud compute tpus "$@" --zone="$ZONE" --quiet; }
on_all() { tpus tpu-vm ssh "$name" --worker=all --command="$1"; }
state() { tpus "$1" describe "$name" --format="value($2)" 2>/dev/null || true; } # '': there is none
delete() { tpus queued-resources delete "$name" --force || tpus tpu-vm delete "$name"; }

if [[ $verb == delete ]]; then
  (($# == 0)) || die "'$1': delete takes a NAME and nothing else"
  on_all "pkill -TERM -f '^[.]venv/bin/python -m videojax.launch'; flock videojax.lock true" || true
  delete
  exit
fi
number 0 WAIT
match RUNTIME "${RUNTIME:-}" "[a-z0-9.-]+" "a software version, like v2-alpha-tpuv6e"
spot
TYPE=${TYPE/#v5e-/v5litepod-} # as gcloud calls it
match TYPE "$TYPE" "(v6e|v5litepod)-(1|4|8|16|32|64|128|256)|(v2|v3|v4|v5p)-[1-9][0-9]{0,4}" \
  "like v6e-8, v5litepod-16, v5p-32 or v4-8"
devices=${TYPE#*-}
[[ $TYPE == v6e-* || $TYPE == v5l* ]] || ((devices % 8 == 0)) || die "TYPE=$TYPE must be a multiple of 8 cores"
case $TYPE in
  v6e-*) runtime=v2-alpha-tpuv6e ;;
  v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
  v5p-*) runtime=v2-alpha-tpuv5 devices=$((devices / 2)) ;; # of two cores each
  v4-*) runtime=tpu-ubuntu2204-base devices=$((devices / 2)) ;;
  *) runtime=tpu-ubuntu2204-base ;;
esac
there=gs:// # config and data may be there; otherwise workers have only what is committed
check_flags "$@"
need_flag workdir "$@"
bucket=""
if [[ $value == gs://* ]]; then
  [[ $value =~ ^gs://([a-z0-9][a-z0-9._-]+)/[^/] ]] || die "--workdir=$value must be gs://BUCKET/DIR"
  bucket=${BASH_REMATCH[1]}
else
  check_workdir "$value"
  warn "--workdir=$value is on the VM's disk, which is deleted with the VM and differs between hosts:" \
    "give gs://BUCKET/DIR"
fi
if [[ $config == gs://* ]]; then
  [[ $config == "gs://$bucket/"* ]] || die "--config=$config is not in the workdir's bucket, the only one that is mounted"
else
  git cat-file -e "HEAD:./${config%%:*}" 2>/dev/null || die "--config=$config is not in the last commit, which the VM gets"
fi
check_mesh "$devices" 1 "$@"
files=$(mktemp -d) # the commit is sent as a bundle, so that the run can record it
trap 'rm -rf "$files"' EXIT
run git bundle create -q "$files/videojax.bundle" HEAD

# With the lock, no command changes the files of a running one: the second waits for the first.
# tee continues when its output is closed, so that a lost connection does not end the run.
install="flock videojax.lock bash -c 'rm -rf videojax && git clone -q videojax.bundle videojax &&"
install+=" bash videojax/launch/tpu_setup.sh $bucket'"
launch=$(quote .venv/bin/python -m videojax.launch "${@//gs:\/\/$bucket\///mnt/gs/$bucket/}")
launch="set -o pipefail; cd videojax && flock ../videojax.lock $launch 2>&1 | tee -aip ../videojax.log"

ready() { # waits for the VM, and requests it if there is none
  local vm queue
  while :; do
    vm=$(state tpu-vm state) queue=$(state queued-resources state.state)
    case $vm/$queue in
      READY/*) return ;;
      /) tpus queued-resources create "$name" --node-id="$name" --accelerator-type="$TYPE" \
        --runtime-version="${RUNTIME:-$runtime}" ${SPOT:+--spot} ;;
      */FAILED) die "the queued resource $name failed: look at it with gcloud describe, and delete it" ;;
      PREEMPTED/* | TERMINATED/* | */SUSPENDED) delete ;;
      *) sleep "$wait" ;;
    esac
    [[ ! $dry ]] || return 0
  done
}

while :; do
  ready
  status=0
  { tpus tpu-vm scp "$files/videojax.bundle" "$name:" --worker=all && on_all "$install" && on_all "$launch"; } || status=$?
  ((status)) || exit 0
  echo "${0##*/}: ended with $status" >&2
  sleep "$wait" # a VM ends 30 s after its notice
  # 143: stopped and saved; 255: no connection. Otherwise it failed by itself, if its VM still exists.
  ((status == 143 || status == 255)) || [[ $(state tpu-vm state) != READY ]] || exit "$status"
done
