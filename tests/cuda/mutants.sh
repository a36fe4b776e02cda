#!/usr/bin/env bash
# Takes every barrier and every exchange between lanes out of the CUDA kernels in turn, and checks that
# the tests of the operations notice it.
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

# noticed SITE: by one of the tests that come there.
noticed() {
  for test in $tests; do
    grep -qxF "$1" "$work/sites.$test" || continue
    SWINFLEET_CUDA_SKIP="$1" run "$test" || return 0
  done
  return 1
}
while read -r site; do
  if noticed "$site"; then
    echo "$site: $(grep -m1 -h 'cuda emulator:\|Failure' "$work/log" || echo noticed)"
  else
    echo "nothing notices that $site does not wait" >&2
    missed=$((missed + 1))
  fi
done < <(cat "$work"/sites.* | sort -u)
exit "$((missed > 0))"
