#!/usr/bin/env bash
# From a fresh Debian 12 machine to a trained Swin Transformer V2, in one command: installs what is
# missing, builds, starts a coordinator and a fleet of two workers on this machine, trains on
# Fashion-MNIST, shows it live, and stops exactly what it started. A second run skips what is done.
#   deploy/quickstart.sh           everything
#   deploy/quickstart.sh --fresh   forgets an earlier quick start's job and results first
# Results go to quickstart/ in the checkout, or to $SWINFLEET_QUICKSTART_DIR.
set -euo pipefail
work=$(realpath -m -- "${SWINFLEET_QUICKSTART_DIR:-$(dirname "$0")/../quickstart}")
cd "$(dirname "$0")/.."
source_dir=$PWD
bin=$source_dir/build/bin
ranks=2

usage() { sed -n '2,8p' "$source_dir/deploy/quickstart.sh"; }

case "${1:-}" in
  "") ;;
  --fresh) rm -rf "$work/store" "$work/runs" "$work/fleet" "$work/job" ;;
  -h|--help) usage; exit 0 ;;
  *) usage >&2; exit 2 ;;
esac

. deploy/local_fleet.sh

say "packages"
. deploy/packages.sh
swinfleet_install_for_build

say "building the programs (build/bin)"
cmake --preset release >/dev/null
cmake --build build --target programs

mkdir -p "$work"
cd "$work"
start_up quickstart "$ranks"

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

trained=""
if [ "$(state)" != SUCCEEDED ]; then
  trained=1
  say "training"
  attend "$bin/swinfleet" watch "$(cat job)" || {
    status=$?
    tail -n 20 fleet.log >&2
    echo "the job did not succeed; deploy/quickstart.sh --fresh starts again" >&2
    exit "$status"
  }
fi

say "result"
"$bin/swinfleet" status "$(cat job)"
if [ ! -s fashion_mnist.safetensors ] || [ -n "$trained" ]; then
  "$bin/swinfleet" export runs/fashion_mnist fashion_mnist.safetensors --force
fi
echo "the trained weights: $work/fashion_mnist.safetensors"
