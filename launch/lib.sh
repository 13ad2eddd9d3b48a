# What the scripts here share. They source it after the comment that is their help.
# shellcheck shell=bash

die() {
  echo "${0##*/}: $*" >&2
  exit 2
}

dry=""
case ${1:-} in
  -h | --help)
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
    exit
    ;;
  --dry-run)
    dry=1
    shift # of the script's own arguments: a sourced file has no others
    ;;
esac
[[ ! $dry ]] || exec 3>&1 # printed here: also where the output of a command would be captured

run() {
  local word line=""
  if [[ ! $dry ]]; then
    "$@"
    return
  fi
  for word; do
    [[ $word =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]] || word=${word@Q}
    line+=" $word"
  done
  echo "${line# }" >&3
}

# need NAME...: these variables are set.
need() {
  local name
  for name; do
    [[ ${!name:-} ]] || die "$name=... is needed before the command; see --help"
  done
}

# need_flag NAME ARGUMENT...: one of the arguments is --NAME=something, which is put in $value.
need_flag() {
  local name=$1 argument
  for argument in "${@:2}"; do
    value=${argument#"--$name="}
    [[ $value && $value != "$argument" ]] && return
  done
  die "--$name=... is needed; see --help"
}

# split CONFIG SHARES: $each, the cells of a share, and $shares, so many that none is empty.
# The cells are counted by --list, which runs none of them; so it is done in a dry run too.
split() {
  local cells
  [[ $2 =~ ^[1-9][0-9]*$ ]] || die "'$2' is no number of shares; see --help"
  cells=$("${PYTHON:-python}" -m videojax.launch --mode=sweep "--config=$1" --workdir=/tmp/none --list | wc -l)
  each=$(((cells + $2 - 1) / $2))
  # shellcheck disable=SC2034 # read by the scripts
  shares=$(((cells + each - 1) / each))
}
