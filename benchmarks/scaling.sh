#!/usr/bin/env bash
# How do time and memory of a training step grow with resolution, window, batch and depth? Builds the
# programs, runs a small Swin V2 in each setting, draws docs/scaling.svg and writes the table to
# docs/performance.md; a few minutes on two cores.
#   benchmarks/scaling.sh [--threads N] [--steps N] [--venv FOLDER]
#     --threads N     threads of a step (the machine's cores)
#     --steps N       steps of each setting, the first not counted (4)
#     --venv FOLDER   where matplotlib is, or is installed (build/peers)
set -euo pipefail
cd "$(dirname "$0")/.."
. benchmarks/peers.sh
benchmark_arguments "$(sed -n '2,8p' benchmarks/scaling.sh)" "$@"
benchmark_programs
benchmark_peers "$venv" matplotlib
exec "$venv/bin/python" benchmarks/scaling.py "${arguments[@]}"
