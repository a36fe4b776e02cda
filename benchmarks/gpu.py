#!/usr/bin/env python3
"""What benchmarks/gpu.sh does once the programs are built."""
import argparse
import dataclasses
import glob
import json
import os
import subprocess
import sys

import machine

JOB = """\
name: gpu
run_dir: gpu
model: {{arch: swin_v2, image_size: 32, patch_size: 4, in_chans: 3, num_classes: 10, embed_dim: 32,
  depths: [1, 1], num_heads: [1, 2], window_size: 4}}
data: {{format: imagefolder, path: pictures}}
train: {{epochs: 1, micro_batch: 2, global_batch: 2, eval_batch: 1, dtype: {dtype}}}
"""


@dataclasses.dataclass
class Step:
    """Training steps of one model, ours and the peer's."""
    model: str
    batch: int
    dtype: str
    # What says which model to our program, and to the peer's.
    ours: list
    peer: list


def of_timm(model, batch, dtype):
    return Step(model, batch, dtype, ["--model", model, "--batch", str(batch), "--dtype", dtype],
                ["--model", model, "--batch", str(batch), "--dtype", dtype])


@dataclasses.dataclass
class Plan:
    """What is done, and where the programs are."""
    bin: str
    # The tests of the kernels, and what of them runs.
    kernels_test: list
    goldens: list
    # What of the operations is timed.
    operations: list
    steps: list
    # Timed, of each model.
    step_count: int
    # How the peer is called, before what a Step says.
    peer: list
    # Of a rank's buffer in collectives, the largest.
    collective_mib: int
    ranks: int
    environment: dict


def on_gpus(build, count, python):
    return Plan(
        bin=f"{build}/bin",
        kernels_test=[f"{build}/tests/cuda_gpu_test"],
        # Those of single operations are for the CPU.
        goldens=[path for path in sorted(glob.glob("tests/golden/data/*.safetensors"))
                 if not os.path.basename(path).startswith("ops_")],
        operations=["--benchmark_filter=."],
        steps=[of_timm("swinv2_tiny_window8_256", 128, "bf16"),
               of_timm("swinv2_tiny_window8_256", 64, "fp32"),
               of_timm("swinv2_base_window16_256", 32, "bf16"),
               of_timm("swinv2_base_window16_256", 16, "fp32"),
               of_timm("swin_tiny_patch4_window7_224", 128, "bf16")],
        step_count=20,
        peer=[python, "benchmarks/torch_step.py"],
        collective_mib=256,
        ranks=count,
        environment={},
    )


def small_step(out, dtype):
    path = os.path.join(out, f"{dtype}.yaml")
    with open(path, "w", encoding="utf-8") as file:
        file.write(JOB.format(dtype=dtype))
    return Step("a small model", 2, dtype, ["--job", path], [])


def in_the_emulator(build, out):
    emulated = f"{build}/tests/emulated_plain"
    # Stands for the peer: what of its last line is read.
    peer = "print('a line before'); print('{\"images_per_s\": 2.0, \"peak_mib\": 1.0}')"
    return Plan(
        bin=f"{emulated}/bin",
        kernels_test=[f"{build}/tests/cuda_kernels_test_plain", "--gtest_filter=Cast.*"],
        goldens=[f"tests/golden/data/{name}.safetensors" for name in ("v1_shift", "simmim_v2")],
        operations=["--benchmark_filter=^(cross_entropy|mean_pool_forward)/", "--cold-mib", "0",
                    "--benchmark_min_time=0.001"],
        steps=[small_step(out, dtype) for dtype in ("fp32", "bf16")],
        step_count=2,
        peer=[sys.executable, "-c", peer],
        collective_mib=1,
        ranks=2,
        environment={"LD_LIBRARY_PATH": f"{emulated}/lib", "SWINFLEET_CUDA_GPUS": "2"},
    )


class Report:
    """The report, and whether all that it tells of went well."""

    def __init__(self, plan):
        self.plan = plan
        self.lines = []
        self.failed = []

    def say(self, *lines):
        print("\n".join(lines), flush=True)
        self.lines += lines

    def run(self, what, *command):
        """What a command prints; None, and a line in the report, if it fails."""
        result = subprocess.run(command, env=dict(os.environ, **self.plan.environment),
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False, text=True)
        if result.returncode == 0:
            return result.stdout.strip()
        self.failed.append(what)
        self.say(f"**{what}: failed** (exit code {result.returncode})", "", "```")
        self.say(*(result.stdout + result.stderr).strip().splitlines()[-20:], "```", "")
        return None


def ours(plan, name, *arguments):
    return [os.path.join(plan.bin, name), *arguments]


def check_goldens(report):
    report.say("## Models, beside the official code", "")
    passed = 0
    for golden in report.plan.goldens:
        name = os.path.basename(golden)
        command = ours(report.plan, "golden_check", "--device", "cuda", "--quiet", golden)
        if report.run(name, *command) is not None:
            passed += 1
    report.say(f"{passed} of {len(report.plan.goldens)} goldens pass.", "")


def check_kernels(report):
    report.say("## Kernels, beside the double-precision reference", "")
    out = report.run("kernels", *report.plan.kernels_test)
    if out is not None:
        report.say(out.splitlines()[-1].strip(), "")


def time_operations(report):
    report.say("## Operations", "",
               "At the shapes of a step of SwinV2-T, 256 pixels, batch 8. `limit`: the share of what"
               " this GPU's measured peak and bandwidth allow.", "")
    out = report.run("operations", *ours(report.plan, "kernels_benchmark", "--device", "cuda",
                                         *report.plan.operations, "--benchmark_format=json"))
    if out is None:
        return
    report.say("| operation | µs | GFLOP/s | GB/s | limit | |", "| --- | --- | --- | --- | --- | --- |")
    for one in json.loads(out)["benchmarks"]:
        report.say(f"| `{one['name'].removesuffix('/manual_time')}` | {one['real_time']:.1f}"
                   f" | {one['GFLOP/s']:.0f} | {one['GB/s']:.0f} | {100 * one['limit']:.0f}%"
                   f" | {one['label']} |")
    report.say("")


def peer_figures(report, step, *more):
    out = report.run(f"PyTorch, {step.model} {step.dtype} {' '.join(more)}".strip(), *report.plan.peer,
                     *step.peer, "--device", "cuda", "--steps", str(report.plan.step_count), *more)
    return None if out is None else json.loads(out.splitlines()[-1])


def images(figures):
    return "-" if figures is None else f"{figures['images_per_s']:.0f}"


def say_profile(report, what, text):
    """Where the time of a step goes; `text` is what the benchmark prints of it."""
    lines = text.splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith("profile of a step"))
    report.say(f"### {what}: where its time goes", "", *lines[begin:], "")


def ratio(figures, peer):
    if figures is None or peer is None:
        return "-"
    return f"{figures['images_per_s'] / peer['images_per_s']:.2f}"


def time_steps(report):
    report.say("## Training steps", "",
               "Images a second on one GPU; the best step of a process. Memory in MiB: ours as"
               " planned, PyTorch's as its allocator gave it out.", "",
               "| | batch | dtype | Swinfleet | PyTorch | compiled | ratio | to compiled | memory |"
               " PyTorch's |", "| --- |" + " --- |" * 9)
    profiles = []
    for step in report.plan.steps:
        out = report.run(f"step of {step.model} {step.dtype}", *ours(
            report.plan, "swinfleet-bench", "step", *step.ours, "--device", "cuda", "--steps",
            str(report.plan.step_count), "--profile", "--json"))
        figures = None
        if out is not None:
            text, _, line = out.rpartition("\n")
            figures = json.loads(line)
            profiles.append((f"{step.model}, {step.dtype}", text))
        eager = peer_figures(report, step)
        compiled = peer_figures(report, step, "--compile")
        memory = "-" if figures is None else figures["gpu_mib"]
        peers = "-" if eager is None else f"{eager['peak_mib']:.0f}"
        report.say(f"| {step.model} | {step.batch} | {step.dtype} | {images(figures)} | {images(eager)}"
                   f" | {images(compiled)} | {ratio(figures, eager)} | {ratio(figures, compiled)}"
                   f" | {memory} | {peers} |")
    report.say("")
    for what, text in profiles:
        say_profile(report, what, text)


def time_collectives(report):
    report.say("## Collectives", "",
               f"Between {report.plan.ranks} GPUs. Bus bandwidth as nccl-tests defines it.", "")
    out = report.run("collectives", *machine.mpirun(report.plan.ranks),
                     *ours(report.plan, "swinfleet-bench", "collectives", "--device", "cuda",
                           "--largest-mib", str(report.plan.collective_mib)))
    if out is not None:
        report.say(*out.splitlines(), "")


def gpu_names(report):
    out = report.run("nvidia-smi", "nvidia-smi", "--query-gpu=name,driver_version,memory.total",
                     "--format=csv,noheader")
    return [] if out is None else out.splitlines()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--build", default="build")
    parser.add_argument("--report")
    parser.add_argument("--python", help="of an environment with torch and timm")
    args = parser.parse_args()
    out = machine.output_folder("gpu")
    path = args.report or os.path.join(out, "report.md")
    report = Report(in_the_emulator(args.build, out) if args.rehearse else
                    on_gpus(args.build, 1, args.python))
    report.say("# The CUDA backend " + ("in the emulator" if args.rehearse else "on a GPU"), "",
               f"Swinfleet at {machine.commit()}.", "")
    if not args.rehearse:
        names = gpu_names(report)
        report.plan = on_gpus(args.build, max(1, len(names)), args.python)
        report.say(*[f"* {name}" for name in names], "")
    check_goldens(report)
    check_kernels(report)
    time_operations(report)
    time_steps(report)
    if report.plan.ranks > 1:
        time_collectives(report)
    report.say("All checks passed." if not report.failed else f"Failed: {', '.join(report.failed)}.")
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(report.lines) + "\n")
    print(f"written to {path}")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
