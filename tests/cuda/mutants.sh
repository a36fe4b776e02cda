#!/usr/bin/env bash
# Takes every barrier and every exchange between lanes out of the CUDA kernels in turn, and a lane out of
# every mask, and checks that the tests of the operations notice it.
#   tests/cuda/mutants.sh PROGRAM    a program of the tests with the race checker
set -euo pipefail
program=$1
sources=$(cd "$(dirname "$0")/../../kernels/cuda" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Death leaves no core file. A test fails at its first race.
ulimit -c 0
export GTEST_FAIL_FAST=1
# Tests of all kernels that wait, of attention with windows of several tiles and of one.
tests="Gelu.BackwardOfBias LayerNorm.Backward CrossEntropy.Hard PositionTable.UnitsAtTheKink
  WindowAttention.SharpProbabilities WindowAttentionVariants.SixteenBitsInTiles
  BiasGather.OfWindows BiasGather.Scatter MaskTokens.Backward NormTargets.Normalises"

# run TEST: with the environment that is given. The shell has nothing to say about deaths.
run() { { "$program" --gtest_brief=1 --gtest_filter="$1" >"$work/log" 2>&1; } 2>/dev/null; }

# Where each of them waits, as they are.
for test in $tests; do
  SWINFLEET_CUDA_SITES="$work/sites.$test" run "$test" || { cat "$work/log" >&2; exit 1; }
done

missed=0
waits='__sync(threads|warp)|__(shfl|any|all|ballot)[a-z_]*sync|CopyAsyncWait<[0-9]+>'
# Every line of the sources that waits is one that these tests come to.
while IFS=: read -r file line _; do
  site=$(basename "$file"):$line
  grep -qxF "$site" "$work"/sites.* && continue
  echo "$site waits, and no test comes there" >&2
  missed=$((missed + 1))
done < <(grep -nE "($waits)\(" "$sources"/*.cu "$sources"/*.h | grep -vE ':[0-9]+: *//')

# noticed VARIABLE SITE: by one of the tests that come there.
noticed() {
  for test in $tests; do
    grep -qxF "$2" "$work/sites.$test" || continue
    (export "$1=$2"; run "$test") || return 0
  done
  return 1
}
# check VARIABLE WHAT, with sites on stdin.
check() {
  local site
  while read -r site; do
    if noticed "$1" "$site"; then
      echo "$site: $(grep -m1 -h 'cuda emulator:\|Failure' "$work/log" || echo noticed)"
    else
      echo "nothing notices that $site $2" >&2
      missed=$((missed + 1))
    fi
  done
}
check SWINFLEET_CUDA_SKIP "does not wait" < <(cat "$work"/sites.* | sort -u)
check SWINFLEET_CUDA_MASK "has a mask without its last lane" < <(
  grep -nE '__(shfl|any|all|ballot)[a-z_]*sync\(' "$sources"/*.cu "$sources"/*.h |
    sed -E 's|^.*/([^/:]+:[0-9]+):.*|\1|')
exit "$((missed > 0))"
