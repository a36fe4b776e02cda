#!/usr/bin/env python3
"""What benchmarks/bf16_accuracy.sh does once the programs are built."""
import argparse
import glob
import json
import os
import statistics

import figures
import machine

PAGE = "docs/performance.md"
SECTION = "benchmarks/bf16_accuracy.sh"
DTYPES = ["fp32", "bf16"]
# The quick start's widths with more blocks, so that more is added to the residual stream. In V2
# every branch is normalised before it is added; in V1 the stream grows.
MODELS = {
    "Swin V2": "arch: swin_v2, window_size: 4",
    "Swin V1": "arch: swin_v1, window_size: 4",
}
DEPTHS = [2, 2, 6]


def job(model, dtype, seed, epochs, run_dir):
    return f"""\
name: bf16-accuracy
run_dir: {run_dir}
model:
  {{{model}, image_size: 32, in_chans: 1, num_classes: 10, patch_size: 2, embed_dim: 32,
   depths: {DEPTHS}, num_heads: [1, 2, 4], mlp_ratio: 2, drop_path_rate: 0.02}}
data:
  {{format: idx, path: /usr/share/datasets/fashion-mnist, pad: 2, flip: 0.5, mean: [0.286], std: [0.353]}}
train:
  epochs: {epochs}
  global_batch: 128
  micro_batch: 32
  seed: {seed}
  dtype: {dtype}
  label_smoothing: 0.1
  clip_grad_norm: 5
  log_every_steps: 100
  eval_every_epochs: {epochs}
  optimizer: {{learning_rate: 2.0e-3}}
  schedule: {{warmup_epochs: 1, warmup_learning_rate: 1.0e-5, min_learning_rate: 1.0e-5}}
parallel: {{threads_per_rank: 1}}
checkpoint: {{keep_last: 1}}
"""


def last_evaluation(run_dir):
    """Top-1 of the run's last evaluation; None if it has none yet."""
    top1 = None
    for path in sorted(glob.glob(os.path.join(glob.escape(run_dir), "metrics", "*.jsonl"))):
        with open(path, encoding="utf-8") as file:
            for line in file:
                top1 = json.loads(line).get("top1", top1)
    return top1


def train(name, dtype, seed, args):
    """Top-1 of the model, trained if it has not been."""
    folder = os.path.abspath(os.path.join(
        args.out, f"{name.replace(' ', '_')}_{dtype}_{seed}_{args.epochs}_epochs"))
    top1 = last_evaluation(folder)
    if top1 is None:
        path = folder + ".yaml"
        with open(path, "w", encoding="utf-8") as file:
            file.write(job(MODELS[name], dtype, seed, args.epochs, folder))
        machine.output(*machine.mpirun(args.ranks), "build/bin/swinfleet-worker", "--job", path)
        top1 = last_evaluation(folder)
    print(f"{name}, {dtype}, seed {seed}: {100 * top1:.2f}%", flush=True)
    return top1


def table(results, seeds):
    lines = ["| | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean |",
             "| --- |" + " --- |" * (len(seeds) + 1)]
    for name in MODELS:
        for dtype in DTYPES:
            tops = [100 * results[name, dtype, seed] for seed in seeds]
            cells = [f"{top:.2f}%" for top in [*tops, statistics.mean(tops)]]
            lines.append(f"| {name}, {dtype} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--ranks", type=int, default=2)
    args = parser.parse_args()
    args.out = machine.output_folder("bf16_accuracy")
    results = {(name, dtype, seed): train(name, dtype, seed, args)
               for name in MODELS for seed in args.seeds for dtype in DTYPES}
    text = figures.paragraph(
        f"{machine.describe()['name']}; Swinfleet at {machine.commit()}. Depths"
        f" {', '.join(map(str, DEPTHS))} of 32, 64 and 128 channels, {args.epochs} epochs of"
        " Fashion-MNIST, top-1 of the 10,000 test pictures.")
    figures.write_section(PAGE, SECTION, f"{text}\n\n{table(results, args.seeds)}")


if __name__ == "__main__":
    main()
