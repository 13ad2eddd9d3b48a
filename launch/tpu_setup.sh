#!/usr/bin/env bash
# Called by tpu_vm.sh on every worker of a TPU VM: installs the tested versions in .venv, with its
# own Python (the VM's is too old), and mounts BUCKET, if given, at /mnt/gs/BUCKET.
#
#   launch/tpu_setup.sh [--dry-run] [BUCKET]
set -euo pipefail
# shellcheck source=launch/lib.sh
source "${BASH_SOURCE[0]%/*}/lib.sh"
(($# <= 1)) || die "'$2': at most one BUCKET can be given; see --help"
bucket=${1:-} at=/mnt/gs/${1:-}
match BUCKET "$bucket" "[a-z0-9][a-z0-9._-]+" "a bucket's name"
cd "$root"
run python3 -m pip install -q --user uv
run ~/.local/bin/uv venv -q --python=3.12 .venv
run ~/.local/bin/uv pip install -q -p .venv/bin/python -c .constraints/py312.txt '.[tpu]'

if [[ ! $bucket ]] || mountpoint -q "$at"; then
  exit
fi
if ! command -v gcsfuse >/dev/null; then
  key=/usr/share/keyrings/cloud.google.asc packages=https://packages.cloud.google.com/apt
  run bash -c "set -o pipefail; curl -sSf $packages/doc/apt-key.gpg | sudo tee $key >/dev/null"
  source="deb [signed-by=$key] $packages gcsfuse-$(lsb_release -cs) main"
  run bash -c "echo '$source' | sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null"
  run sudo apt-get -q -o DPkg::Lock::Timeout=300 update
  run sudo apt-get -q -o DPkg::Lock::Timeout=300 install -y gcsfuse
fi
run sudo mkdir -p "$at"
run sudo chown "$(id -u)" "$at"
# Without caches, since the workers wait for each other's files.
run gcsfuse --metadata-cache-ttl-secs=0 --metadata-cache-negative-ttl-secs=0 \
  --kernel-list-cache-ttl-secs=0 "$bucket" "$at"
