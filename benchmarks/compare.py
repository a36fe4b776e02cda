#!/usr/bin/env python3
"""Runs the rows of benchmarks/cpu.sh, pair by pair, and writes their table for this machine."""
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
COLUMNS = 9
NO_BF16 = "left out: this processor has no bf16 arithmetic (avx512_bf16)"
RANKS = 2
# timm's own, which is less than the published recipes have.
DROP_PATH = "--drop-path-rate 0.1"

# What is measured: the command of `swinfleet bench`, its option for how often, and the peer.
KINDS = {
    "step": ("--steps", ["benchmarks/torch_step.py"], "--steps"),
    "inference": ("--runs", ["benchmarks/torch_step.py", "--inference"], "--steps"),
    "data": ("--batches", ["benchmarks/torch_data.py"], "--batches"),
    "ranks": ("--steps",
              ["-m", "torch.distributed.run", "--nproc_per_node", str(RANKS),
               "benchmarks/torch_ranks.py"], "--steps"),
}


@dataclasses.dataclass
class Row:
    key: str
    name: str
    # What both programs are told.
    common: str
    # What each of them is told in a way of its own.
    ours: str = ""
    peer: str = ""
    kind: str = "step"
    count: int = 6
    # None: as many as the command line says.
    threads: int | None = None

    def needs_bf16(self):
        return "--dtype bf16" in self.common


def rows(pictures):
    """All rows of the table; `pictures` is the folder that the data path reads."""
    tiny = "--model swinv2_tiny_window8_256 --dtype"
    base = f"--model swinv2_base_window16_256 --batch 2 {DROP_PATH} --dtype"
    ranks = "--model swinv2_tiny_window8_256 --batch 4"
    our_ranks = (f"--dtype fp32 --drop-path-rate 0 --micro-batches {RANKS}"
                 " --reductions reproducible --stages")
    return [
        Row("t_w8_fp32", "SwinV2-T w8 256, batch 8, fp32", f"{tiny} fp32 --batch 8 {DROP_PATH}"),
        Row("t_w8_bf16", "the same, bf16", f"{tiny} bf16 --batch 8 {DROP_PATH}"),
        Row("t_w8_fp32_all", "SwinV2-T w8 256, batch 8, fp32, without drop path",
            f"{tiny} fp32 --batch 8 --drop-path-rate 0"),
        Row("t_w8_bf16_all", "the same, bf16", f"{tiny} bf16 --batch 8 --drop-path-rate 0"),
        Row("b_w16_fp32", "SwinV2-B w16 256, batch 2, fp32", f"{base} fp32"),
        Row("b_w16_bf16", "the same, bf16", f"{base} bf16"),
        Row("b_w16_fp32_block", "the same with block checkpointing, fp32",
            f"{base} fp32 --checkpointing block"),
        Row("b_w16_bf16_block", "the same with block checkpointing, bf16",
            f"{base} bf16 --checkpointing block"),
        Row("t_v1_fp32", "Swin-T (V1) w7 224, batch 8, fp32",
            f"--model swin_tiny_patch4_window7_224 --dtype fp32 --batch 8 {DROP_PATH}"),
        # The dimensions of deploy/jobs/fashion_mnist.yaml.
        Row("quick_start", "the quick start's model, batch 32, fp32", "--batch 32",
            "--job deploy/jobs/fashion_mnist.yaml",
            "--img-size 32 --in-chans 1 --classes 10 --patch-size 2 --embed-dim 32 --depths 2,2,2"
            " --heads 1,2,4 --window 4 --mlp-ratio 2 --drop-path-rate 0.02", count=60),
        Row("inference_t_1", "inference, SwinV2-T w8 256, batch 1, fp32", f"{tiny} fp32 --batch 1",
            kind="inference", count=30),
        Row("inference_t_32", "inference, SwinV2-T w8 256, batch 32, fp32",
            f"{tiny} fp32 --batch 32", kind="inference"),
        Row("ranks_zero_1",
            f"SwinV2-T over {RANKS} ranks of 1 thread, 4 pictures each, fp32: ZeRO 1; DDP",
            ranks, f"{our_ranks} 1", "--mode ddp", kind="ranks", threads=1),
        Row("ranks_zero_3", "the same: ZeRO 3; FSDP", ranks, f"{our_ranks} 3", "--mode fsdp",
            kind="ranks", threads=1),
        Row("data", "data path: JPEGs to batches of 224 x 224", f"--data {pictures}", kind="data",
            count=40),
        Row("data_1", "the same, 1 thread", f"--data {pictures}", kind="data", count=20, threads=1),
    ]


def run_ours(row, args):
    launcher = machine.mpirun(RANKS) if row.kind == "ranks" else []
    measured = machine.last_json(
        *launcher, "build/bin/swinfleet-bench", row.kind, *row.common.split(), *row.ours.split(),
        KINDS[row.kind][0], str(row.count), "--threads", str(row.threads or args.threads), "--json")
    return measured["rows"][0] if row.kind == "ranks" else measured


def run_peer(row, args, environment):
    _, program, count = KINDS[row.kind]
    return machine.last_json(
        args.python, *program, *row.common.split(), *row.peer.split(), count, str(row.count),
        "--threads", str(row.threads or args.threads), **environment)


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


def memory_cells(rounds, parameters):
    """Ours beyond the state of so many parameters, the least that the peer took, and the share."""
    ours, *theirs = [
        statistics.median(figures.beyond_state(peak, parameters)
                          for peak in figures.one_of(rounds, who, "peak_mib"))
        for who in (OURS, *SETTINGS)
    ]
    return [f"{ours:.0f}", f"{min(theirs):.0f}", f"{100 * ours / min(theirs):.0f}%"]


def cells(row, rounds):
    setting = figures.better_setting(rounds, list(SETTINGS))
    speeds = [figures.spread(figures.one_of(rounds, who, "images_per_s"), 2)
              for who in (OURS, setting)]
    ratio = figures.spread(figures.ratios(rounds, OURS, setting, "images_per_s"), 2)
    line = [row.name, speeds[0], f"{speeds[1]}, {setting}", ratio]
    if row.kind == "ranks":
        return line + memory_cells(rounds, 0)
    if row.kind != "step":
        return line
    shares = [100 * share for share in figures.one_of(rounds, OURS, "gemm_share")]
    return line + memory_cells(rounds, rounds[0]["default"]["parameters"]) + [
        figures.spread(shares, 0),
        figures.spread(figures.one_of(rounds, OURS, "handover_ns"), 0)]


def table(args, host):
    """This machine's part of the section."""
    lines, versions, pairs, commits = [], set(), set(), set()
    for row in rows(args.pictures):
        record = recorded(args, row, host)
        if row.needs_bf16() and not host["bf16"]:
            line = [row.name, NO_BF16]
        elif record is None:
            line = [row.name, "not measured"]
        else:
            line = cells(row, record["rounds"])
            versions.update(record["rounds"][0]["default"]["peer"].split(", "))
            pairs.add(len(record["rounds"]))
            commits.add(record["commit"])
        lines.append("| " + " | ".join(line + [""] * (COLUMNS - len(line))) + " |")
    conditions_text = (
        f"{args.threads} threads each. PyTorch: {', '.join(sorted(versions))}."
        f" Pairs of a row: {', '.join(str(count) for count in sorted(pairs))}."
        f" Swinfleet at {', '.join(sorted(commits))}.")
    return "\n".join([
        figures.paragraph(conditions_text),
        "",
        "| | Swinfleet, images/s | PyTorch, images/s | ratio | memory | PyTorch's | share |"
        " products | handover |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *lines,
    ])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", required=True, help="one that has torch and timm")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--rows", default="", help="only the rows whose key matches this")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    args.out = machine.output_folder("cpu")
    host = machine.describe()
    args.pictures = os.path.join(args.out, "pictures")
    everything = rows(args.pictures)
    chosen = [row for row in everything if re.search(args.rows, row.key)]
    if not chosen:
        sys.exit(f"--rows {args.rows} matches none of {' '.join(row.key for row in everything)}")
    if any(row.kind == "data" for row in chosen):
        subprocess.run([args.python, "benchmarks/pictures.py", args.pictures], check=True)
    for row in chosen:
        if row.needs_bf16() and not host["bf16"]:
            print(f"{row.key}: {NO_BF16}")
            continue
        record = {"conditions": conditions(args, host), "commit": machine.commit(),
                  "rounds": run_row(row, args)}
        with open(record_path(args, row), "w", encoding="utf-8") as file:
            json.dump(record, file, indent=1)
    figures.write_section(PAGE, SECTION, figures.replace_part(
        figures.read_section(PAGE, SECTION), host["name"], table(args, host)))


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(str(error))
