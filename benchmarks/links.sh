#!/usr/bin/env bash
# How long do training steps over a network wait for communication, and does `swinfleet plan` know?
# Builds the programs, trains a model on four hosts of the test cluster (tests/cluster/cluster.sh;
# needs root) at each ZeRO stage, with overlap and without, then at several bandwidths, and writes the
# tables to docs/communication.md; a quarter of an hour on two cores that have nothing else to do.
#   benchmarks/links.sh [--steps N] [--rates MBIT...]
#     --steps N       timed steps of each row; the fastest counts (3)
#     --rates MBIT    Mbit/s of the links in the second table (250 500 1000 2000)
set -euo pipefail
cd "$(dirname "$0")/.."
. benchmarks/peers.sh
benchmark_arguments "$(sed -n '2,8p' benchmarks/links.sh)" "$@"
benchmark_programs
tests/cluster/cluster.sh up 4 --owner $$
trap 'tests/cluster/cluster.sh down' EXIT
python3 benchmarks/links.py "${arguments[@]}"
