#!/usr/bin/env bash
# Installs what is missing, builds, and runs every test: the fast ones first.
#   tests/run.sh          release build, in build/
#   tests/run.sh --asan   with AddressSanitizer and UndefinedBehaviorSanitizer, in build-asan/
# What follows "--" goes to ctest, e.g. tests/run.sh -- -R window_attention
set -euo pipefail
cd "$(dirname "$0")/.."

preset=release
build=build
while [ $# -gt 0 ]; do
  case "$1" in
    --asan) preset=asan; build=build-asan ;;
    --) shift; break ;;
    -h|--help) sed -n '2,6p' "$0"; exit 0 ;;
    *) echo "tests/run.sh: unknown option $1; there are --asan and -- CTEST-OPTIONS" >&2; exit 2 ;;
  esac
  shift
done

. deploy/packages.sh
# shellcheck disable=SC2086
swinfleet_install $swinfleet_build_packages $swinfleet_test_packages
if command -v nvcc >/dev/null || [ -x /usr/local/cuda/bin/nvcc ]; then
  swinfleet_install $swinfleet_cuda_test_packages
fi

tests/check_arrows.sh
tests/check_no_shell.sh
cmake --preset "$preset"
cmake --build "$build"
cd "$build"
jobs=$(nproc)
if [ $# -gt 0 ]; then exec ctest --output-on-failure -j "$jobs" "$@"; fi
ctest --output-on-failure -j "$jobs" -L fast --output-junit fast_tests.xml
# The end-to-end tests start fleets of their own: one at a time.
exec ctest --output-on-failure -LE fast
