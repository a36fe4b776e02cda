# shellcheck shell=bash disable=SC2154
# To be sourced: a coordinator and a fleet of workers on this machine, for scripts that end with what
# they started. The caller sets `bin` (the programs) and `work` (a folder of its own); logs, the port
# and the coordinator's store go there.
up_pid="" attended_pid=""

say() { printf '\n== %s\n' "$*"; }

# stop PID: asks for the end, and insists after 60 seconds; what `swinfleet up` has started ends with it.
stop() {
  [ -n "$1" ] || return 0
  kill -TERM "$1" 2>/dev/null || return 0
  for _ in $(seq 600); do
    kill -0 "$1" 2>/dev/null || break
    sleep 0.1
  done
  kill -KILL "$1" 2>/dev/null || true
  wait "$1" 2>/dev/null || true
}

# attend COMMAND...: runs it; a signal to the script ends the script now, not when the command is done.
attend() {
  local status=0
  "$@" &
  attended_pid=$!
  wait "$attended_pid" || status=$?
  attended_pid=""
  return "$status"
}

stop_all() {
  local status=$?
  trap - EXIT INT TERM HUP
  if [ -n "$up_pid" ]; then say "stopping what this script started"; fi
  stop "$attended_pid"
  stop "$up_pid"
  exit "$status"
}
trap stop_all EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# start_up NAME RANKS: `swinfleet up` in a session of its own, so that Ctrl-C reaches the script alone,
# which then ends things in order. Exports SWINFLEET_COORDINATOR.
start_up() {
  say "starting a coordinator and a fleet of $2 workers (logs: $work/coordinator.log, $work/fleet.log)"
  rm -f "$work/address"
  setsid "$bin/swinfleet" up --dir "$work" --name "$1" --ranks "$2" --port 0 >"$work/up.log" 2>&1 &
  up_pid=$!
  until [ -s "$work/address" ]; do
    kill -0 "$up_pid" 2>/dev/null || {
      cat "$work/up.log" >&2
      exit 1
    }
    sleep 0.1
  done
  SWINFLEET_COORDINATOR=$(cat "$work/address")
  export SWINFLEET_COORDINATOR
  echo "the coordinator listens on $SWINFLEET_COORDINATOR"
}
