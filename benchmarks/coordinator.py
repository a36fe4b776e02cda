#!/usr/bin/env python3
"""What ranks, jobs and users cost a coordinator: runs the rows of benchmarks/coordinator.sh, draws
docs/coordinator.svg and writes the table to docs/reliability.md. Needs matplotlib."""
import argparse
import os
import shutil
import subprocess
import time

import matplotlib

import figures
import machine

matplotlib.use("svg")
from matplotlib import pyplot  # pylint: disable=wrong-import-position

PAGE = "docs/reliability.md"
PLOT = "docs/coordinator.svg"
SECTION = "benchmarks/coordinator.sh"
# In each series one number grows.
RANKS = [(ranks, 1000) for ranks in (100, 500, 1000, 2000)]
JOBS = [(500, jobs) for jobs in (100, 1000, 3000, 10000)]
LARGEST = (2000, 10000)


def start(args):
    """A coordinator on a new store; the process and its address."""
    store, port = os.path.join(args.out, "store"), os.path.join(args.out, "port")
    shutil.rmtree(store, ignore_errors=True)
    if os.path.exists(port):
        os.remove(port)
    with open(os.path.join(args.out, "coordinator.log"), "w", encoding="utf-8") as log:
        process = subprocess.Popen(["build/bin/swinfleet-coordinator", "--store", store, "--listen",
                                    "127.0.0.1:0", "--port-file", port, "--max-request-rate", "0"],
                                   stdout=log, stderr=log)
    while not os.path.exists(port):
        if process.poll() is not None:
            raise RuntimeError(f"the coordinator does not start; see {log.name}")
        time.sleep(0.01)
    with open(port, encoding="utf-8") as file:
        return process, "127.0.0.1:" + file.read().strip()


def measure(ranks, jobs, args):
    process, address = start(args)
    try:
        found = machine.last_json(
            "build/bin/coordinator_load", "--coordinator", address, "--pid", str(process.pid),
            "--ranks", str(ranks), "--jobs", str(jobs), "--seconds", str(args.seconds))
    finally:
        process.terminate()
        process.wait()
    print(found, flush=True)
    return found


def draw(results):
    matplotlib.rcParams["svg.hashsalt"] = "coordinator"
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.2))
    for axis, rows, key in zip(axes, (RANKS, JOBS), ("ranks", "jobs")):
        found = [results[row] for row in rows]
        places = [one[key] for one in found]
        axis.plot(places, [one["cores"] for one in found], "o-", color="tab:blue")
        axis.set_ylabel("cores", color="tab:blue")
        axis.set_ylim(bottom=0)
        axis.set_xlim(left=0)
        axis.set_xlabel(f"{key} ({'1000 jobs' if key == 'ranks' else '500 ranks'})")
        waits = axis.twinx()
        waits.plot(places, [one["status_p99_ms"] for one in found], "s--", color="tab:orange")
        waits.set_ylabel("status p99, ms", color="tab:orange")
        waits.set_ylim(bottom=0)
    figure.tight_layout()
    figure.savefig(PLOT, metadata={"Date": None})


def table(results):
    lines = ["| ranks | jobs | submissions/s | their p99, ms | status p50, ms | p99 | list p50, ms |"
             " cores | memory, MiB |",
             "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"]
    for (ranks, jobs), one in results.items():
        lines.append(
            f"| {ranks} | {jobs} | {one['submissions_per_s']:.0f} | {one['submit_p99_ms']:.0f}"
            f" | {one['status_p50_ms']:.1f} | {one['status_p99_ms']:.1f} | {one['list_p50_ms']:.1f}"
            f" | {one['cores']:.2f} | {one['resident_mib']:.0f} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10, help="of a row")
    args = parser.parse_args()
    args.out = machine.output_folder("coordinator")
    rows = sorted(set(RANKS + JOBS + [LARGEST]))
    results = {row: measure(*row, args) for row in rows}
    draw(results)
    text = figures.paragraph(
        f"{machine.describe()['name']}; Swinfleet at {machine.commit()}. The jobs are submitted by 32"
        " clients at once, each of which waits for the durable answer; they differ in their names and folders"
        " alone, so that one check answers for all. Then, for"
        f" {args.seconds:.0f} s, the ranks, in fleets of 250 that each train one of the jobs, beat once a second, rank 0 of each"
        " also with its progress, while users ask for the statuses of 50 jobs and for one list of 100 a"
        " second. The clients run on the same machine.")
    text += f"\n\n{table(results)}\n\n![Cost against ranks and jobs](coordinator.svg)"
    figures.write_section(PAGE, SECTION, text, PLOT)


if __name__ == "__main__":
    main()
