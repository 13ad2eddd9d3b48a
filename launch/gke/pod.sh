# Shared by gke/run.sh and gke/sweep.sh, which source it. It sets what pods request, from TPU and
# TOPOLOGY or from GPU and GPUS: $chips per pod, $hosts per slice. `pod` prints a pod's template.
# shellcheck shell=bash

need IMAGE CLAIM
match IMAGE "$IMAGE" "[A-Za-z0-9][A-Za-z0-9._:/@-]*" "an image's name, like REGISTRY/videojax:TAG"
match CLAIM "$CLAIM" "[a-z0-9]([a-z0-9.-]*[a-z0-9])?" "a claim's name: a-z, 0-9, - and ."
match GPU "${GPU:-}" "[a-z0-9]([a-z0-9.-]*[a-z0-9])?" "like nvidia-h100-80gb"
number 0 GPUS RESTARTS
number 1 NODES SLICES
spot
# shellcheck disable=SC2034 # read by the scripts
name=$1
match NAME "$1" "[a-z]([a-z0-9-]{0,38}[a-z0-9])?" "up to 40 of a-z, 0-9 and -, starting with a letter"
# Pods have the committed files, in the image, and the claim. What is in the image is also here.
# shellcheck disable=SC2034 # read by check_config
there=/runs/
# shellcheck disable=SC2154,SC2164 # set by lib.sh; the scripts end where anything fails
cd "$root"
printf '%s\n' "$@" | iconv -f UTF-8 -t UTF-8 >/dev/null 2>&1 || die "an argument is not UTF-8, as manifests must be"
hosts=1 selector=""
if [[ ${TPU:-} ]]; then
  need TOPOLOGY
  plane="(1x1|2x2|2x4|4x4|4x8|8x8|8x16|16x16)" cube="([1-9][0-9]?x){2}[1-9][0-9]?"
  case $TPU in
    v4) accelerator=tpu-v4-podslice ;;
    v5e | v5litepod) accelerator=tpu-v5-lite-podslice ;;
    v5p) accelerator=tpu-v5p-slice ;;
    v6e) accelerator=tpu-v6e-slice ;;
    *) die "TPU=$TPU must be one of v4, v5e, v5p, v6e" ;;
  esac
  case $TPU in
    v4 | v5p) match TOPOLOGY "$TOPOLOGY" "$cube" "like 2x2x1 or 4x4x8 for $TPU" ;;
    *) match TOPOLOGY "$TOPOLOGY" "$plane" "one of ${plane//[()]/}, for $TPU" ;;
  esac
  all=$((${TOPOLOGY//x/*}))
  ((all == 1 || all % 4 == 0)) || die "TOPOLOGY=$TOPOLOGY has $all chips, but a $TPU machine has 4"
  chips=$((all < 4 ? all : 4))
  [[ $TPU == v4 || $TPU == v5p ]] || ((all > 8)) || chips=$all # these have machines of 1, 4 and 8 chips
  # shellcheck disable=SC2034 # hosts is read by the scripts
  hosts=$((all / chips)) resource=google.com/tpu
  selector="cloud.google.com/gke-tpu-accelerator: $accelerator, cloud.google.com/gke-tpu-topology: $TOPOLOGY"
else
  chips=${GPUS:-1} resource=nvidia.com/gpu
  [[ ! ${GPU:-} ]] || selector="cloud.google.com/gke-accelerator: $GPU"
fi
[[ ! ${SPOT:-} ]] || selector+="${selector:+, }cloud.google.com/gke-spot: \"true\""

# in_yaml WORD: prints it for double quotes in YAML; Kubernetes expands $(NAME) and turns $$ into $.
# Control characters (also Unicode's) and line breaks of YAML are escaped, bytewise here.
in_yaml() {
  local LC_ALL=C word=$1 i code character first
  word=${word//\\/\\\\} word=${word//'"'/'\"'} word=${word//'$'/'$$'}
  for ((i = 1; i < 160; i++)); do
    ((i < 32 || i > 126)) || continue
    printf -v code '\\x%02x' "$i"
    ((i < 128)) && first="" || first='\xc2'
    printf -v character %b "$first$code"
    word=${word//"$character"/"$code"}
  done
  word=${word//$'\xe2\x80\xa8'/'\L'} word=${word//$'\xe2\x80\xa9'/'\P'} word=${word//$'\xef\xbb\xbf'/'\uFEFF'}
  printf %s "$word"
}

# pod COMMAND...: $environment has extra lines for the container, $network for the pod.
pod() {
  local word words=""
  for word; do
    words+=", \"$(in_yaml "$word")\""
  done
  sed 's/^/          /' <<YAML
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 120  # to save, if the node allows this much
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
