#!/usr/bin/env python3
"""What ptxas says of every kernel: registers, shared memory, spills, and the occupancy that follows.

    kernels/cuda/resources.py [--nvcc NVCC]           prints the table
    kernels/cuda/resources.py --write docs/cuda.md    puts it between the page's two marks

In the first table a row is a kernel; of its instances (element types, widths) the one with the most
registers counts. In the second one are blocks that take much shared memory, as the sources ask for it.
"""
import argparse
import pathlib
import re
import subprocess
import sys

ARCHITECTURES = ["sm_80", "sm_90", "sm_100", "sm_120"]
# Warps and blocks that fit into an SM at all, and its shared memory, of which each block takes 1 KiB
# for itself (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability").
MAX_WARPS = {"sm_80": 64, "sm_90": 64, "sm_100": 64, "sm_120": 48}
MAX_BLOCKS = {"sm_80": 32, "sm_90": 32, "sm_100": 32, "sm_120": 24}
SHARED = {"sm_80": 164 << 10, "sm_90": 228 << 10, "sm_100": 228 << 10, "sm_120": 100 << 10}
OF_A_BLOCK = 1 << 10
REGISTERS = 65536
BEGIN, END = "<!-- resources.py begins -->", "<!-- resources.py ends -->"
ROOT = pathlib.Path(__file__).resolve().parents[2]


def tile(tokens, vectors, dim):
    """TokenTile::Bytes of 16-bit numbers."""
    return tokens * (5 * 4 + vectors * (dim + 8) * 2)


def layer_norm(channels):
    """PartsOf(LayerNormBackwardArgs): threads and bytes."""
    a_warp = 2 * 4 * (-(-channels // 256) * 256)
    warps = 8
    while warps * a_warp > 80 << 10:
        warps //= 2
    return 32 * warps, warps * a_warp


def plain(tiles):
    """SharedFor of float32 attention."""
    return (tiles * 32 * 65 + 16 * 32) * 4 + 256


# A kernel, what it is given, threads of a block, bytes of its shared memory.
WINDOW, SEVERAL = "window of 64 tokens, heads of 32", "several tiles of 64, heads of 64"
BLOCKS = [
    ("LayerNormBackwardKernel", "96 channels", *layer_norm(96)),
    ("LayerNormBackwardKernel", "1,024 channels", *layer_norm(1024)),
    ("LayerNormBackwardKernel", "4,096 channels", *layer_norm(4096)),
    ("MmaForwardKernel", WINDOW, 128, tile(64, 1, 32) + tile(64, 2, 32)),
    ("MmaForwardKernel", SEVERAL, 128, tile(64, 1, 64) + 2 * tile(64, 2, 64)),
    ("MmaWindowGradientsKernel", WINDOW, 128, 2 * tile(64, 2, 32) + 2 * 64 * (64 + 8) * 2 + 256),
    ("MmaQueryGradientsKernel", SEVERAL, 128, 3 * tile(64, 2, 64) + 256),
    ("MmaKeyGradientsKernel", SEVERAL, 128, 3 * tile(64, 2, 64)),
    ("MmaBiasGradientsKernel", SEVERAL, 128, 4 * tile(64, 2, 64)),
    ("AttentionForwardKernel", "any window, float32", 128, plain(3)),
    ("QueryGradientsKernel", "any window, float32", 128, plain(4)),
    ("KeyGradientsKernel", "any window, float32", 128, plain(4)),
    ("BiasGradientsKernel", "any window, float32", 128, plain(4)),
]


def short_name(mangled):
    """ForEachKernel<Body> is called by its body."""
    name = subprocess.run(["c++filt", mangled], capture_output=True, text=True, check=True).stdout
    name = re.sub(r"\(anonymous namespace\)::|swinfleet::cuda::|^void ", "", name.strip())
    name = re.sub(r"_INTERNAL_\w+?::", "", name)
    body = re.match(r"ForEachKernel<(\w+)", name)
    return body.group(1) if body else re.match(r"\w+", name).group(0)


def compile_for(nvcc, source, architecture):
    command = [nvcc, "-std=c++20", "-O3", f"-arch={architecture}", f"-I{ROOT}", "-Xptxas=-v",
               "-DSWINFLEET_CUDA_INTERFACE=\"\"", "-cubin", "-o", "/dev/null", str(source)]
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


def warps_of_registers(registers):
    """Warps whose registers an SM has; they come in units of 256 a warp."""
    return REGISTERS // (-(-registers * 32 // 256) * 256)


def occupancy(registers, architecture):
    """Percent of an SM's warps that its registers allow."""
    most = MAX_WARPS[architecture]
    return 100 * min(most, warps_of_registers(registers)) // most


def occupancy_of_blocks(registers, threads, shared, architecture):
    """Percent of an SM's warps that whole blocks of so many threads and bytes come to."""
    warps = threads // 32
    blocks = min(MAX_BLOCKS[architecture], MAX_WARPS[architecture] // warps,
                 warps_of_registers(registers) // warps, SHARED[architecture] // (shared + OF_A_BLOCK))
    return 100 * blocks * warps // MAX_WARPS[architecture]


def tables(nvcc):
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
    registers = {name: row for (_, name), row in kernels.items()}
    lines += ["", "| kernel | of | threads | shared memory | " + " | ".join(ARCHITECTURES) + " |",
              "| --- | --- | --- | --- |" + " --- |" * len(ARCHITECTURES)]
    for name, size, threads, shared in BLOCKS:
        cells = [f"{occupancy_of_blocks(registers[name][a][0], threads, shared, a)}%"
                 for a in ARCHITECTURES]
        lines.append(f"| {name} | {size} | {threads} | {shared / 1024:.0f} KiB | "
                     + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nvcc", default="nvcc")
    parser.add_argument("--write", type=pathlib.Path)
    args = parser.parse_args()
    text = tables(args.nvcc)
    if args.write is None:
        print(text)
        return
    page = args.write.read_text()
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    args.write.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


if __name__ == "__main__":
    main()
