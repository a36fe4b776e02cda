#!/usr/bin/env bash
# What keeps training steps from being faster on a GPU, on paper: plans SwinV2-T and SwinV2-G at
# several sizes of pictures with `swinfleet plan --roofline`, and writes the tables to docs/cuda.md.
# Needs no GPU.
#   benchmarks/roofline.sh
set -euo pipefail
cd "$(dirname "$0")/.."
. benchmarks/peers.sh
benchmark_arguments "$(sed -n '2,5p' benchmarks/roofline.sh)" "$@"
benchmark_programs
exec python3 benchmarks/roofline.py
