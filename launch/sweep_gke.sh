#!/usr/bin/env bash
# A sweep on Kubernetes (GKE): an indexed Job, each pod with its share of the cells. Prints the
# manifest; run it again with SHARES=1 when the Job is complete, for the held-out cells and the report.
#
#   IMAGE=REGISTRY/videojax:TAG CLAIM=runs SHARES=8 launch/sweep_gke.sh CONFIG NAME | kubectl apply -f -
#
# IMAGE has videojax installed and its repository as working directory; CLAIM is a PersistentVolumeClaim
# that all pods can write (ReadWriteMany), where the runs are kept under NAME. GPUS=1, or for TPUs
# RESOURCE=google.com/tpu GPUS=4.
set -euo pipefail
config=$1 name=$2
: "${IMAGE:?the container image}" "${CLAIM:?the volume claim of the runs}"
run="python -m videojax.launch --mode=sweep --config=$config --workdir=/runs/$name"
part=""
if ((SHARES > 1)); then
  cells=$(${PYTHON:-python} -m videojax.launch --mode=sweep --config="$config" --workdir=/tmp/none --list | wc -l)
  share=$(((cells + SHARES - 1) / SHARES))
  SHARES=$(((cells + share - 1) / share))  # no pod without a cell
  part=" --cells=\$((JOB_COMPLETION_INDEX * $share)):\$(((JOB_COMPLETION_INDEX + 1) * $share))"
fi
cat <<YAML
apiVersion: batch/v1
kind: Job
metadata:
  name: sweep-$name-$SHARES
spec:
  completions: $SHARES
  parallelism: $SHARES
  completionMode: Indexed
  backoffLimitPerIndex: 3  # a pod that is evicted goes on where it was
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: sweep
        image: $IMAGE
        command: ["bash", "-c", "$run$part"]
        resources:
          limits: {"${RESOURCE:-nvidia.com/gpu}": ${GPUS:-1}}
        volumeMounts: [{name: runs, mountPath: /runs}]
      volumes:
      - name: runs
        persistentVolumeClaim: {claimName: $CLAIM}
YAML
