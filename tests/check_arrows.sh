#!/usr/bin/env bash
# The folders' arrows are law: fails on an #include from one folder of another that it may not use.
set -euo pipefail
cd "$(dirname "$0")/.."

declare -A may_use=(
  [kernels]="kernels"
  [proto]="proto"
  [core]="core kernels"
  [distributed]="distributed core kernels"
  [worker]="worker distributed core kernels proto"
  [coordinator]="coordinator proto"
  [benchmarks]="benchmarks kernels core proto"
  [tests]="tests kernels proto core distributed worker coordinator"
)
folders="kernels proto core distributed worker coordinator benchmarks tests"
failed=0
for folder in $folders; do
  while IFS=: read -r file line text; do
    used=$(sed -E 's/.*#include "([a-z_]+)\/.*/\1/' <<<"$text")
    [[ " $folders " == *" $used "* ]] || continue
    if [[ " ${may_use[$folder]} " != *" $used "* ]]; then
      echo "$file:$line: $folder/ must not include $used/:$text" >&2
      failed=1
    fi
  done < <(grep -rnE '#include "[a-z_]+/' "$folder" --include='*.h' --include='*.cc' --include='*.cu' || true)
done
# The coordinator runs on machines without MPI and without the mathematics.
if grep -rnE '#include <(mpi|cuda|dnnl|hwy)' coordinator proto >&2; then
  echo "coordinator/ and proto/ must not use MPI, CUDA, oneDNN or Highway" >&2
  failed=1
fi
exit $failed
