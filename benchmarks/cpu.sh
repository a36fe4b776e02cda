#!/usr/bin/env bash
# How fast are training steps and inference on this machine, beside PyTorch with timm? Builds the
# programs, installs the peers in a virtual environment, runs pairs, one after the other, and writes
# the table to docs/performance.md.
#   benchmarks/cpu.sh [--pairs N] [--rows REGEX] [--threads N] [--venv FOLDER]
#     --pairs N       pairs of each row (5)
#     --rows REGEX    only the rows whose key matches; the table keeps what the others had
#     --threads N     threads of both (the machine's cores)
#     --venv FOLDER   where the peers are, or are installed (build/peers)
# Each row's measurements stay in benchmarks/out/cpu/, or in $SWINFLEET_BENCHMARK_DIR. The rows take
# half an hour together on two cores; the machine should have nothing else to do.
set -euo pipefail
cd "$(dirname "$0")/.."
. benchmarks/peers.sh
benchmark_arguments "$(sed -n '2,11p' benchmarks/cpu.sh)" "$@"
benchmark_programs
benchmark_peers "$venv" torch torchvision timm
exec python3 benchmarks/compare.py --python "$venv/bin/python" "${arguments[@]}"
