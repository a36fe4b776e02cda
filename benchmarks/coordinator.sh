#!/usr/bin/env bash
# What do ranks, jobs and users cost a coordinator, and how long do they wait for it? Builds the
# programs, loads coordinators with ranks that beat once a second, queued jobs and questions, draws
# docs/coordinator.svg and writes the table to docs/reliability.md; three minutes on two cores that
# have nothing else to do.
#   benchmarks/coordinator.sh [--secure] [--seconds N] [--venv FOLDER]
#     --secure        instead: some rows with TLS and tokens, each beside the same without (needs openssl)
#     --seconds N     of each measurement (10)
#     --venv FOLDER   where matplotlib is, or is installed (build/peers)
set -euo pipefail
cd "$(dirname "$0")/.."
. benchmarks/peers.sh
benchmark_arguments "$(sed -n '2,9p' benchmarks/coordinator.sh)" "$@"
benchmark_programs
cmake --build build --target coordinator_load >&2
benchmark_peers "$venv" matplotlib
exec "$venv/bin/python" benchmarks/coordinator.py "${arguments[@]}"
