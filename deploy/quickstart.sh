#!/usr/bin/env bash
# From a fresh Debian 12 machine to a trained Swin Transformer V2, in one command: installs what is
# missing, builds, starts a coordinator and a fleet of two workers on this machine, trains on
# Fashion-MNIST, shows it live, and stops exactly what it started. A second run skips what is done.
#   deploy/quickstart.sh           everything
#   deploy/quickstart.sh --fresh   forgets an earlier quick start's job and results first
# Results go to quickstart/ in the checkout, or to $SWINFLEET_QUICKSTART_DIR.
set -euo pipefail
cd "$(dirname "$0")/.."
source_dir=$PWD
work=${SWINFLEET_QUICKSTART_DIR:-$source_dir/quickstart}
bin=$source_dir/build/bin
ranks=2

say() { printf '\n== %s\n' "$*"; }
usage() { sed -n '2,8p' "$source_dir/deploy/quickstart.sh"; }

case "${1:-}" in
  "") ;;
  --fresh) rm -rf "$work/store" "$work/runs" "$work/fleet" "$work/job" ;;
  -h|--help) usage; exit 0 ;;
  *) usage >&2; exit 2 ;;
esac

coordinator_pid="" fleet_pid=""
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
finish() {
  local status=$?
  trap - EXIT INT TERM HUP
  if [ -n "$coordinator_pid$fleet_pid" ]; then say "stopping what this script started"; fi
  stop "$fleet_pid"
  stop "$coordinator_pid"
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

say "packages"
. deploy/packages.sh
# shellcheck disable=SC2086
swinfleet_install $swinfleet_build_packages

say "building the programs (build/bin)"
cmake --preset release >/dev/null
cmake --build build --target programs

mkdir -p "$work"
cd "$work"
export SWINFLEET_COORDINATOR

say "starting the coordinator (log: $work/coordinator.log)"
# start_coordinator PORT: in a session of its own, so that Ctrl-C reaches this script alone, which then
# ends things in order.
start_coordinator() {
  rm -f port
  setsid "$bin/swinfleet-coordinator" --listen "127.0.0.1:$1" --port-file "$work/port" \
    --store "$work/store" >>coordinator.log 2>&1 &
  coordinator_pid=$!
  for _ in $(seq 100); do
    [ -s port ] && return 0
    kill -0 "$coordinator_pid" 2>/dev/null || break
    sleep 0.1
  done
  stop "$coordinator_pid"
  coordinator_pid=""
  return 1
}
# Workers that survived an earlier start know the port of then.
last_port=$(cat port 2>/dev/null || echo 0)
start_coordinator "$last_port" || start_coordinator 0 || { tail -n 5 coordinator.log >&2; exit 1; }
SWINFLEET_COORDINATOR=127.0.0.1:$(cat port)
echo "it listens on $SWINFLEET_COORDINATOR"

# 0 when the job that this folder remembers is known to the coordinator.
known() { [ -s job ] && "$bin/swinfleet" status "$(cat job)" >/dev/null 2>&1; }
state() { "$bin/swinfleet" status "$(cat job)" --json | sed -nE 's/.*"state": *"([A-Z]+)".*/\1/p' | head -n 1; }

if ! known; then
  # An earlier start may have ended between the submission and its record here.
  "$bin/swinfleet" list --limit 1 --json | sed -nE 's/.*"job_id": *"([^"]+)".*/\1/p' | head -n 1 >job
fi
if ! known; then
  say "submitting deploy/jobs/fashion_mnist.yaml"
  "$bin/swinfleet" submit "$source_dir/deploy/jobs/fashion_mnist.yaml" | tee submit.log
  tail -n 1 submit.log >job
elif [ "$(state)" = SUCCEEDED ]; then
  say "the job has been trained already (--fresh starts again)"
elif [ "$(state)" = FAILED ] || [ "$(state)" = CANCELLED ]; then
  "$bin/swinfleet" status "$(cat job)"
  echo "the earlier job did not succeed; deploy/quickstart.sh --fresh starts again" >&2
  exit 1
fi

if [ "$(state)" != SUCCEEDED ]; then
  say "starting a fleet of $ranks workers (log: $work/fleet.log)"
  # Debian's Open MPI refuses to run as root unless it is told twice.
  if [ "$(id -u)" -eq 0 ]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  fi
  setsid "$bin/swinfleet" fleet --name quickstart --state-dir "$work/fleet" -- \
    mpirun --oversubscribe --bind-to none -np "$ranks" \
    "$bin/swinfleet-worker" --coordinator "$SWINFLEET_COORDINATOR" >>fleet.log 2>&1 &
  fleet_pid=$!
  say "training"
  "$bin/swinfleet" watch "$(cat job)" || {
    status=$?
    tail -n 20 fleet.log >&2
    echo "the job did not succeed; deploy/quickstart.sh --fresh starts again" >&2
    exit "$status"
  }
fi

say "result"
"$bin/swinfleet" status "$(cat job)"
if [ ! -s fashion_mnist.safetensors ] || [ -n "$fleet_pid" ]; then
  "$bin/swinfleet" export runs/fashion_mnist fashion_mnist.safetensors --force
fi
echo "the trained weights: $work/fashion_mnist.safetensors"
