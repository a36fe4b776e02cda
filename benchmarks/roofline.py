#!/usr/bin/env python3
"""What benchmarks/roofline.sh does once the programs are built; needs Python alone."""
import os

import figures
import machine

PAGE = "docs/cuda.md"
SECTION = "benchmarks/roofline.sh"
GPUS = ["a100", "h100"]
# Pixels of a picture's side, and the window that goes with them in the paper.
SIZES = {192: 12, 256: 16, 640: 40}
# Models, with a micro-batch that a GPU of 80 GB has room for at all sizes, and the ranks that their
# state is spread over.
MODELS = {
    "SwinV2-T": {
        "model": "embed_dim: 96, depths: [2, 2, 6, 2], num_heads: [3, 6, 12, 24]",
        "micro_batch": {192: 128, 256: 128, 640: 16},
        "memory": "{}",
        "ranks": 1,
    },
    "SwinV2-G": {
        "model": "embed_dim: 512, depths: [2, 2, 42, 4], num_heads: [16, 32, 64, 128],"
                 " extra_norm_period: 6",
        "micro_batch": {192: 16, 256: 8, 640: 1},
        "memory": "{checkpointing: [block]}",
        "ranks": 64,
    },
}
# Operations in rows of their own; what others take together is a row as well.
SHARE_OF_ROW = 0.02

JOB = """\
name: roofline
run_dir: roofline
model: {{arch: swin_v2, image_size: {pixels}, window_size: {window}, {model}}}
data: {{format: imagefolder, path: pictures}}
train: {{epochs: 1, micro_batch: {micro_batch}, global_batch: {global_batch}, eval_batch: 1, dtype: bf16}}
memory: {memory}
parallel: {{ranks: {ranks}, zero_stage: {stage}}}
"""


def plan(name, pixels, gpu, out):
    model = MODELS[name]
    micro_batch, ranks = model["micro_batch"][pixels], model["ranks"]
    path = os.path.join(out, "job.yaml")
    with open(path, "w", encoding="utf-8") as file:
        file.write(JOB.format(pixels=pixels, window=SIZES[pixels], model=model["model"],
                              micro_batch=micro_batch, global_batch=micro_batch * ranks,
                              memory=model["memory"], ranks=ranks, stage=3 if ranks > 1 else 1))
    return machine.last_json("build/bin/swinfleet", "plan", path, "--device", "cuda", "--memory",
                             "80GB", "--roofline", gpu, "--json")


def summary(name, pixels, gpu, result, micro_batch):
    everything = result["roofline"]["all"]
    return (f"| {name} | {pixels} | {micro_batch} | {gpu.upper()}"
            f" | {everything['matrix_flops'] / 1e12:.2f} | {everything['bytes'] / 1e9:.1f}"
            f" | {everything['launches']:,} | {1e3 * everything['seconds']:.1f}"
            f" | {micro_batch / everything['seconds']:.0f}"
            f" | {100 * result['roofline']['share_of_peak']:.0f}% | {everything['bound']} |")


def operations(result):
    """The rows of one plan: the operations that take the most, and the rest together."""
    rows = result["roofline"]["operations"]
    total = result["roofline"]["all"]["seconds"]
    large = [row for row in rows if row["seconds"] >= SHARE_OF_ROW * total]
    lines = ["| operation | calls | launches | GFLOP | GB | ms | share | held back by |",
             "| --- | --- | --- | --- | --- | --- | --- | --- |"]
    rest = {key: sum(row[key] for row in rows if row not in large)
            for key in ("calls", "launches", "matrix_flops", "bytes", "seconds")}
    for row in large + [dict(rest, name="others", bound="")]:
        name = f"`{row['name']}`" if row in large else row["name"]
        lines.append(
            f"| {name} | {row['calls']:,} | {row['launches']:,} | {row['matrix_flops'] / 1e9:,.0f}"
            f" | {row['bytes'] / 1e9:.1f} | {1e3 * row['seconds']:.2f}"
            f" | {100 * row['seconds'] / total:.0f}% | {row['bound']} |")
    return "\n".join(lines)


def main():
    out = machine.output_folder("roofline")
    lines = ["| | pixels | pictures | GPU | TFLOP | GB | launches | ms | pictures/s | of the peak |"
             " held back by |", "| --- |" + " --- |" * 10]
    details = []
    for name, model in MODELS.items():
        for pixels in SIZES:
            for gpu in GPUS:
                result = plan(name, pixels, gpu, out)
                lines.append(summary(name, pixels, gpu, result, model["micro_batch"][pixels]))
                print(lines[-1], flush=True)
                if gpu == GPUS[-1] and pixels != 256:
                    details.append(f"{name}, {pixels} pixels, {result['roofline']['gpu']}:\n\n"
                                   f"{operations(result)}")
    figures.write_section(PAGE, SECTION, "\n".join(lines) + "\n\n" + "\n\n".join(details))


if __name__ == "__main__":
    main()
