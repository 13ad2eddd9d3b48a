# What the scripts here share. They source it after the comment that is their help. It takes
# --dry-run and --help from their arguments, wherever these stand.
# shellcheck shell=bash

warn() {
  local text=$*
  echo "${0##*/}: ${text//[[:cntrl:]]/ }" >&2
}

die() {
  warn "$@"
  exit 2
}

# shellcheck disable=SC2034 # read by the scripts
root=$(CDPATH="" cd "${BASH_SOURCE[0]%/*}/.." && pwd) # of this repository
there="" # the directory where other machines have what is not of this repository
dry="" words=()
for word; do
  case $word in
    -h | --help)
      sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
      exit
      ;;
    --dry-run) dry=1 ;;
    "") die "an argument is empty; see --help" ;;
    *)
      [[ ! ${word,,} =~ ^[^[:alnum:]./]+(no)?-?dry.?run(=|$) ]] || die "'$word' is not --dry-run; see --help"
      words+=("$word")
      ;;
  esac
done
set -- "${words[@]}" # the script's own arguments: a sourced file has no others
[[ ! $dry ]] || exec 3>&1 # printed here: also where the output of a command would be captured

# quote WORD...: in single quotes, which every POSIX shell reads (printf %q writes what dash does not).
quote() {
  local LC_ALL=C word line="" inner="'\\''"
  for word; do
    [[ $word =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]] || word="'${word//"'"/"$inner"}'"
    line+=" $word"
  done
  printf %s "${line# }"
}

run() {
  if [[ $dry ]]; then
    printf '%s\n' "$(quote "$@")" >&3
  else
    "$@"
  fi
}

# need NAME...: these variables are set.
need() {
  local name
  for name; do
    [[ ${!name:-} ]] || die "$name=... is needed before the command; see --help"
  done
}

# match NAME VALUE PATTERN MEANING: the value is that, or empty.
match() {
  local LC_ALL=C
  [[ ! $2 || $2 =~ ^($3)$ ]] || die "$1=$2 must be $4"
}

# number FROM NAME...: these variables, where they are set.
number() {
  local name
  for name in "${@:2}"; do
    match "$name" "${!name:-}" "0|[1-9][0-9]{0,5}" "a whole number from $1 on"
    ((${!name:-$1} >= $1)) || die "$name=${!name} must be a whole number from $1 on"
  done
}

# spot: $SPOT is 1, or empty.
spot() {
  match SPOT "${SPOT:-}" "[01]" "1, or 0"
  [[ ${SPOT:-} == 1 ]] || SPOT=""
}

# need_flag NAME ARGUMENT...: one of the arguments is --NAME=something; the last is put in $value.
need_flag() {
  local argument
  value=""
  for argument in "${@:2}"; do
    [[ $argument != "--$1="* ]] || value=${argument#*=}
  done
  [[ $value ]] || die "--$1=... is needed; see --help"
}

# check_flags ARGUMENT...: they are flags of videojax.launch, and the config, put in $config, is there.
check_flags() {
  local argument name
  for argument; do
    name=${argument#--} name=${name%%=*}
    [[ $argument == --* ]] || die "'$argument' is no flag: flags are written --name=value"
    case $name in
      config | config.* | workdir | mode | cells | list | max-seconds | topology | slices) ;;
      search | step | trace | replicas | after | coordinator | processes | process) ;;
      wait-for-hosts | lost-after) ;;
      *) die "there is no flag --$name, of this script or of videojax.launch" ;;
    esac
  done
  need_flag config "$@"
  config=$value
  check_config "$config"
}

# check_config FILE[:ARGUMENT]: the file is there.
check_config() {
  local file=${1%%:*}
  [[ ! $there || $1 != "$there"* ]] || return 0 # only they can see it
  [[ ! $there || /$file != *//* && /$file/ != */../* ]] || die "--config=$1: give the path in this repository, or in $there"
  [[ -f $file ]] || die "--config=$1: there is no file $file in $PWD"
}

# check_workdir DIR: it is, or can be, a directory.
check_workdir() {
  [[ $1 != *://* ]] || die "--workdir=$1 must be a path: a bucket has to be mounted"
  [[ ! -e $1 || -d $1 ]] || die "--workdir=$1 is a file, not a directory"
}

# check_mesh DEVICES SLICES ARGUMENT...: videojax.launch can run these arguments on so many.
check_mesh() {
  local code=0 said
  [[ ! $there || $config != "$there"* ]] || return 0
  said=$(JAX_PLATFORMS=cpu "${PYTHON:-python}" -m videojax.fits "$@" 2>&1) || code=$?
  ((code != 2)) || die "${said#*error: }"
  ((code == 0)) || warn "not checked whether the mesh fits $1 devices, for want of videojax here:" \
    "${said##*$'\n'}"
}

# split CONFIG SHARES: $each, the cells of a share, and $shares, so many that none is empty.
# The cells are counted by --list, which runs none of them; so it is done in a dry run too.
split() {
  local cells empty
  [[ $2 =~ ^[1-9][0-9]{0,5}$ ]] || die "'$2' is no number of shares; see --help"
  check_config "$1"
  empty=$(mktemp -d)
  # shellcheck disable=SC2064 # now, while the variable is there
  trap "rm -rf $(quote "$empty")" EXIT
  cells=$("${PYTHON:-python}" -m videojax.launch --mode=sweep "--config=$1" "--workdir=$empty" --list | wc -l)
  ((cells > 0)) || die "--config=$1 has no cells"
  each=$(((cells + $2 - 1) / $2))
  # shellcheck disable=SC2034 # read by the scripts
  shares=$(((cells + each - 1) / each))
}
