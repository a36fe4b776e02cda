#!/usr/bin/env bash
# Takes every wait of a stream for another's event out of the CUDA backend in turn, and checks that the
# tests of what ranks exchange notice it.
#   tests/cuda/stream_mutants.sh MPIRUN...    a launcher's command that ends with a program of the tests
#                                             beside the backend with the race checker
set -euo pipefail
sources=$(cd "$(dirname "$0")/../../kernels/cuda" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# What dies leaves no core file, and its messages here.
ulimit -c 0
export TMPDIR=$work GTEST_FAIL_FAST=1

run() { { timeout 120 "$@" --gtest_brief=1 >"$work/log" 2>&1; } 2>/dev/null; }

SWINFLEET_CUDA_SITES=$work/sites run "$@" || { cat "$work/log" >&2; exit 1; }
missed=0
while IFS=: read -r file line _; do
  site=$(basename "$file"):$line
  if ! grep -qxF "$site" "$work/sites"; then
    echo "$site waits for an event, and no test comes there" >&2
    missed=$((missed + 1))
  elif SWINFLEET_CUDA_SKIP=$site run "$@"; then
    echo "nothing notices that $site does not wait" >&2
    missed=$((missed + 1))
  else
    echo "$site: $(grep -m1 -h 'cuda emulator:\|Failure' "$work/log" || echo noticed)"
  fi
done < <(grep -nE 'WaitForEvent\(' "$sources"/*.cu)
exit "$((missed > 0))"
