#!/usr/bin/env bash
# Runs on GKE, on TPU slices or on nodes with GPUs: prints the manifest of a JobSet.
#
#   IMAGE=REGISTRY/videojax:TAG CLAIM=runs TPU=v6e TOPOLOGY=4x4 launch/gke/run.sh NAME \
#     --config=FILE [more arguments of videojax.launch] | kubectl apply -f -
#   IMAGE=... CLAIM=runs GPU=nvidia-h100-80gb GPUS=8 NODES=2 launch/gke/run.sh NAME --config=FILE ...
#
#   IMAGE     built from launch/gke/Dockerfile
#   CLAIM     a PersistentVolumeClaim that all pods can write (ReadWriteMany); the run is NAME in it
#   TPU       v4, v5e, v5p or v6e; TOPOLOGY: of a slice; SLICES: their number, default 1
#   GPU       the nodes' cloud.google.com/gke-accelerator; GPUS per node and NODES, default 1
#   SPOT      1: spot nodes, which cost less and may be preempted
#   RESTARTS  after failures; default 3. A run that was stopped after saving (143) or lost its node
#             is restarted without limit
#
# --dry-run prints only the command of the pods.
set -euo pipefail
# shellcheck source=launch/lib.sh
source "${BASH_SOURCE[0]%/*}/../lib.sh"
(($#)) || die "NAME is needed; see --help"
# shellcheck source=launch/gke/pod.sh
source "${BASH_SOURCE[0]%/*}/pod.sh"
shift
check_flags "$@"
for word; do
  [[ $word != --workdir* ]] || die "give no --workdir: it is /runs/$name, in the claim"
done
command=(python -m videojax.launch "$@" "--workdir=/runs/$name")
slices=${SLICES:-1} annotations="" environment="" network=""
if [[ ! ${TPU:-} ]]; then
  [[ $slices == 1 ]] || die "SLICES=$slices is for TPUs: give TPU and TOPOLOGY, or NODES"
  hosts=${NODES:-1}
  ((hosts == 1)) || environment="
    env:
    - {name: JAX_COORDINATOR_ADDRESS, value: \"$name-workers-0-0.$name:8476\"}
    - {name: JAX_NUM_PROCESSES, value: \"$hosts\"}
    - name: JAX_PROCESS_ID
      valueFrom: {fieldRef: {fieldPath: \"metadata.annotations['batch.kubernetes.io/job-completion-index']\"}}"
elif ((hosts > 1)); then # jax finds the others through variables that GKE sets in the pods
  annotations="
  annotations: {alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool}"
  ((slices == 1)) || network="
  hostNetwork: true  # between slices
  dnsPolicy: ClusterFirstWithHostNet"
elif ((slices > 1)); then
  die "SLICES=$slices needs slices of several hosts; TOPOLOGY=$TOPOLOGY of $TPU has one"
fi
check_mesh $((hosts * slices * (chips ? chips : 1))) "$slices" "${command[@]:3}"
[[ ! $dry ]] || { run "${command[@]}" && exit; }
cat <<YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $name$annotations
spec:
  failurePolicy:
    maxRestarts: ${RESTARTS:-3}
    rules:
    - {name: stopped, action: RestartJobSetAndIgnoreMaxRestarts, onJobFailureReasons: [PodFailurePolicy]}
  replicatedJobs:
  - name: workers
    replicas: $slices
    template:
      spec:
        completionMode: Indexed
        parallelism: $hosts
        completions: $hosts
        backoffLimit: 0  # if one fails, the others cannot continue
        podFailurePolicy:
          rules:
          - {action: FailJob, onExitCodes: {operator: In, values: [143]}}
          - {action: FailJob, onPodConditions: [{type: DisruptionTarget}]}
        template:
$(pod "${command[@]}")
YAML
