#!/usr/bin/env bash
# Called by tpu_vm.sh on every worker of a TPU VM: the tested versions in .venv, with a Python of
# their own (the VM's is too old), and the bucket that is named, if one is, at /mnt/gs/BUCKET.
#
#   launch/tpu_setup.sh [BUCKET]
set -euo pipefail
cd "${BASH_SOURCE[0]%/*}/.."
python3 -m pip install -q --user uv
~/.local/bin/uv venv -q --python=3.12 .venv
~/.local/bin/uv pip install -q -p .venv/bin/python -c .constraints/py312.txt '.[tpu]'

bucket=${1:-} at=/mnt/gs/${1:-}
if [[ ! $bucket ]] || mountpoint -q "$at"; then
  exit
fi
if ! command -v gcsfuse >/dev/null; then
  key=/usr/share/keyrings/cloud.google.asc packages=https://packages.cloud.google.com/apt
  curl -sSf "$packages/doc/apt-key.gpg" | sudo tee "$key" >/dev/null
  echo "deb [signed-by=$key] $packages gcsfuse-$(lsb_release -cs) main" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  sudo apt-get -q -o DPkg::Lock::Timeout=300 update
  sudo apt-get -q -o DPkg::Lock::Timeout=300 install -y gcsfuse
fi
sudo mkdir -p "$at"
sudo chown "$(id -u)" "$at"
# Nothing is cached: the workers wait for each other's files.
gcsfuse --metadata-cache-ttl-secs=0 --metadata-cache-negative-ttl-secs=0 \
  --kernel-list-cache-ttl-secs=0 "$bucket" "$at"
