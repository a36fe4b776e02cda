#!/usr/bin/env bash
# Takes every barrier that the CUDA kernels wait at out in turn, and checks that the tests of the
# operations notice it.
#   tests/cuda/mutants.sh PROGRAM    a program of the tests with the race checker
set -euo pipefail
program=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# One test an operation that waits; each fails at its first race. Death leaves no core file.
ulimit -c 0
export GTEST_FAIL_FAST=1

SWINFLEET_CUDA_SITES="$work/sites" "$program" --gtest_brief=1 >"$work/log" 2>&1 ||
  { cat "$work/log" >&2; exit 1; }
[ -s "$work/sites" ] || { echo "the kernels wait nowhere?" >&2; exit 1; }
missed=0
while read -r site; do
  if SWINFLEET_CUDA_SKIP="$site" "$program" --gtest_brief=1 >"$work/log" 2>&1; then
    echo "nothing notices that $site does not wait" >&2
    missed=$((missed + 1))
  else
    echo "$site: $(grep -m1 -h 'cuda emulator:\|Failure' "$work/log" || echo noticed)"
  fi
done < <(sort -u "$work/sites")
exit "$((missed > 0))"
