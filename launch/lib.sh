# Shared by the scripts here, which source it after the comment that is their help. It removes
# --dry-run and --help from their arguments, wherever they are.
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
there="" # where the other machines have files that are not in this repository
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
      [[ ! ${word,,} =~ ^[^[:alnum:]./]+(no)?-?dry.?run(=|$) ]] || die "'$word': write --dry-run; see --help"
      words+=("$word")
      ;;
  esac
done
set -- "${words[@]}" # sets the arguments of the script that sources this file
[[ ! $dry ]] || exec 3>&1 # dry runs print here, even where a command's output is captured

# quote WORD...: prints them in single quotes, which every POSIX shell reads (dash does not read all
# that printf %q prints).
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

# need NAME...: checks that these variables are set.
need() {
  local name
  for name; do
    [[ ${!name:-} ]] || die "$name=... is needed before the command; see --help"
  done
}

# match NAME VALUE PATTERN MEANING: checks that the value matches, or is empty.
match() {
  local LC_ALL=C
  [[ ! $2 || $2 =~ ^($3)$ ]] || die "$1=$2 must be $4"
}

# number FROM NAME...: checks that these variables, if set, are whole numbers >= FROM.
number() {
  local name
  for name in "${@:2}"; do
    match "$name" "${!name:-}" "0|[1-9][0-9]{0,5}" "a whole number >= $1"
    ((${!name:-$1} >= $1)) || die "$name=${!name} must be a whole number >= $1"
  done
}

# spot: checks $SPOT, and makes it 1 or empty.
spot() {
  match SPOT "${SPOT:-}" "[01]" "1 or 0"
  [[ ${SPOT:-} == 1 ]] || SPOT=""
}

# need_flag NAME ARGUMENT...: checks that --NAME=VALUE is given, and puts the last one in $value.
need_flag() {
  local argument
  value=""
  for argument in "${@:2}"; do
    [[ $argument != "--$1="* ]] || value=${argument#*=}
  done
  [[ $value ]] || die "--$1=... is needed; see --help"
}

# check_flags ARGUMENT...: checks that they are flags of videojax.launch and that the config exists;
# puts it in $config.
check_flags() {
  local argument name
  for argument; do
    name=${argument#--} name=${name%%=*}
    [[ $argument == --* ]] || die "'$argument' is not a flag: flags are written --name=value"
    case $name in
      config | config.* | workdir | mode | cells | list | max-seconds | topology | slices) ;;
      search | step | trace | replicas | after | coordinator | processes | process) ;;
      prompts | prompt | negative | image | video | last | num | seed | out | frames | size) ;;
      wait-for-hosts | lost-after) ;;
      *) die "neither this script nor videojax.launch has a flag --$name" ;;
    esac
  done
  need_flag config "$@"
  config=$value
  check_config "$config"
}

# check_config FILE[:ARGUMENT]: checks that the file exists.
check_config() {
  local file=${1%%:*}
  [[ ! $there || $1 != "$there"* ]] || return 0 # only the other machines can see it
  [[ ! $there || /$file != *//* && /$file/ != */../* ]] || die "--config=$1: give the path in this repository, or in $there"
  [[ -f $file ]] || die "--config=$1: there is no file $file in $PWD"
}

# check_workdir DIR: checks that it is, or can become, a directory.
check_workdir() {
  [[ $1 != *://* ]] || die "--workdir=$1 must be a path: a bucket has to be mounted"
  [[ ! -e $1 || -d $1 ]] || die "--workdir=$1 is a file, not a directory"
}

# check_mesh DEVICES SLICES ARGUMENT...: checks that videojax.launch can run them on these devices.
check_mesh() {
  local code=0 said
  [[ ! $there || $config != "$there"* ]] || return 0
  said=$(JAX_PLATFORMS=cpu "${PYTHON:-python}" -m videojax.fits "$@" 2>&1) || code=$?
  ((code != 2)) || die "${said#*error: }"
  ((code == 0)) || warn "did not check that the mesh fits $1 devices, since videojax fails here:" \
    "${said##*$'\n'}"
}

# split CONFIG SHARES: sets $each, the number of cells per share, and $shares; no share is empty.
# The cells are counted with --list, which runs none of them, so also in a dry run.
split() {
  local cells empty
  [[ $2 =~ ^[1-9][0-9]{0,5}$ ]] || die "'$2' is not a number of shares; see --help"
  check_config "$1"
  empty=$(mktemp -d)
  # shellcheck disable=SC2064 # expanded now, while the variable exists
  trap "rm -rf $(quote "$empty")" EXIT
  cells=$("${PYTHON:-python}" -m videojax.launch --mode=sweep "--config=$1" "--workdir=$empty" --list | wc -l)
  ((cells > 0)) || die "--config=$1 has no cells"
  each=$(((cells + $2 - 1) / $2))
  # shellcheck disable=SC2034 # read by the scripts
  shares=$(((cells + each - 1) / each))
}
