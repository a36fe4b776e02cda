#!/usr/bin/env python3
"""What benchmarks/roofline.sh does once the programs are built; needs Python alone."""
import os

import figures
import machine

PAGE = "docs/cuda.md"
SECTION = "benchmarks/roofline.sh"
# With what its makers' hosts of eight have: GB/s of a GPU's links to the others, each way, and Gbit/s
# of the eight adapters to other hosts.
GPUS = {"a100": (300, 8 * 200), "h100": (450, 8 * 400)}
# Pixels of a picture's side, and the window that goes with them in the paper.
SIZES = {192: 12, 256: 16, 640: 40}
# Models, with a micro-batch that a GPU of 80 GB has room for, and the ranks that their state is spread
# over.
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
        "micro_batch": {192: 64, 256: 32, 640: 8},
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
    within_host, between_hosts = GPUS[gpu]
    return machine.last_json(
        "build/bin/swinfleet", "plan", path, "--device", "cuda", "--memory", "80GB", "--roofline", gpu,
        "--ranks-per-host", str(min(8, ranks)), "--host-gbyte-per-s", str(within_host),
        "--link-gbit-per-s", str(between_hosts), "--link-latency-us", "10", "--link-duplex", "1",
        "--json")


def summary(name, pixels, gpu, result, micro_batch):
    roofline, exchanges = result["roofline"], result["communication"]
    computing, step = exchanges["compute_seconds"], exchanges["step_seconds"]
    everything = roofline["all"]
    return (f"| {name} | {pixels} | {micro_batch} | {gpu.upper()}"
            f" | {everything['matrix_flops'] / 1e12:.2f} | {everything['bytes'] / 1e9:.1f}"
            f" | {everything['launches']:,} | {1e3 * computing:.1f}"
            f" | {1e3 * exchanges['communication_seconds']:.1f} | {1e3 * step:.1f}"
            f" | {micro_batch / step:.0f}"
            f" | {100 * roofline['share_of_peak'] * computing / step:.0f}% | {roofline['step_bound']} |")


def operations(results):
    """The rows of one model and size on all GPUs: the operations that take the most, and the rest."""
    rows = {gpu: {row["name"]: row for row in result["roofline"]["operations"]}
            for gpu, result in results.items()}
    total = {gpu: result["roofline"]["all"]["seconds"] for gpu, result in results.items()}
    first = next(iter(rows))
    large = [name for name in rows[first]
             if any(rows[gpu][name]["seconds"] >= SHARE_OF_ROW * total[gpu] for gpu in rows)]
    lines = ["| operation | calls | launches | GFLOP | GB |" + "".join(
        f" {gpu.upper()}, ms | share | of the peak | held back by |" for gpu in rows),
             "| --- | --- | --- | --- | --- |" + " --- |" * 4 * len(rows)]
    keys = ("calls", "launches", "matrix_flops", "bytes", "seconds", "compute_seconds")
    for name in large + ["others"]:
        row = {gpu: rows[gpu][name] if name in large else
               dict({key: sum(other[key] for other in rows[gpu].values() if other["name"] not in large)
                     for key in keys}, bound="") for gpu in rows}
        counts = row[first]
        line = (f"| {f'`{name}`' if name in large else name} | {counts['calls']:,}"
                f" | {counts['launches']:,} | {counts['matrix_flops'] / 1e9:,.0f}"
                f" | {counts['bytes'] / 1e9:.1f} |")
        for gpu in rows:
            seconds = row[gpu]["seconds"]
            peak = f"{100 * row[gpu]['compute_seconds'] / seconds:.0f}%" if counts["matrix_flops"] else ""
            line += (f" {1e3 * seconds:.2f} | {100 * seconds / total[gpu]:.0f}% | {peak}"
                     f" | {row[gpu]['bound']} |")
        lines.append(line)
    return "\n".join(lines)


def main():
    out = machine.output_folder("roofline")
    lines = ["| | pixels | pictures | GPU | TFLOP | GB | launches | computing, ms | exchanges, ms |"
             " step, ms | pictures/s | of the peak | held back by |", "| --- |" + " --- |" * 12]
    details = []
    for name, model in MODELS.items():
        for pixels in SIZES:
            results = {gpu: plan(name, pixels, gpu, out) for gpu in GPUS}
            for gpu, result in results.items():
                lines.append(summary(name, pixels, gpu, result, model["micro_batch"][pixels]))
                print(lines[-1], flush=True)
            details.append(f"{name}, {pixels} pixels:\n\n{operations(results)}")
    figures.write_section(PAGE, SECTION, "\n".join(lines) + "\n\n" + "\n\n".join(details))


if __name__ == "__main__":
    main()
