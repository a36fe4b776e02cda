# shellcheck shell=bash disable=SC2154
# To be sourced: a coordinator and a fleet of workers on this machine, for scripts that end with what
# they started. The caller sets `bin` (the programs) and `work` (a folder of its own); logs, the port
# and the coordinator's store go there.
coordinator_pid="" fleet_pid="" attended_pid=""

say() { printf '\n== %s\n' "$*"; }

# stop PID: asks for the end, and insists after 20 seconds.
stop() {
  [ -n "$1" ] || return 0
  kill -TERM "$1" 2>/dev/null || return 0
  for _ in $(seq 200); do
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
  if [ -n "$coordinator_pid$fleet_pid" ]; then say "stopping what this script started"; fi
  stop "$attended_pid"
  stop "$fleet_pid"
  stop "$coordinator_pid"
  exit "$status"
}
trap stop_all EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# try_coordinator PORT: in a session of its own, so that Ctrl-C reaches the script alone, which then
# ends things in order.
try_coordinator() {
  rm -f "$work/port"
  setsid "$bin/swinfleet-coordinator" --listen "127.0.0.1:$1" --port-file "$work/port" \
    --store "$work/store" >>"$work/coordinator.log" 2>&1 &
  coordinator_pid=$!
  for _ in $(seq 100); do
    [ -s "$work/port" ] && return 0
    kill -0 "$coordinator_pid" 2>/dev/null || break
    sleep 0.1
  done
  stop "$coordinator_pid"
  coordinator_pid=""
  return 1
}

# Starts the coordinator and exports SWINFLEET_COORDINATOR.
start_coordinator() {
  say "starting the coordinator (log: $work/coordinator.log)"
  # Workers that survived an earlier start know the port of then.
  local last_port
  last_port=$(cat "$work/port" 2>/dev/null || echo 0)
  try_coordinator "$last_port" || try_coordinator 0 || {
    tail -n 5 "$work/coordinator.log" >&2
    exit 1
  }
  SWINFLEET_COORDINATOR=127.0.0.1:$(cat "$work/port")
  export SWINFLEET_COORDINATOR
  echo "it listens on $SWINFLEET_COORDINATOR"
}

# start_fleet NAME RANKS
start_fleet() {
  say "starting a fleet of $2 workers (log: $work/fleet.log)"
  # Debian's Open MPI refuses to run as root unless it is told twice.
  if [ "$(id -u)" -eq 0 ]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  fi
  setsid "$bin/swinfleet" fleet --name "$1" --state-dir "$work/fleet" -- \
    mpirun --oversubscribe --bind-to none -np "$2" \
    "$bin/swinfleet-worker" --coordinator "$SWINFLEET_COORDINATOR" >>"$work/fleet.log" 2>&1 &
  fleet_pid=$!
}
