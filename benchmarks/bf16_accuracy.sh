#!/usr/bin/env bash
# Does bf16, whose residual stream Swinfleet keeps in bf16 too, cost accuracy? Trains a Swin V2 and a
# Swin V1 on Fashion-MNIST in fp32 and in bf16 from the same seeds, and writes the top-1 of the test
# pictures to docs/performance.md.
#   benchmarks/bf16_accuracy.sh [--epochs N] [--seeds N ...] [--ranks N]
#     --epochs N     of each run (4)
#     --seeds N ...  1 2 3
#     --ranks N      of one thread each (2); results are the same for any number
# Runs stay in benchmarks/out/bf16_accuracy, or in $SWINFLEET_BENCHMARK_DIR; what has been trained there
# for as many epochs is not trained again. About four minutes a run on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
. benchmarks/peers.sh
benchmark_arguments "$(sed -n '2,11p' benchmarks/bf16_accuracy.sh)" "$@"
benchmark_programs
exec python3 benchmarks/bf16_accuracy.py "${arguments[@]}"
