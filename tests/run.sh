#!/usr/bin/env bash
# Installs what is missing, builds, and runs every test: the fast ones first.
#   tests/run.sh          release build, in build/
#   tests/run.sh --asan   with AddressSanitizer and UndefinedBehaviorSanitizer, in build-asan/
#   tests/run.sh --no-cuda   in build/ too, as on a machine without the CUDA toolkit
# What follows "--" goes to ctest, e.g. tests/run.sh -- -R window_attention
set -euo pipefail
cd "$(dirname "$0")/.."

preset=release
build=build
settings=()
while [ $# -gt 0 ]; do
  case "$1" in
    --asan) preset=asan; build=build-asan ;;
    --no-cuda) settings=(-DSWINFLEET_CUDA=OFF) ;;
    --) shift; break ;;
    -h|--help) sed -n '2,7p' "$0"; exit 0 ;;
    *) echo "tests/run.sh: unknown option $1; there are --asan, --no-cuda and -- CTEST-OPTIONS" >&2; exit 2 ;;
  esac
  shift
done

. deploy/packages.sh
# shellcheck disable=SC2086
swinfleet_install_for_build $swinfleet_test_packages

tests/check_arrows.sh
tests/check_no_shell.sh
cmake --preset "$preset" "${settings[@]}"
# What another setting had built there would be found by the programs.
ninja -C "$build" -t cleandead
cmake --build "$build"
cd "$build"
jobs=$(nproc)
if [ $# -gt 0 ]; then exec ctest --output-on-failure -j "$jobs" "$@"; fi
ctest --output-on-failure -j "$jobs" -L fast --output-junit fast_tests.xml
# The end-to-end tests start fleets of their own: one at a time.
exec ctest --output-on-failure -LE fast
