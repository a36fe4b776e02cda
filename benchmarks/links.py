#!/usr/bin/env python3
"""Steps over the links of a test cluster, beside what `swinfleet plan` says of them: runs the rows of
benchmarks/links.sh, with the cluster up, and writes the tables to docs/communication.md."""
import argparse
import dataclasses
import os
import subprocess

import figures
import machine

PAGE = "docs/communication.md"
SECTION = "benchmarks/links.sh"
CLUSTER = "tests/cluster/cluster.sh"
HOSTS = 4
MODEL = "swinv2_tiny_window8_256"
MICRO_BATCH = 2
# Of a rank in a step.
MICRO_BATCHES = 2
# Of a link's bits those of messages, as TCP over Ethernet has them: docs/communication.md.
PAYLOAD = 0.94
RATE = 1000


@dataclasses.dataclass
class Row:
    stage: int
    overlap: bool = True
    # Mbit/s.
    rate: int = RATE

    def job(self):
        return f"""\
name: links
run_dir: links
model: {{preset: {MODEL}}}
data: {{format: imagefolder, path: pictures}}
train:
  {{epochs: 1, global_batch: {HOSTS * MICRO_BATCHES * MICRO_BATCH}, micro_batch: {MICRO_BATCH}}}
parallel: {{threads_per_rank: 1, zero_stage: {self.stage}, overlap: {str(self.overlap).lower()}}}
"""


def write_job(row, args):
    path = os.path.abspath(os.path.join(args.out, "job.yaml"))
    with open(path, "w", encoding="utf-8") as file:
        file.write(row.job())
    return path


def measure(row, args):
    for host in range(HOSTS):
        subprocess.run([CLUSTER, "link", f"node{host}", f"{row.rate}mbit"], check=True)
    found = machine.last_json(
        CLUSTER, "run", "--", "mpirun", "-np", str(HOSTS), os.path.abspath("build/bin/swinfleet-bench"),
        "ranks", "--job", write_job(row, args), "--steps", str(args.steps), "--json")["rows"][0]
    print(row, f"{found['step_s']:.3f} s, waiting {found['exposed_communication_s']:.3f} s",
          flush=True)
    return found


def plan(row, compute_seconds, args):
    """`compute_seconds`: of a step, of a rank that waits for nobody."""
    return machine.last_json(
        "build/bin/swinfleet-plan", write_job(row, args), "--json", "--ranks", str(HOSTS),
        "--link-gbit-per-s", str(PAYLOAD * row.rate / 1000), "--link-latency-us", "100",
        "--step-seconds", str(compute_seconds / MICRO_BATCHES))["communication"]


def overlap_table(rows):
    lines = ["| ZeRO | overlap | sent by a rank, MiB | step, s | planned | waiting, s | planned |",
             "| --- | --- | --- | --- | --- | --- | --- |"]
    for row, found, planned in rows:
        lines.append(
            f"| {row.stage} | {'on' if row.overlap else 'off'}"
            f" | {found['bytes_sent'] / figures.MIB:.1f}"
            f" | {found['step_s']:.2f} | {planned['step_seconds']:.2f}"
            f" | {found['exposed_communication_s']:.2f}"
            f" | {planned['exposed_communication_seconds']:.2f} |")
    return "\n".join(lines)


def rate_table(rows):
    lines = ["| Mbit/s | ZeRO | step, s | planned | off | waiting, s | planned |",
             "| --- | --- | --- | --- | --- | --- | --- |"]
    for row, found, planned in rows:
        off = planned["step_seconds"] / found["step_s"] - 1
        lines.append(
            f"| {row.rate} | {row.stage} | {found['step_s']:.2f} | {planned['step_seconds']:.2f}"
            f" | {100 * off:+.0f}% | {found['exposed_communication_s']:.2f}"
            f" | {planned['exposed_communication_seconds']:.2f} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3, help="timed, of a row")
    parser.add_argument("--rates", type=int, nargs="+", default=[250, 500, 1000, 2000],
                        help="Mbit/s of the second table")
    args = parser.parse_args()
    args.out = machine.output_folder("links")
    stages = [Row(stage, overlap) for stage in (1, 2, 3) for overlap in (False, True)]
    at_rates = [Row(stage, rate=rate) for rate in args.rates for stage in (1, 2, 3)]
    rows = stages + [row for row in at_rates if row not in stages]
    measured = [(row, measure(row, args)) for row in rows]
    # All that the plans are told of this machine: what the first row computes.
    first = measured[0][1]
    compute = first["step_s"] - first["exposed_communication_s"]
    results = [(row, found, plan(row, compute, args)) for row, found in measured]
    text = figures.paragraph(
        f"{machine.describe()['name']}; Swinfleet at {machine.commit()}. {HOSTS} hosts of one rank and"
        f" one thread, which share the processor; {MODEL}, fp32, {MICRO_BATCHES} micro-batches of"
        f" {MICRO_BATCH} pictures a rank. The fastest of {args.steps} steps, of rank 0. The plans were"
        f" told links of {PAYLOAD} of their bandwidth one way, 100 µs, and the {compute:.2f} s that the first"
        f" row computes. Links of {RATE} Mbit/s:")
    text += "\n\n" + overlap_table(results[:len(stages)])
    text += "\n\nWith overlap, at other bandwidths:\n\n"
    text += rate_table([one for one in results if one[0] in at_rates])
    figures.write_section(PAGE, SECTION, text)


if __name__ == "__main__":
    main()
