#!/usr/bin/env bash
# Trains the true SwinV2-G (3.0 billion parameters) on this machine: bf16, pictures of Fashion-MNIST at
# 192 x 192, 2 ranks of one thread, ZeRO 3, the optimizer's state on disk. Checks memory and disk first,
# measures the machine's limits (matrix products, disk), trains 20 steps, saves, resumes from a
# checkpoint, and compares. Prints what it measured as Markdown.
#   benchmarks/swinv2_giant.sh [--folder FOLDER] [--steps N] [--small] [--pixels 1536]
#     --folder FOLDER   where the run and the state on disk are; best a fast local disk
#                       (benchmarks/out/giant)
#     --steps N         steps to train (20)
#     --small           a model of 3 million parameters instead, the same in everything else
#     --pixels 1536     one rank of 2 threads takes steps at 1536 x 1536 with windows of 32, sequential
#                       attention in the first two stages, whole blocks computed again
set -euo pipefail
cd "$(dirname "$0")/.."
. benchmarks/peers.sh
benchmark_arguments "$(sed -n '2,13p' benchmarks/swinv2_giant.sh)" "$@"
benchmark_programs
exec python3 benchmarks/swinv2_giant.py "${arguments[@]}"
