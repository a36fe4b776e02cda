"""What a benchmark ran on."""
import json
import os
import subprocess

import figures


def output(*command, **environment):
    """What a program prints, run with these variables besides the present ones."""
    return subprocess.run(command, env=dict(os.environ, **environment), stdout=subprocess.PIPE,
                          check=True, text=True).stdout.strip()


def last_json(*command, **environment):
    """The object on the last line that a program prints; what goes wrong it says itself."""
    return json.loads(output(*command, **environment).splitlines()[-1])


def mpirun(ranks):
    """What starts a program as so many ranks on this machine, also as the user root."""
    as_root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    # Otherwise one or two ranks are bound to one core each, whatever the number of their threads.
    return ["mpirun", *as_root, "--oversubscribe", "--bind-to", "none", "-n", str(ranks)]


def output_folder(benchmark):
    """Where a benchmark keeps what it measures, made if it is missing."""
    base = os.environ.get("SWINFLEET_BENCHMARK_DIR", "benchmarks/out")
    folder = os.path.join(base, benchmark)
    os.makedirs(folder, exist_ok=True)
    return folder


def describe():
    """The processor's name, its cores and instruction sets, and whether it has bf16 arithmetic."""
    fields = {entry["field"].rstrip(":"): entry["data"] for entry in flat(
        json.loads(output("lscpu", "--json"))["lscpu"])}
    flags = fields["Flags"]
    cores = int(fields["CPU(s)"])
    family = f"family {fields['CPU family']} model {fields['Model']}"
    sets = ", ".join(figures.instruction_sets(flags)) or "none beyond the basic one"
    return {
        "name": f"{fields['Model name']} ({family}), {cores} logical processors, {sets}",
        "bf16": figures.has_bf16(flags),
    }


def flat(entries):
    """Newer versions of lscpu nest their fields."""
    for entry in entries:
        yield entry
        yield from flat(entry.get("children", []))


def commit():
    """The commit that is measured, marked where the programs' sources differ from it."""
    sources = ["kernels", "core", "distributed", "worker", "proto", "coordinator"]
    differs = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", *sources], check=False)
    return output("git", "rev-parse", "--short", "HEAD") + ("+" if differs.returncode else "")
