#!/usr/bin/env bash
# Does pre-training help where labels are few? SimMIM on the 60,000 pictures of Fashion-MNIST without
# their labels, then fine-tuning on 1,000 labelled ones, against the same fine-tuning from random
# weights: the same job but for model.init_from. All of them run as jobs of a coordinator with a
# fleet of two workers on this machine. Prints a Markdown table.
#   benchmarks/simmim_fine_tuning.sh
# PRETRAIN_EPOCHS (10), FINE_TUNE_EPOCHS (100) and SEEDS ("1 2 3") may be set. Each seed has labelled
# pictures of its own, 100 of each class. Results stay in benchmarks/out/simmim, or in
# $SWINFLEET_BENCHMARK_DIR, in a folder for each pair of epochs; jobs that have succeeded there are not
# run again, and those that have not are gone on with.
set -euo pipefail
results=$(realpath -m -- "${SWINFLEET_BENCHMARK_DIR:-$(dirname "$0")/out/simmim}")
cd "$(dirname "$0")/.."
source_dir=$PWD
bin=$source_dir/build/bin
pretrain_epochs=${PRETRAIN_EPOCHS:-10}
fine_tune_epochs=${FINE_TUNE_EPOCHS:-100}
work=$results/${pretrain_epochs}_epochs_then_$fine_tune_epochs
seeds=${SEEDS:-1 2 3}
pictures=/usr/share/datasets/fashion-mnist

. deploy/packages.sh
swinfleet_install_for_build
cmake --preset release >/dev/null
cmake --build build --target programs
mkdir -p "$work"
cd "$work"
. "$source_dir/deploy/local_fleet.sh"

# labelled SEED: a folder with 100 training pictures of each class, others for each seed, and all
# test pictures.
labelled() {
  python3 - "$pictures" "labelled_$1" "$1" <<'PY'
import gzip, os, struct, sys
source, target, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
os.makedirs(target, exist_ok=True)
def read(name):
    with gzip.open(os.path.join(source, name + ".gz")) as file:
        return file.read()
images, labels = read("train-images-idx3-ubyte"), read("train-labels-idx1-ubyte")[8:]
height, width = struct.unpack(">II", images[8:16])
chosen = []
for label in range(10):
    of_class = [i for i, one in enumerate(labels) if one == label]
    chosen += of_class[100 * (seed - 1):100 * seed]
chosen.sort()
size = height * width
with open(target + "/train-images-idx3-ubyte", "wb") as file:
    file.write(struct.pack(">IIII", 2051, len(chosen), height, width))
    for i in chosen:
        file.write(images[16 + i * size:16 + (i + 1) * size])
with open(target + "/train-labels-idx1-ubyte", "wb") as file:
    file.write(struct.pack(">II", 2049, len(chosen)) + bytes(labels[i] for i in chosen))
for name in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
    with open(target + "/" + name, "wb") as file:
        file.write(read(name))
PY
}

# The model of the quick start.
model="image_size: 32, in_chans: 1, num_classes: 10, patch_size: 2, embed_dim: 32, depths: [2, 2, 2],
  num_heads: [1, 2, 4], window_size: 4, mlp_ratio: 2"
data="format: idx, pad: 2, flip: 0.5, mean: [0.286], std: [0.353]"

share() { awk -v share="$1" -v epochs="$2" 'BEGIN { print share * epochs }'; }

pretraining_job() {
  cat <<YAML
name: simmim
run_dir: $work/runs/simmim
model: {$model, drop_path_rate: 0}
pretrain: {method: simmim, mask_ratio: 0.6, mask_unit: 4}
data: {$data, path: $pictures}
train:
  {epochs: $pretrain_epochs, global_batch: 128, micro_batch: 32, seed: 1, eval_every_epochs: 0,
   log_every_steps: 100, optimizer: {learning_rate: 1.0e-3},
   schedule: {warmup_epochs: $(share 0.1 "$pretrain_epochs"), warmup_learning_rate: 1.0e-5, min_learning_rate: 1.0e-5}}
checkpoint: {keep_last: 1}
YAML
}

# fine_tuning_job NAME SEED INITIAL_WEIGHTS: from random weights where the last is empty.
fine_tuning_job() {
  cat <<YAML
name: $1
run_dir: $work/runs/$1
model: {$model, drop_path_rate: 0.1${3:+, init_from: "$3", init_skip: ["head.*"]}}
data: {$data, path: $work/labelled_$2}
train:
  {epochs: $fine_tune_epochs, global_batch: 64, micro_batch: 32, seed: $2, eval_every_epochs: 0,
   label_smoothing: 0.1, log_every_steps: 100, optimizer: {learning_rate: 1.0e-3},
   schedule: {warmup_epochs: $(share 0.05 "$fine_tune_epochs"), warmup_learning_rate: 1.0e-5, min_learning_rate: 1.0e-5}}
checkpoint: {keep_last: 1}
YAML
}

field() { sed -nE "s/.*\"$1\": *\"?([^\",}]+)\"?.*/\1/p" | head -n 1; }

state() { "$bin/swinfleet" status "$(cat "$1.job")" --json 2>/dev/null | field state; }

# run NAME: submits NAME.yaml and waits, unless that has been done; the job's id is in NAME.job. One
# that was not to be gone on with begins anew.
run() {
  case "$([ -s "$1.job" ] && state "$1")" in
    QUEUED | RUNNING | RECOVERING | SUCCEEDED) ;;
    *)
      rm -rf "runs/$1"
      "$bin/swinfleet" submit "$1.yaml" | tail -n 1 >"$1.job"
      ;;
  esac
  attend "$bin/swinfleet" watch "$(cat "$1.job")" >"$1.log" || { tail -n 5 "$1.log" >&2; exit 1; }
  tail -n 1 "$1.log"
}
top1() { "$bin/swinfleet" status "$(cat "$1.job")" --json | field top1; }

start_up benchmark 2
say "pre-training, $pretrain_epochs epochs"
pretraining_job >simmim.yaml
run simmim
for seed in $seeds; do
  say "fine-tuning, seed $seed"
  labelled "$seed"
  fine_tuning_job "random_$seed" "$seed" "" >"random_$seed.yaml"
  fine_tuning_job "pretrained_$seed" "$seed" "$work/runs/simmim" >"pretrained_$seed.yaml"
  run "random_$seed"
  run "pretrained_$seed"
done

say "top-1 of the 10,000 test pictures, after $fine_tune_epochs epochs of 1,000 labelled ones"
for seed in $seeds; do echo "$seed $(top1 "random_$seed") $(top1 "pretrained_$seed")"; done |
  awk 'BEGIN { print "| seed | from random weights | after SimMIM |\n| --- | --- | --- |" }
       { printf "| %s | %.2f%% | %.2f%% |\n", $1, 100 * $2, 100 * $3; a += $2; b += $3 }
       END { printf "| mean | %.2f%% | %.2f%% |\n", 100 * a / NR, 100 * b / NR }'
