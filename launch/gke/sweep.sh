#!/usr/bin/env bash
# Runs a sweep on GKE: prints the manifest of a JobSet of indexed pods, each with its share of the
# cells, and then one pod for the held-out cells and the report.
#
#   IMAGE=REGISTRY/videojax:TAG CLAIM=runs SHARES=8 launch/gke/sweep.sh CONFIG NAME | kubectl apply -f -
#
#   IMAGE, CLAIM, SPOT  as in gke/run.sh; the sweep is NAME in the claim
#   SHARES  number of parallel pods; default 1: one pod runs everything
#   GPUS    per pod, default 1; GPU: their kind. Or TPU=v6e TOPOLOGY=1x1, slices of one host
#   PYTHON  default: python; it counts the cells on this machine
#
# A pod that is evicted continues where it stopped. --dry-run prints only the pods' commands.
set -euo pipefail
# shellcheck source=launch/lib.sh
source "${BASH_SOURCE[0]%/*}/../lib.sh"
(($# == 2)) || die "CONFIG NAME are needed; see --help"
config=$1
shift
# shellcheck source=launch/gke/pod.sh
source "${BASH_SOURCE[0]%/*}/pod.sh"
((hosts == 1)) || die "TOPOLOGY=$TOPOLOGY of $TPU has $hosts hosts, but a cell runs on one"
split "$config" "${SHARES:-1}"
sweep=(python -m videojax.launch --mode=sweep "--config=$config" "--workdir=/runs/$name")
part="exec $(quote "${sweep[@]}") --cells=\$((JOB_COMPLETION_INDEX * $each)):\$(((JOB_COMPLETION_INDEX + 1) * $each))"
if [[ $dry ]]; then
  ((shares == 1)) || run bash -c "$part"
  run "${sweep[@]}"
  exit
fi

# A pod that was stopped after saving, or lost its node, is replaced without limit.
stopped="{action: Ignore, onExitCodes: {operator: In, values: [143]}}, "
stopped+="{action: Ignore, onPodConditions: [{type: DisruptionTarget}]}"
cells="" after=""
if ((shares > 1)); then
  after="
    dependsOn: [{name: cells, status: Complete}]"
  cells="
  - name: cells
    template:
      spec:
        completionMode: Indexed
        parallelism: $shares
        completions: $shares
        backoffLimitPerIndex: 3
        podFailurePolicy: {rules: [$stopped]}
        template:
$(pod bash -c "$part")"
fi
cat <<YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $name
spec:
  replicatedJobs:$cells
  - name: report$after
    template:
      spec:
        parallelism: 1
        completions: 1
        backoffLimit: 3
        podFailurePolicy: {rules: [$stopped]}
        template:
$(pod "${sweep[@]}")
YAML
