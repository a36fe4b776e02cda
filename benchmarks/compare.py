#!/usr/bin/env python3
"""Runs the rows of benchmarks/cpu.sh, pair by pair, and writes their table to docs/performance.md."""
import argparse
import dataclasses
import json
import os
import re
import statistics
import subprocess
import sys

import figures
import machine

PAGE = "docs/performance.md"
SECTION = "benchmarks/cpu.sh"
OURS = "ours"
# glibc gives memory back to the system at the end of each step and takes it anew in the next one,
# unless told not to.
SETTINGS = {
    "default": {},
    "memory kept": {
        "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
        "MALLOC_MMAP_THRESHOLD_": str(1 << 34),
        "MALLOC_TOP_PAD_": str(1 << 26),
    },
}
NO_BF16 = "left out: this processor has no bf16 arithmetic (avx512_bf16)"
QUICK_START = "deploy/jobs/fashion_mnist.yaml"


@dataclasses.dataclass
class Row:
    key: str
    name: str
    # What both programs are told.
    common: str
    # What each of them is told in a way of its own.
    ours: str
    peer: str
    inference: bool = False
    steps: int = 6

    def needs_bf16(self):
        return "--dtype bf16" in self.common


def step(key, name, common, **rest):
    return Row(key, name, common, "", "", **rest)


ROWS = [
    step("t_w8_fp32", "SwinV2-T w8 256, batch 8, fp32",
         "--model swinv2_tiny_window8_256 --batch 8 --dtype fp32"),
    step("t_w8_bf16", "SwinV2-T w8 256, batch 8, bf16",
         "--model swinv2_tiny_window8_256 --batch 8 --dtype bf16"),
    step("b_w16_fp32", "SwinV2-B w16 256, batch 2, fp32",
         "--model swinv2_base_window16_256 --batch 2 --dtype fp32"),
    step("b_w16_bf16", "SwinV2-B w16 256, batch 2, bf16",
         "--model swinv2_base_window16_256 --batch 2 --dtype bf16"),
    step("b_w16_fp32_block", "the same in fp32 with block checkpointing",
         "--model swinv2_base_window16_256 --batch 2 --dtype fp32 --checkpointing block"),
    step("b_w16_bf16_block", "the same in bf16 with block checkpointing",
         "--model swinv2_base_window16_256 --batch 2 --dtype bf16 --checkpointing block"),
    step("t_v1_fp32", "Swin-T (V1) w7 224, batch 8, fp32",
         "--model swin_tiny_patch4_window7_224 --batch 8 --dtype fp32"),
    # The dimensions of QUICK_START.
    Row("quick_start", "the quick start's model, batch 32, fp32", "--batch 32 --dtype fp32",
        f"--job {QUICK_START}",
        "--img-size 32 --in-chans 1 --classes 10 --patch-size 2 --embed-dim 32 --depths 2,2,2"
        " --heads 1,2,4 --window 4 --mlp-ratio 2", steps=60),
    step("inference_t_1", "inference, SwinV2-T w8 256, batch 1, fp32",
         "--model swinv2_tiny_window8_256 --batch 1 --dtype fp32", inference=True, steps=30),
    step("inference_t_32", "inference, SwinV2-T w8 256, batch 32, fp32",
         "--model swinv2_tiny_window8_256 --batch 32 --dtype fp32", inference=True, steps=6),
]


def last_line(command, environment):
    """What the command says on its last line, as JSON."""
    done = subprocess.run(command, env=dict(os.environ, **environment), stdout=subprocess.PIPE,
                          check=False, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with status {done.returncode}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def run_ours(row, args):
    count = ["inference", "--runs"] if row.inference else ["step", "--steps"]
    return last_line(
        ["build/bin/swinfleet", "bench", count[0], *row.common.split(), *row.ours.split(),
         count[1], str(row.steps), "--threads", str(args.threads), "--json"], {})


def run_peer(row, args, environment):
    return last_line(
        [args.python, "benchmarks/torch_step.py", *row.common.split(), *row.peer.split(),
         *(["--inference"] if row.inference else []),
         "--steps", str(row.steps), "--threads", str(args.threads)], environment)


def run_row(row, args):
    rounds = []
    for number in range(args.pairs):
        one = {OURS: run_ours(row, args)}
        for name, environment in SETTINGS.items():
            one[name] = run_peer(row, args, environment)
        rounds.append(one)
        print(f"{row.key} {number + 1}/{args.pairs}:",
              ", ".join(f"{who} {one[who]['images_per_s']:.2f}" for who in one), "images/s",
              flush=True)
    return rounds


def record_path(args, row):
    return os.path.join(args.out, row.key + ".json")


def conditions(args, host):
    """What has to be the same for rows of one table."""
    return {"machine": host["name"], "threads": args.threads}


def recorded(args, row, host):
    """The row's last measurement under the same conditions, None if there is none."""
    try:
        with open(record_path(args, row), encoding="utf-8") as file:
            record = json.load(file)
    except FileNotFoundError:
        return None
    return record if record["conditions"] == conditions(args, host) else None


def memory_cell(row, rounds, parameters):
    """Ours, the least that the peer took, and the share."""
    if row.inference:
        return "| | |"
    ours, *theirs = [
        statistics.median(figures.beyond_state(peak, parameters)
                          for peak in figures.one_of(rounds, who, "peak_mib"))
        for who in (OURS, *SETTINGS)
    ]
    return f"| {ours:.0f} | {min(theirs):.0f} | {100 * ours / min(theirs):.0f}% "


def table_line(row, record):
    if isinstance(record, str):
        return f"| {row.name} | {record} | | | | | | |"
    rounds = record["rounds"]
    setting = figures.better_setting(rounds, list(SETTINGS))
    speeds = [figures.spread(figures.one_of(rounds, who, "images_per_s"), 2)
              for who in (OURS, setting)]
    ratio = figures.spread(figures.ratios(rounds, OURS, setting, "images_per_s"), 2)
    share = "" if row.inference else figures.spread(
        [100 * value for value in figures.one_of(rounds, OURS, "gemm_share")], 0)
    memory = memory_cell(row, rounds, rounds[0][setting]["parameters"])
    return (f"| {row.name} | {speeds[0]} | {speeds[1]}, {setting} | {ratio} {memory}| {share} |")


def section(args, host):
    lines, versions, pairs, dates = [], set(), set(), set()
    for row in ROWS:
        record = recorded(args, row, host)
        if row.needs_bf16() and not host["bf16"]:
            record = NO_BF16
        elif record is None:
            record = "not measured"
        else:
            versions.add(record["rounds"][0]["default"]["peer"])
            pairs.add(len(record["rounds"]))
            dates.add(record["commit"])
        lines.append(table_line(row, record))
    return "\n".join([
        f"{host['name']}; {args.threads} threads each. PyTorch: {'; '.join(sorted(versions))}."
        f" Pairs of a row: {', '.join(str(count) for count in sorted(pairs))}."
        f" Swinfleet at {', '.join(sorted(dates))}.",
        "",
        "Images a second: medians, with the smallest and the largest; the best step or run of each"
        " process counts. PyTorch runs twice in each pair, as it is and with glibc told never to"
        " give memory back; the faster setting is shown. Ratio: the median of the pairs' own."
        " Memory beyond state, MiB: the process's largest size (of PyTorch what it grew by after"
        " its imports, in the setting that takes less), less 16 bytes a parameter. Products:"
        " the share of Swinfleet's step that its matrix products would take at the peak measured"
        " beside it, %.",
        "",
        "| | Swinfleet, images/s | PyTorch, images/s | ratio | memory | PyTorch's | share |"
        " products |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *lines,
    ])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", required=True, help="one that has torch and timm")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--rows", default="", help="only the rows whose key matches this")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    args.out = os.path.join(os.environ.get("SWINFLEET_BENCHMARK_DIR", "benchmarks/out"), "cpu")
    os.makedirs(args.out, exist_ok=True)
    host = machine.describe()
    chosen = [row for row in ROWS if re.search(args.rows, row.key)]
    if not chosen:
        sys.exit(f"--rows {args.rows} matches none of {' '.join(row.key for row in ROWS)}")
    for row in chosen:
        if row.needs_bf16() and not host["bf16"]:
            print(f"{row.key}: {NO_BF16}")
            continue
        record = {"conditions": conditions(args, host), "commit": machine.commit(),
                  "rounds": run_row(row, args)}
        with open(record_path(args, row), "w", encoding="utf-8") as file:
            json.dump(record, file, indent=1)
    with open(PAGE, encoding="utf-8") as file:
        page = file.read()
    text = section(args, host)
    with open(PAGE, "w", encoding="utf-8") as file:
        file.write(figures.replace_section(page, SECTION, text))
    print(f"\n{text}\n\nwritten to {PAGE}")


if __name__ == "__main__":
    main()
