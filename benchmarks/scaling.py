#!/usr/bin/env python3
"""How time and memory of a training step grow: runs the points of benchmarks/scaling.sh, draws
docs/scaling.svg and writes the table to docs/performance.md. Needs matplotlib."""
import argparse
import dataclasses
import os

import matplotlib

import figures
import machine

matplotlib.use("svg")
from matplotlib import pyplot  # pylint: disable=wrong-import-position

PAGE = "docs/performance.md"
PLOT = "docs/scaling.svg"
SECTION = "benchmarks/scaling.sh"
PATCH = 4


@dataclasses.dataclass
class Point:
    """A Swin V2 of 32 channels, in one setting."""
    image: int = 256
    window: int = 8
    batch: int = 4
    # Blocks of the third stage.
    depth: int = 2

    def tokens(self):
        """Of the first stage; the others have 1/4, 1/16 and 1/64 of them."""
        return self.batch * (self.image // PATCH) ** 2

    def windows(self):
        return self.tokens() // self.window ** 2

    def job(self, threads):
        return f"""\
name: scaling
run_dir: scaling
model:
  {{arch: swin_v2, image_size: {self.image}, patch_size: {PATCH}, embed_dim: 32,
   depths: [2, 2, {self.depth}, 2], num_heads: [1, 2, 4, 8], window_size: {self.window}}}
data: {{format: imagefolder, path: pictures}}
train:
  {{epochs: 1, global_batch: {self.batch}, micro_batch: {self.batch}, eval_batch: 1}}
parallel: {{threads_per_rank: {threads}}}
"""


# In each series one number grows.
SERIES = {
    "image": [Point(image=side, batch=1) for side in (256, 512, 768, 1024, 1280, 1536)],
    "window": [Point(image=1024, batch=1, window=size) for size in (4, 8, 16, 32)],
    "batch": [Point(batch=count) for count in (1, 2, 4, 8, 16, 32)],
    "depth": [Point(depth=count) for count in (2, 6, 12, 18, 24)],
}
NAMES = {
    "image": "resolution, pixels (batch 1, window 8)",
    "window": "window (1024 pixels, batch 1)",
    "batch": "batch (256 pixels, window 8)",
    "depth": "blocks of stage 3 (256 pixels, batch 4)",
}


def measure(point, args):
    path = os.path.join(args.out, "job.yaml")
    with open(path, "w", encoding="utf-8") as file:
        file.write(point.job(args.threads))
    classes = machine.last_json("build/bin/swinfleet", "plan", path, "--ranks", "1",
                                "--json")["memory"]["classes"]
    step = machine.last_json("build/bin/swinfleet", "bench", "step", "--job", path, "--steps",
                             str(args.steps), "--json")
    print(point, f"{step['step_s']:.3f} s, {step['peak_mib']} MiB", flush=True)
    return {
        "step_s": step["step_s"],
        "peak_mib": step["peak_mib"],
        # As the step reserves them, to the byte.
        "activations": classes["activations"],
        "workspace": classes["workspace"],
    }


def draw(results):
    matplotlib.rcParams["svg.hashsalt"] = "scaling"
    figure, axes = pyplot.subplots(1, len(SERIES), figsize=(4 * len(SERIES), 3.4))
    for axis, (key, points) in zip(axes, SERIES.items()):
        values = [getattr(point, key) for point in points]
        # Where the number is a picture's side, cost should be straight in its square.
        places = [value ** 2 for value in values] if key == "image" else values
        axis.plot(places, [one["step_s"] for one in results[key]], "o-", color="tab:blue")
        axis.set_ylabel("step, s", color="tab:blue")
        axis.set_ylim(bottom=0)
        axis.set_xlim(left=0)
        axis.set_xticks(places, [str(value) for value in values], fontsize=8)
        memory = axis.twinx()
        memory.plot(places, [one["peak_mib"] / 1024 for one in results[key]], "s--",
                    color="tab:orange")
        memory.set_ylabel("process, GiB", color="tab:orange")
        memory.set_ylim(bottom=0)
        axis.set_title(NAMES[key], fontsize=9)
    figure.tight_layout()
    figure.savefig(PLOT, metadata={"Date": None})


def table(results):
    lines = [
        "| | | windows | step, s | µs a token | process, MiB | activations, KiB a token |"
        " workspace, KiB a token |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for key, points in SERIES.items():
        for point, one in zip(points, results[key]):
            tokens = point.tokens()
            lines.append(
                f"| {NAMES[key]} | {getattr(point, key)} | {point.windows()} | {one['step_s']:.3f}"
                f" | {1e6 * one['step_s'] / tokens:.2f} | {one['peak_mib']}"
                f" | {one['activations'] / tokens / 1024:.1f}"
                f" | {one['workspace'] / tokens / 1024:.1f} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--steps", type=int, default=4, help="of a point; the first is not counted")
    args = parser.parse_args()
    args.out = machine.output_folder("scaling")
    results = {key: [measure(point, args) for point in points] for key, points in SERIES.items()}
    draw(results)
    text = figures.paragraph(
        f"{machine.describe()['name']}; {args.threads} threads; Swinfleet at {machine.commit()}. A"
        " Swin V2 of 32 channels, depths 2, 2, 2, 2 and heads 1, 2, 4, 8, fp32, without"
        " checkpointing; the best step of a process. Tokens and windows are those of the first"
        " stage, of the whole batch; activations and workspace are what the step reserves.")
    text += f"\n\n![Time and memory of a step](scaling.svg)\n\n{table(results)}"
    figures.write_section(PAGE, SECTION, text, PLOT)


if __name__ == "__main__":
    main()
