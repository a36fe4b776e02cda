#!/usr/bin/env bash
# Takes every wait for an event out of the CUDA backend in turn, a stream's or the host's, and checks that
# the tests of copies or of what ranks exchange notice it.
#   tests/cuda/stream_mutants.sh PROGRAM MPIRUN...    a program of the tests with the race checker, and a
#                                                     launcher's command that ends with another one
set -euo pipefail
copies=$1
shift
sources=$(cd "$(dirname "$0")/../../kernels/cuda" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# What dies leaves no core file, and its messages here.
ulimit -c 0
export TMPDIR=$work GTEST_FAIL_FAST=1

# Launchers read what they can, and would leave none of the lines below.
run() { { timeout 120 "$@" </dev/null >"$work/log" 2>&1; } 2>/dev/null; }
run_copies() { run "$copies" --gtest_brief=1 --gtest_filter='*CudaDevice*'; }
run_ranks() { run "$@" --gtest_brief=1; }

SWINFLEET_CUDA_SITES=$work/sites.copies run_copies || { cat "$work/log" >&2; exit 1; }
SWINFLEET_CUDA_SITES=$work/sites.ranks run_ranks "$@" || { cat "$work/log" >&2; exit 1; }

# noticed SITE MPIRUN...: by the tests that come there.
noticed() {
  local site=$1
  shift
  if grep -qxF "$site" "$work/sites.copies"; then
    SWINFLEET_CUDA_SKIP=$site run_copies || return 0
  fi
  if grep -qxF "$site" "$work/sites.ranks"; then
    SWINFLEET_CUDA_SKIP=$site run_ranks "$@" || return 0
  fi
  return 1
}
missed=0
while IFS=: read -r file line _; do
  site=$(basename "$file"):$line
  if noticed "$site" "$@"; then
    echo "$site: $(grep -m1 -h 'cuda emulator:\|Failure' "$work/log" || echo noticed)"
  else
    echo "nothing notices that $site does not wait" >&2
    missed=$((missed + 1))
  fi
done < <(grep -nE '(WaitForEvent|WaitOnHost)\(' "$sources"/*.cu)
exit "$((missed > 0))"
