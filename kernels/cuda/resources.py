#!/usr/bin/env python3
"""What ptxas says of every kernel: registers, shared memory, spills, and the occupancy that follows.

    kernels/cuda/resources.py [--nvcc NVCC]           prints the table
    kernels/cuda/resources.py --write docs/cuda.md    puts it between the page's two marks

A row is a kernel; of its instances (element types, widths) the one with the most registers counts.
"""
import argparse
import pathlib
import re
import subprocess
import sys

ARCHITECTURES = ["sm_80", "sm_90", "sm_100", "sm_120"]
# Warps that fit into an SM at all.
MAX_WARPS = {"sm_80": 64, "sm_90": 64, "sm_100": 64, "sm_120": 48}
REGISTERS = 65536
BEGIN, END = "<!-- resources.py begins -->", "<!-- resources.py ends -->"
ROOT = pathlib.Path(__file__).resolve().parents[2]


def short_name(mangled):
    """ForEachKernel<Body> is called by its body."""
    name = subprocess.run(["c++filt", mangled], capture_output=True, text=True, check=True).stdout
    name = re.sub(r"\(anonymous namespace\)::|swinfleet::cuda::|^void ", "", name.strip())
    name = re.sub(r"_INTERNAL_\w+?::", "", name)
    body = re.match(r"ForEachKernel<(\w+)", name)
    return body.group(1) if body else re.match(r"\w+", name).group(0)


def compile_for(nvcc, source, architecture):
    command = [nvcc, "-std=c++20", "-O3", f"-arch={architecture}", f"-I{ROOT}", "-Xptxas=-v",
               "-cubin", "-o", "/dev/null", str(source)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(result.stderr)
    return result.stderr


def parse(text):
    """(mangled name, registers, static shared memory, spilled bytes) of each kernel."""
    pattern = re.compile(
        r"Compiling entry function '(\S+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads"
        r".*?Used (\d+) registers([^\n]*)", re.S)
    for name, stores, loads, registers, rest in pattern.findall(text):
        shared = re.search(r"(\d+) bytes smem", rest)
        yield name, int(registers), int(shared.group(1)) if shared else 0, int(stores) + int(loads)


def occupancy(registers, architecture):
    """Percent of an SM's warps that its registers allow; they come in units of 256 a warp."""
    a_warp = -(-registers * 32 // 256) * 256
    most = MAX_WARPS[architecture]
    return 100 * min(most, REGISTERS // a_warp) // most


def table(nvcc):
    kernels = {}
    for source in sorted((ROOT / "kernels" / "cuda").glob("*.cu")):
        for architecture in ARCHITECTURES:
            for mangled, registers, shared, spilled in parse(compile_for(nvcc, source, architecture)):
                row = kernels.setdefault((source.name, short_name(mangled)), {})
                old = row.get(architecture, (0, 0, 0))
                row[architecture] = tuple(map(max, old, (registers, shared, spilled)))
    lines = ["| file | kernel | " + " | ".join(ARCHITECTURES) + " | spilled bytes |",
             "| --- | --- |" + " --- |" * (len(ARCHITECTURES) + 1)]
    for (source, name), row in sorted(kernels.items()):
        cells = [f"{row[a][0]} ({occupancy(row[a][0], a)}%)" for a in ARCHITECTURES]
        spilled = max(row[a][2] for a in ARCHITECTURES)
        lines.append(f"| `{source}` | {name} | " + " | ".join(cells) + f" | {spilled} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nvcc", default="nvcc")
    parser.add_argument("--write", type=pathlib.Path)
    args = parser.parse_args()
    text = table(args.nvcc)
    if args.write is None:
        print(text)
        return
    page = args.write.read_text()
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    args.write.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


if __name__ == "__main__":
    main()
