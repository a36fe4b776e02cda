#!/usr/bin/env bash
# Is the CUDA backend right on this machine's GPUs, and how fast is it? Builds the programs with the
# CUDA toolkit, holds models against the official code and every kernel against the double-precision
# reference on a GPU, times every operation beside the GPU's limits, training steps beside PyTorch
# (eager and compiled), and collectives between all GPUs, and writes a report.
#   benchmarks/gpu.sh [--rehearse] [--report FILE] [--venv FOLDER]
#     --rehearse      on a machine without GPUs: the same by the emulator in tests/, a part of it and in
#                     small sizes, without PyTorch; its figures say nothing
#     --report FILE   (benchmarks/out/gpu/report.md)
#     --venv FOLDER   where the peers are, or are installed (build/peers)
# Exit codes: 0 all checks passed; 1 one did not: which, the report says; 2 wrong usage.
set -euo pipefail
cd "$(dirname "$0")/.."
. benchmarks/peers.sh
benchmark_arguments "$(sed -n '2,11p' benchmarks/gpu.sh)" "$@"
benchmark_programs
rehearse=
for argument in "${arguments[@]}"; do [ "$argument" = --rehearse ] && rehearse=yes; done
if [ -n "$rehearse" ]; then
  cmake --build build --target cuda_programs cuda_kernels_test_plain >&2
  exec python3 benchmarks/gpu.py "${arguments[@]}"
fi
cmake --build build --target golden_check kernels_benchmark cuda_gpu_test >&2
benchmark_peers "$venv" torch timm
exec python3 benchmarks/gpu.py --python "$venv/bin/python" "${arguments[@]}"
