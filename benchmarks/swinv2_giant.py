#!/usr/bin/env python3
"""What benchmarks/swinv2_giant.sh does once the programs are built; needs Python alone."""
import argparse
import gzip
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import threading
import zlib

import machine

# Tests say where theirs are.
BIN = os.environ.get("SWINFLEET_BIN", os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                                   "..", "build", "bin"))
FASHION_MNIST = "/usr/share/datasets/fashion-mnist"
GIB = 1 << 30
# Steps from the resumed checkpoint to the end.
RESUMED_STEPS = 2
CLASSES = 10
# Of state that the disk's rates are measured with.
PROBE_GIGABYTES = 4
SMALL_PROBE_GIGABYTES = 0.06
# What runs may take together: the machine's other programs need some as well.
SPARE_MEMORY = GIB
SPARE_DISK = GIB

JOB = """\
name: swinv2-giant
run_dir: {run}
model: {{{model}, num_classes: 10}}
data: {{format: imagefolder, path: {pictures}, mean: [0.286, 0.286, 0.286], std: [0.353, 0.353, 0.353],
  loader_threads: 1, prefetch: 1}}
train:
  epochs: {epochs}
  global_batch: {global_batch}
  micro_batch: 1
  dtype: bf16
  allow_emulation: true  # Memory is what is shown; without bf16 arithmetic steps take longer.
  accumulation: split_low_precision
  clip_grad_norm: 5
  log_every_steps: 1
  eval_every_epochs: 0
  eval_batch: 1
  optimizer: {{learning_rate: {rate}, moments: bf16}}
  schedule: {{warmup_epochs: {warmup}, warmup_learning_rate: 1.0e-6}}
memory: {memory}
parallel: {{ranks: {ranks}, threads_per_rank: {threads}, zero_stage: 3, offload: disk, offload_dir: {offload}}}
checkpoint: {{every_steps: {every}, keep_every_steps: {every}, keep_last: 1, asynchronous: false}}
"""


class Failure(Exception):
    """Something that the user can do something about."""


def settings(arguments):
    """The job's settings for the given size."""
    at_1536 = arguments.pixels == 1536
    if arguments.small:
        model = "embed_dim: 32, depths: [2, 2, 6, 2], num_heads: [1, 2, 4, 8], extra_norm_period: 6"
        model += ", image_size: %d, window_size: %d" % ((384, 32) if at_1536 else (96, 12))
    else:
        model = "preset: " + ("swinv2_giant_window12to32_192to1536" if at_1536
                              else "swinv2_giant_window12_192")
    return {
        "model": model,
        "ranks": 1 if at_1536 else 2,
        "threads": 2 if at_1536 else 1,
        "global_batch": 1 if at_1536 else 2,
        "memory": "{checkpointing: [block], sequential_windows: [%s]}"
                  % ("8, 8, 0, 0" if at_1536 else "0"),
        "rate": 1.0e-3 if arguments.small else 2.0e-5,
    }


# ---- Pictures ----


def png(width, height, grey):
    """A grey picture of 8 bits."""
    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))
    rows = b"".join(b"\0" + grey[y * width:(y + 1) * width] for y in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) +
            chunk(b"IEND", b""))


def write_pictures(folder, classes):
    """The first training and test picture of each class, in folders of their classes."""
    for split, prefix in (("train", "train"), ("val", "t10k")):
        def read(kind, prefix=prefix):
            with gzip.open(os.path.join(FASHION_MNIST, f"{prefix}-{kind}.gz")) as file:
                return file.read()
        images, labels = read("images-idx3-ubyte"), read("labels-idx1-ubyte")[8:]
        height, width = struct.unpack(">II", images[8:16])
        for label in range(classes):
            i = labels.index(label)
            grey = images[16 + i * height * width:16 + (i + 1) * height * width]
            os.makedirs(os.path.join(folder, split, str(label)), exist_ok=True)
            with open(os.path.join(folder, split, str(label), f"{i}.png"), "wb") as file:
                file.write(png(width, height, grey))


# ---- The machine ----


def program(name, *arguments):
    """Runs a program of this project; its figures."""
    return machine.last_json(os.path.join(BIN, name), *arguments)


def available_memory():
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    raise Failure("/proc/meminfo has no MemAvailable")


def check_room(plan, ranks, folder):
    """Refuses what won't fit, with the figures."""
    memory = plan["memory"]["process_bytes"] * ranks
    available = available_memory()
    if memory + SPARE_MEMORY > available:
        raise Failure(f"{ranks} ranks take {memory / GIB:.1f} GiB of memory, and {available / GIB:.1f}"
                      " are free: close other programs, or use a larger machine")
    disk = disk_needed(plan, ranks)
    free = shutil.disk_usage(folder).free
    if disk + SPARE_DISK > free:
        raise Failure(f"the run takes {disk / 1e9:.1f} GB in {folder}, where {free / 1e9:.1f} GB are"
                      " free: make room, or use --folder on another disk")
    return memory, disk


def disk_needed(plan, ranks):
    """Two sets of the state, and a checkpoint, which shares its moments with none of them. While a
    second checkpoint is written there is one set less."""
    memory = plan["memory"]
    return (memory["disk_state_bytes"] + memory["disk_checkpoint_bytes"]) * ranks


def disk_rates(folder, gigabytes):
    """Bytes a second that the disk reads and writes plainly, as the offload's own benchmark has it."""
    found = program("swinfleet-bench", "offload", "--dir", folder, "--gb", str(gigabytes), "--json")
    return found["bytes"] / found["read_s"], found["bytes"] / found["write_s"]


def product_peak(threads):
    """FLOP/s of matrix products in bf16: in fp32 where the processor has no bf16 arithmetic."""
    figures = program("swinfleet-bench", "step", "--model", "swinv2_tiny_window8_256", "--batch", "1",
                      "--dtype", "bf16", "--allow-emulation", "--threads", str(threads),
                      "--steps", "2", "--json")
    return figures["gemm_peak_gflops"] * 1e9


# ---- Training ----


class PeakMemory(threading.Thread):
    """The largest resident sizes of an mpirun's workers, by process."""

    def __init__(self, job):
        super().__init__(daemon=True)
        self.job = job
        self.peaks = {}
        self.over = threading.Event()

    def look(self):
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    words = file.read().decode(errors="replace").split("\0")
                if "swinfleet-worker" not in words[0] or self.job not in words:
                    continue
                with open(f"/proc/{pid}/status", encoding="ascii") as file:
                    for line in file:
                        if line.startswith("VmHWM:"):
                            self.peaks[pid] = int(line.split()[1]) << 10
            except OSError:
                continue

    def run(self):
        while not self.over.wait(0.2):
            self.look()

    def total(self):
        self.over.set()
        self.join()
        return sum(self.peaks.values())


def train(job, ranks, log):
    """Runs the job to its end; the ranks' largest sizes together."""
    peak = PeakMemory(job)
    peak.start()
    command = [*machine.mpirun(ranks), os.path.join(BIN, "swinfleet-worker"), "--job", job]
    with open(log, "ab") as file:
        done = subprocess.run(command, stdout=file, stderr=file, check=False)
    if done.returncode != 0:
        raise Failure(f"the training ended with {done.returncode}: see {log}")
    return peak.total()


def steps_of(run, attempt):
    path = os.path.join(run, "metrics", f"attempt-{attempt:03d}.jsonl")
    with open(path, encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    return [line for line in lines if "loss" in line]


def checkpoint(run, attempt, step):
    return os.path.join(run, "checkpoints", f"attempt-{attempt:03d}", f"step-{step:08d}")


def contents(folder):
    """Of each part of each tensor in a checkpoint, the checksum."""
    with open(os.path.join(folder, "manifest.json"), encoding="utf-8") as file:
        manifest = json.load(file)
    return {(piece["tensor"], piece["begin"], piece["count"]): piece["xxh3_64"]
            for shard in manifest["shards"] for piece in shard["pieces"]
            if not piece["tensor"].startswith("padding/")}


def used_bytes(folder):
    """What the files in a folder take, each once."""
    files = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                stat = os.stat(os.path.join(parent, name))
            except FileNotFoundError:
                continue
            files[stat.st_ino] = stat.st_blocks * 512
    return sum(files.values())


class DiskUse(threading.Thread):
    """The most that a folder has taken."""

    def __init__(self, folder):
        super().__init__(daemon=True)
        self.folder = folder
        self.most = 0
        self.over = threading.Event()

    def run(self):
        while not self.over.wait(1):
            self.most = max(self.most, used_bytes(self.folder))

    def end(self):
        self.over.set()
        self.join()
        return self.most


# ---- What it says ----


def report_machine(plan, ranks, threads, folder, probe):
    """The least that a step can take here, seconds."""
    flops = plan["step"]["matrix_flops"] * ranks
    peak = product_peak(ranks * threads)
    read, write = disk_rates(folder, probe)
    moved = [plan["step"][f"disk_bytes_{way}"] * ranks for way in ("read", "written")]
    computing, disk = flops / peak, moved[0] / read + moved[1] / write
    print(f"* A step has {flops / 1e12:.2f} TFLOP of matrix products: at the peak of"
          f" {peak / 1e9:.0f} GFLOP/s {computing:.2f} s.\n"
          f"* It reads {moved[0] / 1e9:.1f} GB of state and writes {moved[1] / 1e9:.1f} GB: at"
          f" {read / 1e9:.2f} and {write / 1e9:.2f} GB/s {disk:.2f} s.", flush=True)
    return computing + disk


def report_training(run, attempt, least):
    """Losses and times; what the last steps were."""
    steps = steps_of(run, attempt)
    losses = [step["loss"] for step in steps]
    # The first step finds memory that was never touched and files that were never written.
    times = [step["seconds"] for step in steps]
    times = times[1:] or times
    median = statistics.median(times)
    print(f"* Losses: {', '.join(f'{loss:.4f}' for loss in losses)}.\n"
          f"* A step takes {median:.2f} s (median of {len(times)}, {min(times):.2f} to"
          f" {max(times):.2f}; the first {steps[0]['seconds']:.2f}), {median / least:.2f} times the"
          " sum of the two above.", flush=True)
    return losses


def report_fall(losses):
    """Whether the loss has fallen, over the first and the last quarter."""
    quarter = max(1, len(losses) // 4)
    first, last = statistics.mean(losses[:quarter]), statistics.mean(losses[-quarter:])
    print(f"* Mean loss of the first {quarter} steps {first:.4f}, of the last {quarter} {last:.4f}.")
    if not last < first:
        raise Failure("the loss has not fallen")


def resume(job, run, ranks, log, steps, losses):
    """Goes on from the checkpoint before the last one, and compares what comes out."""
    last = checkpoint(run, 1, steps)
    expected = contents(last)
    shutil.rmtree(last)
    train(job, ranks, log)
    again = [step["loss"] for step in steps_of(run, 2)]
    same = again == losses[-RESUMED_STEPS:] and contents(checkpoint(run, 2, steps)) == expected
    print(f"* Resumed from step {steps - RESUMED_STEPS}: losses"
          f" {', '.join(f'{loss:.4f}' for loss in again)};"
          f" {len(expected)} parts of tensors {'have' if same else 'do not all have'} the same"
          " checksums as before.", flush=True)
    if not same:
        raise Failure("the resumed run has other bits")


def write_job(path, folder, given, steps, every, classes):
    per_epoch = classes // given["global_batch"]
    with open(path, "w", encoding="utf-8") as file:
        file.write(JOB.format(run=os.path.join(folder, "run"), every=every,
                              pictures=os.path.join(folder, "pictures"),
                              offload=os.path.join(folder, "offload"),
                              epochs=steps // per_epoch, warmup=steps / per_epoch / 4, **given))


def measure(arguments):
    given = settings(arguments)
    ranks, threads = given["ranks"], given["threads"]
    resumes = arguments.pixels == 192
    # Large pictures take minutes each: as many as there are steps.
    classes = CLASSES if resumes else min(arguments.steps, CLASSES)
    per_epoch = classes // given["global_batch"]
    if arguments.steps % per_epoch != 0 or arguments.steps <= RESUMED_STEPS * resumes:
        raise Failure(f"--steps is {arguments.steps}; use a multiple of {per_epoch}")
    folder = os.path.abspath(arguments.folder)
    job, log = os.path.join(folder, "job.yaml"), os.path.join(folder, "log")
    for name in ("run", "offload", "pictures"):
        shutil.rmtree(os.path.join(folder, name), ignore_errors=True)
    os.makedirs(os.path.join(folder, "offload"))
    write_pictures(os.path.join(folder, "pictures"), classes)
    every = arguments.steps - RESUMED_STEPS if resumes else arguments.steps
    write_job(job, folder, given, arguments.steps, every, classes)
    plan = program("swinfleet-plan", job, "--ranks", str(ranks), "--json")
    memory, disk = check_room(plan, ranks, folder)
    print(f"* {plan['parameters']:,} parameters; planned: {memory / GIB:.2f} GiB of memory for"
          f" {ranks} rank(s), {disk / 1e9:.1f} GB of disk.", flush=True)
    least = report_machine(plan, ranks, threads, folder,
                           SMALL_PROBE_GIGABYTES if arguments.small else PROBE_GIGABYTES)
    use = DiskUse(folder)
    use.start()
    taken = train(job, ranks, log)
    print(f"* Taken: {taken / GIB:.2f} GiB of memory (VmHWM), {use.end() / 1e9:.1f} GB of disk.")
    losses = report_training(os.path.join(folder, "run"), 1, least)
    if resumes:
        report_fall(losses)
        resume(job, os.path.join(folder, "run"), ranks, log, arguments.steps, losses)


def main():
    parser = argparse.ArgumentParser(prog="swinv2_giant.sh", description=__doc__)
    parser.add_argument("--folder", default="benchmarks/out/giant")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--pixels", type=int, choices=(192, 1536), default=192)
    arguments = parser.parse_args()
    if arguments.steps is None:
        arguments.steps = 20 if arguments.pixels == 192 else 2
    try:
        measure(arguments)
    except (Failure, OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"swinv2_giant.sh: {error}")


if __name__ == "__main__":
    main()
