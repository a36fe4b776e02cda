#!/usr/bin/env bash
# Takes every barrier that the CUDA kernels wait at out in turn, and checks that the tests of the
# operations notice it.
#   tests/cuda/mutants.sh PROGRAM    a program of the tests with the race checker
set -euo pipefail
program=$1
sources=$(cd "$(dirname "$0")/../../kernels/cuda" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Death leaves no core file. A test fails at its first race.
ulimit -c 0
export GTEST_FAIL_FAST=1
# A test for each kernel that waits, of attention with windows of several tiles.
export GTEST_FILTER=Gelu.BackwardOfBias:LayerNorm.Backward:CrossEntropy.Hard
GTEST_FILTER+=:PositionTable.UnitsAtTheKink:WindowAttention.SharpProbabilities

SWINFLEET_CUDA_SITES="$work/sites" "$program" --gtest_brief=1 >"$work/log" 2>&1 ||
  { cat "$work/log" >&2; exit 1; }
missed=0
# Every line of the sources that waits is one that these tests come to.
while IFS=: read -r file line _; do
  site=$(basename "$file"):$line
  grep -qx "$site" "$work/sites" && continue
  echo "$site waits, and no test comes there" >&2
  missed=$((missed + 1))
done < <(grep -nE '^ *(__syncthreads|__syncwarp|CopyAsyncWait<[0-9]+>)\(' "$sources"/*.cu "$sources"/*.h)
while read -r site; do
  if SWINFLEET_CUDA_SKIP="$site" "$program" --gtest_brief=1 >"$work/log" 2>&1; then
    echo "nothing notices that $site does not wait" >&2
    missed=$((missed + 1))
  else
    echo "$site: $(grep -m1 -h 'cuda emulator:\|Failure' "$work/log" || echo noticed)"
  fi
done < <(sort -u "$work/sites")
exit "$((missed > 0))"
