# What gke/run.sh and gke/sweep.sh share; they source it. It sets what the pods ask for by TPU and
# TOPOLOGY, or GPU and GPUS: $chips of a pod, $hosts of a slice. `pod` prints the template of one.
# shellcheck shell=bash

need IMAGE CLAIM
name=$1
[[ $name =~ ^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$ ]] || die "NAME=$name: up to 40 of a-z, 0-9 and -, from a letter on"
hosts=1 selector=""
if [[ ${TPU:-} ]]; then
  need TOPOLOGY
  case $TPU in
    v4) accelerator=tpu-v4-podslice ;;
    v5e) accelerator=tpu-v5-lite-podslice ;;
    v5p) accelerator=tpu-v5p-slice ;;
    v6e) accelerator=tpu-v6e-slice ;;
    *) die "TPU=$TPU is none of v4, v5e, v5p, v6e" ;;
  esac
  [[ $TOPOLOGY =~ ^[1-9][0-9]*(x[1-9][0-9]*){1,2}$ ]] || die "TOPOLOGY=$TOPOLOGY must be like 4x4 or 2x2x4"
  all=$((${TOPOLOGY//x/*}))
  chips=$((all < 4 ? all : 4))
  [[ $TPU != v[56]e ]] || ((all > 8)) || chips=$all # these have machines of 1, 4 and 8 chips
  # shellcheck disable=SC2034 # hosts is read by the scripts
  hosts=$((all / chips)) resource=google.com/tpu
  selector="cloud.google.com/gke-tpu-accelerator: $accelerator, cloud.google.com/gke-tpu-topology: $TOPOLOGY"
else
  chips=${GPUS:-1} resource=nvidia.com/gpu
  [[ ! ${GPU:-} ]] || selector="cloud.google.com/gke-accelerator: $GPU"
fi
[[ ! ${SPOT:-} ]] || selector+="${selector:+, }cloud.google.com/gke-spot: \"true\""

# pod COMMAND...: extra lines of the container come from $environment, of the pod from $network.
pod() {
  local word words=""
  for word; do
    word=${word//\\/\\\\}
    words+=", \"${word//\"/\\\"}\""
  done
  sed 's/^/          /' <<YAML
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 120  # to save, where the node leaves so much
  nodeSelector: {$selector}${network:-}
  containers:
  - name: videojax
    image: $IMAGE
    command: [${words#, }]${environment:-}
    resources:
      limits: {$resource: $chips}
    volumeMounts: [{name: runs, mountPath: /runs}]
  volumes:
  - {name: runs, persistentVolumeClaim: {claimName: $CLAIM}}
YAML
}
