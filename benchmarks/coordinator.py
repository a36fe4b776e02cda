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
SECURE_SECTION = "benchmarks/coordinator.sh --secure"
# In each series one number grows.
RANKS = [(ranks, 1000) for ranks in (100, 500, 1000, 2000)]
JOBS = [(500, jobs) for jobs in (100, 1000, 3000, 10000)]
LARGEST = (2000, 10000)
SECURE = [(500, 1000), (2000, 1000), LARGEST]
COORDINATOR = "build/bin/swinfleet-coordinator"


def make_secrets(folder):
    """An authority, a certificate for this machine's loopback, and tokens: options of a coordinator, of
    its users, and of ranks; and what makes the tokens in a store."""
    def path(name):
        return os.path.join(folder, name)

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *key, "-days", "2", "-subj", "/CN=load", "-keyout", path("ca.key"), "-out",
            path("ca.pem"))
    openssl("req", *key, "-subj", "/CN=localhost", "-keyout", path("server.key"), "-out",
            path("server.csr"))
    with open(path("server.ext"), "w", encoding="utf-8") as file:
        file.write("basicConstraints=CA:FALSE\nsubjectAltName=IP:127.0.0.1\n")
    openssl("x509", "-req", "-in", path("server.csr"), "-CA", path("ca.pem"), "-CAkey", path("ca.key"),
            "-CAcreateserial", "-days", "2", "-extfile", path("server.ext"), "-out",
            path("server.pem"))
    return {"server": ["--tls-cert", path("server.pem"), "--tls-key", path("server.key")],
            "load": ["--tls-ca", path("ca.pem"), "--token-file", path("user.token"),
                     "--fleet-token-file", path("fleet.token")],
            "tokens": [("user", "submitter", path("user.token")),
                       ("fleet", "fleet", path("fleet.token"))]}


def add_tokens(store, tokens):
    for name, role, file in tokens:
        if os.path.exists(file):
            os.remove(file)
        subprocess.run([COORDINATOR, "--store", store, "token", "add", name, "--role", role, "--out",
                        file], check=True, capture_output=True)


def start(args, secrets):
    """A coordinator on a new store; the process and its address."""
    store, port = os.path.join(args.out, "store"), os.path.join(args.out, "port")
    shutil.rmtree(store, ignore_errors=True)
    if os.path.exists(port):
        os.remove(port)
    command = [COORDINATOR, "--store", store, "--listen", "127.0.0.1:0", "--port-file", port,
               "--max-request-rate", "0"]
    if secrets is not None:
        add_tokens(store, secrets["tokens"])
        command += secrets["server"]
    with open(os.path.join(args.out, "coordinator.log"), "w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    while not os.path.exists(port):
        if process.poll() is not None:
            raise RuntimeError(f"the coordinator does not start; see {log.name}")
        time.sleep(0.01)
    with open(port, encoding="utf-8") as file:
        return process, "127.0.0.1:" + file.read().strip()


def measure(ranks, jobs, args, secrets=None):
    process, address = start(args, secrets)
    try:
        found = machine.last_json(
            "build/bin/coordinator_load", "--coordinator", address, "--pid", str(process.pid),
            "--ranks", str(ranks), "--jobs", str(jobs), "--seconds", str(args.seconds),
            *([] if secrets is None else secrets["load"]))
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


HEADINGS = ["submissions/s", "their p99, ms", "status p50, ms", "p99", "list p50, ms", "cores",
            "memory, MiB"]


def cells(one):
    return [f"{one['submissions_per_s']:.0f}", f"{one['submit_p99_ms']:.0f}",
            f"{one['status_p50_ms']:.1f}", f"{one['status_p99_ms']:.1f}", f"{one['list_p50_ms']:.1f}",
            f"{one['cores']:.2f}", f"{one['resident_mib']:.0f}"]


def table(names, rows):
    """`names` of the columns before the figures; each row has their cells, and a measurement."""
    heads = [*names, *HEADINGS]
    lines = [heads, ["---"] * len(heads), *([*map(str, first), *cells(one)] for first, one in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def about(args):
    return (f"{machine.describe()['name']}; Swinfleet at {machine.commit()}. The jobs are submitted by 32"
            " clients at once, each of which waits for the durable answer; they differ in their names and"
            f" folders alone, so that one check answers for all. Then, for {args.seconds:.0f} s, the ranks,"
            " in fleets of 250 that each train one of the jobs, beat once a second, rank 0 of each also"
            " with its progress, while users ask for the statuses of 50 jobs and for one list of 100 a"
            " second. The clients run on the same machine.")


def run_plain(args):
    rows = sorted(set(RANKS + JOBS + [LARGEST]))
    results = {row: measure(*row, args) for row in rows}
    draw(results)
    text = figures.paragraph(about(args))
    text += f"\n\n{table(['ranks', 'jobs'], results.items())}\n\n![Cost against ranks and jobs](coordinator.svg)"
    figures.write_section(PAGE, SECTION, text, PLOT)


def run_secure(args):
    secrets = make_secrets(args.out)
    rows = []
    for row in SECURE:
        # One after the other, since machines drift.
        rows.append(((*row, "no"), measure(*row, args)))
        rows.append(((*row, "yes"), measure(*row, args, secrets)))
    text = figures.paragraph(
        f"The same with TLS (ECDSA, P-256) and a token in every request, and each row once more"
        f" without, right before it. {about(args)} They encrypt too.")
    text += "\n\n" + table(["ranks", "jobs", "TLS and tokens"], rows)
    figures.write_section(PAGE, SECURE_SECTION, text)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10, help="of a row")
    parser.add_argument("--secure", action="store_true", help="rows with TLS and tokens beside such without")
    args = parser.parse_args()
    args.out = machine.output_folder("coordinator")
    if args.secure:
        run_secure(args)
    else:
        run_plain(args)


if __name__ == "__main__":
    main()
