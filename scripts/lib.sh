# shellcheck shell=bash
# What the launcher's scripts share: messages, and long steps that show progress and can be interrupted. Everything is
# said on stderr, so that the output of `./ceiling ARGS` is the program's alone.

say() { printf 'ceiling: %s\n' "$*" >&2; }

die() {
  printf 'ceiling: %s\n' "$1" >&2
  shift
  (($# == 0)) || printf '  %s\n' "$@" >&2
  exit 1
}

# The step in the background, which leads a process group, and the commands that clean up after an interrupt or an error.
child=
on_exit=()

stop_child() {
  if [[ -n $child ]]; then
    kill -TERM -- "-$child" 2>/dev/null || true
    wait "$child" 2>/dev/null || true
    child=
  fi
}
# Called by traps.
# shellcheck disable=SC2329,SC2317
interrupted() {
  clear_line
  say "interrupted; the next ./ceiling goes on from here"
  exit "$1"
}
# shellcheck disable=SC2329,SC2317
clean_up() {
  local command
  stop_child
  for command in "${on_exit[@]+"${on_exit[@]}"}"; do eval "$command"; done
}
trap clean_up EXIT
trap 'interrupted 130' INT
trap 'interrupted 143' TERM HUP

clear_line() { if [[ -t 2 ]]; then printf '\r\e[K' >&2; fi; }

# run_step LABEL LOG STATUS COMMAND...: runs the command with its output appended to LOG. The command STATUS prints how
# far it is: a live line on a terminal, a line every 15 seconds elsewhere. Returns the command's status.
run_step() {
  local label=$1 log=$2 status=$3 started=$SECONDS shown=$SECONDS line code=0
  shift 3
  say "$label"
  set -m # a process group of its own, so that an interrupt ends all of it
  "$@" >>"$log" 2>&1 </dev/null & # it holds our locks: should this script be killed, the next one waits for it
  child=$!
  set +m
  while kill -0 "$child" 2>/dev/null; do
    if [[ -t 2 ]]; then
      line="  $((SECONDS - started)) s  $("$status")"
      printf '\r\e[K%s' "${line:0:$((${COLUMNS:-$(tput cols 2>/dev/null || echo 80)} - 1))}" >&2
    elif ((SECONDS - shown >= 15)); then
      shown=$SECONDS
      line=$("$status")
      say "  $((SECONDS - started)) s  ${line:0:100}"
    fi
    sleep 0.2
  done
  wait "$child" || code=$?
  child=
  clear_line
  if ((code == 0)); then say "  done in $((SECONDS - started)) s"; else say "  failed after $((SECONDS - started)) s"; fi
  return "$code"
}

# need_disk FOLDER MIB WHAT: stops if the file system of FOLDER has less room than WHAT needs.
need_disk() {
  local free
  free=$(df -Pk "$1" | awk 'NR == 2 { print int($4 / 1024) }')
  ((free >= $2)) || die "not enough disk space for $3 in $1: $2 MiB needed, $free MiB free"
}
