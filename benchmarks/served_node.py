"""What the network costs: commit and checkout through a served node, against an embedded store in one run.

    python -m benchmarks.served_node --size-mib 256 --repetitions 3

Both sides run the same flows of the same client in this process; the only difference is that the store is
behind gRPC on loopback, in a process of its own. The file is a safetensors file of random weights, the
encoding `raw`, so the work is hashing, copying and writing. Systems take turns, so that noise hits both. A
ratio of 1.0 means that the network costs nothing; on two cores the second process competes for them.
"""

import argparse
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mcr

MODEL = "bench/served"
MIB = 1 << 20


def serve(data: Path) -> "tuple[subprocess.Popen[str], str]":
    """Start a node on a store and return the process and its address."""
    command = [sys.executable, "-m", "mcr.cli.main", "node", "start", "--json", "--name", "bench"]
    command += ["--data", str(data), "--listen", "127.0.0.1:0", "--bootstrap"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())["listen"]


def write_model(path: Path, size_mib: int) -> None:
    """Write a safetensors file of random weights in tensors of 16 MiB."""
    count = max(1, size_mib // 16)
    each = size_mib * MIB // count
    header = {
        f"layers.{number}.weight": {
            "dtype": "U8",
            "shape": [each],
            "data_offsets": [number * each, (number + 1) * each],
        }
        for number in range(count)
    }
    head = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for _ in range(count):
            file.write(os.urandom(each))


def measure(where: str, source: Path, target: Path) -> dict[str, float]:
    """Commit new bytes, commit them again, check them out; return seconds by stage."""
    seconds: dict[str, float] = {}
    with mcr.connect(where) as client:
        model = client.model(MODEL)

        def timed(stage: str, work: object) -> None:
            os.sync()
            start = time.perf_counter()
            assert callable(work)
            work()
            seconds[stage] = time.perf_counter() - start

        timed("commit", lambda: model.commit(source))
        timed("again", lambda: model.commit(source))
        timed("checkout", lambda: model.checkout("main", target))
    assert (target / source.name).stat().st_size == source.stat().st_size
    return seconds


def main() -> int:
    """Run and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size-mib", type=int, default=256)
    parser.add_argument("--repetitions", type=int, default=3)
    given = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = {"embedded": {}, "served": {}}
    with tempfile.TemporaryDirectory(prefix="mcr-bench-") as scratch:
        root = Path(scratch)
        for name in found:
            mcr.init(root / name, encoding="raw")
        process, address = serve(root / "served")
        try:
            for number in range(given.repetitions):
                source, target = root / "model.safetensors", root / "out"
                write_model(source, given.size_mib)
                order = [("embedded", str(root / "embedded")), ("served", address)]
                for name, where in order if number % 2 == 0 else reversed(order):
                    for stage, seconds in measure(where, source, target).items():
                        found[name].setdefault(stage, []).append(seconds)
                    shutil.rmtree(target)
        finally:
            process.terminate()
            process.wait(30)
    print(f"{given.size_mib} MiB, median of {given.repetitions}; served / embedded, less is better")
    for stage in found["embedded"]:
        embedded, served = (statistics.median(found[name][stage]) for name in ("embedded", "served"))
        rate = given.size_mib * MIB / 1e6
        print(
            f"{stage:10} {served / embedded:5.2f}x   embedded {rate / embedded:6.0f} MB/s   "
            f"served {rate / served:6.0f} MB/s"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
