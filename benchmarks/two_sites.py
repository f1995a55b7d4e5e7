"""Five nodes in two sites, 40 ms apart: what a commit costs, and how often a read crosses. Needs root.

    python -m benchmarks.two_sites --size-mib 1024

Claims, each against a limit measured in the same run:

- a commit to the nearest node that is sealed for `site` (two copies) takes no more than twice as long as to
  write both copies to that disk, one after the other, each with one fdatasync;
- one that is sealed for `cluster` is limited by the line between the sites;
- a checkout at the other site is bit-exact, and with three readers through two nodes the version crosses
  once.
"""

import argparse
import hashlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import networks
from benchmarks.measuring import compile_programs
from benchmarks.networks import Host
from benchmarks.placed_nodes import PlacedCluster, finish
from benchmarks.served_node import MIB, write_model

MODEL = "bench/sites"
ROUND_TRIP_MS = 40.0
FILE = "model.safetensors"
PROBE_PORT = 7999
PROBE_BYTES = 64 * MIB
READERS = 3


def write_limit_s(folder: Path, source: Path, copies: int) -> float:
    """Return how long it takes to write a file so many times, each synced."""
    data = source.read_bytes()
    os.sync()
    start = time.perf_counter()
    for at in range(copies):
        with (folder / f"limit-{at}").open("wb", buffering=0) as file:
            for begin in range(0, len(data), MIB):
                file.write(memoryview(data)[begin : begin + MIB])
            os.fdatasync(file.fileno())
    seconds = time.perf_counter() - start
    for at in range(copies):
        (folder / f"limit-{at}").unlink()
    return seconds


def line_bytes_per_s(one: Host, other: Host) -> float:
    """Return what one TCP connection gets across, once it is up to speed."""
    code = [sys.executable, "-m", "benchmarks.two_sites", "--probe"]
    taking = subprocess.Popen(other.command(*code, "take"), stdout=subprocess.PIPE, text=True)
    assert taking.stdout is not None
    taking.stdout.readline()
    subprocess.run(one.command(*code, other.address), check=True)
    out, _ = taking.communicate()
    return float(out)


def probe(what: str) -> None:
    """Be one end of `line_bytes_per_s`."""
    if what != "take":
        with socket.create_connection((what, PROBE_PORT)) as line:
            for _ in range(2 * PROBE_BYTES // MIB):
                line.sendall(bytes(MIB))
        return
    with socket.create_server(("", PROBE_PORT)) as server:
        print("ready", flush=True)
        line, _ = server.accept()
        with line:
            got, start = 0, 0.0
            while data := line.recv(MIB):
                got += len(data)
                if not start and got >= PROBE_BYTES:
                    got, start = 0, time.perf_counter()
            print(got / (time.perf_counter() - start))


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def measure(root: Path, size_mib: int, bytes_per_s: float) -> None:
    """Measure and print."""
    size = size_mib * MIB
    source = root / "in"
    source.mkdir()
    with networks.two_sites(delay_ms=ROUND_TRIP_MS / 2, bytes_per_s=bytes_per_s) as (east, west):
        places = [(east, "east"), (east, "east"), (east, "east"), (west, "west"), (west, "west")]
        with PlacedCluster(root, places) as cluster:
            write_model(source / FILE, size_mib)
            limit_s = write_limit_s(root, source / FILE, 2)
            made = cluster.run(0, "commit", MODEL, str(source), "-m", "", "--durability", "site")
            seconds = made["seconds"]
            print(
                f"commit, durability site:     {seconds:6.2f} s = {size / seconds / 1e6:5.0f} MB/s; "
                f"both copies written and synced {limit_s:.2f} s; ratio {limit_s / seconds:.2f} (claim: 0.5)"
            )
            before = west.counted()
            start = time.perf_counter()
            reads = [
                cluster.begin(3 + at % 2, "checkout", f"{MODEL}@v1", str(root / f"out{at}"))
                for at in range(READERS)
            ]
            for read in reads:
                finish(read)
            seconds = time.perf_counter() - start
            crossed = (west.counted() - before).received
            wanted = digest(source / FILE)
            exact = all(digest(root / f"out{at}" / FILE) == wanted for at in range(READERS))
            line = line_bytes_per_s(east, west)
            print(
                f"{READERS} checkouts by two nodes:   {seconds:6.2f} s = {size / seconds / 1e6:5.0f} MB/s; "
                f"bit-exact: {exact}; over the link {crossed / size:.3f} versions (claim: once); "
                f"ratio to the line {size / seconds / line:.2f}"
            )
            write_model(source / FILE, size_mib)
            before = west.counted()
            made = cluster.run(0, "commit", MODEL, str(source), "-m", "", "--durability", "cluster")
            seconds = made["seconds"]
            busy = (west.counted() - before).received / seconds / line
            print(
                f"commit, durability cluster:  {seconds:6.2f} s = {size / seconds / 1e6:5.0f} MB/s; "
                f"the line gives {line / 1e6:.0f} MB/s; ratio {size / seconds / line:.2f} (claim: 1); "
                f"the line was busy for {busy:.0%} of the time"
            )


def main() -> int:
    """Run, or be a part of a run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size-mib", type=int, default=1024)
    parser.add_argument("--bytes-per-s", type=float, default=50e6, help="of the line between the sites")
    parser.add_argument("--probe", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.probe:
        probe(given.probe)
        return 0
    compile_programs()
    print(
        f"{given.size_mib} MiB, sites {ROUND_TRIP_MS:g} ms apart, {given.bytes_per_s / 1e6:g} MB/s; "
        f"load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    with tempfile.TemporaryDirectory(prefix="mcr-bench-") as scratch:
        measure(Path(scratch), given.size_mib, given.bytes_per_s)
    print(f"load at the end {os.getloadavg()[0]:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
