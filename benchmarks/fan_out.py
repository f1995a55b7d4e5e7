"""One version to eight nodes over links that are all alike: the time it takes, and what the source sends.

    python -m benchmarks.fan_out --size-mib 1024 --bytes-per-s 10000000

Each node is a host with a link of its own, limited both ways by `tc tbf`; the cluster is one site of nine.
Needs root. The version is committed through the first node. Then one node reads it, and after that, another
version, eight at once. Claims: eight take at most twice as long as one, and the source sends at most twice
what a version has. Bytes are counted by the kernel at the source's link, headers and the log included.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import networks
from benchmarks.measuring import compile_programs
from benchmarks.placed_nodes import PlacedCluster, finish
from benchmarks.served_node import MIB, write_model

MODEL = "bench/fan"
FILE = "model.safetensors"
NODES = 9


@dataclass(frozen=True, slots=True)
class Fanned:
    """What reading one version through some nodes took."""

    seconds: float
    sent_by_source: int


def fan_out(cluster: PlacedCluster, root: Path, size_mib: int, count: int) -> Fanned:
    """Commit new bytes through the first node, then read them through `count` others at once."""
    source = root / "in"
    source.mkdir(exist_ok=True)
    write_model(source / FILE, size_mib)
    name = cluster.run(0, "commit", MODEL, str(source), "-m", "")["version"]
    host = cluster.nodes[0].host
    before, start = host.counted(), time.perf_counter()
    reads = [
        cluster.begin(at, "checkout", f"{MODEL}@{name}", str(root / f"out{at}")) for at in range(1, 1 + count)
    ]
    for read in reads:
        finish(read)
    seconds = time.perf_counter() - start
    sent = (host.counted() - before).sent
    wanted = (source / FILE).read_bytes()
    for at in range(1, 1 + count):
        if (root / f"out{at}" / FILE).read_bytes() != wanted:
            raise RuntimeError(f"what {cluster.nodes[at].name} gave is not what was committed")
        shutil.rmtree(root / f"out{at}")
    return Fanned(seconds, sent)


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size-mib", type=int, default=1024)
    parser.add_argument("--bytes-per-s", type=float, default=10e6, help="of each link, each way")
    given = parser.parse_args()
    compile_programs()
    size = given.size_mib * MIB
    print(
        f"{given.size_mib} MiB, links of {given.bytes_per_s / 1e6:g} MB/s; "
        f"load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    with tempfile.TemporaryDirectory(prefix="mcr-bench-") as scratch:
        root = Path(scratch)
        with networks.star(NODES, bytes_per_s=given.bytes_per_s) as hosts:
            places = [(host, "") for host in hosts]
            with PlacedCluster(root, places) as cluster:
                one = fan_out(cluster, root, given.size_mib, 1)
                all_ = fan_out(cluster, root, given.size_mib, NODES - 1)
    for count, found in ((1, one), (NODES - 1, all_)):
        print(
            f"to {count}: {found.seconds:6.1f} s = {size / found.seconds / 1e6:5.1f} MB/s each; "
            f"the source sent {found.sent_by_source / size:.2f} versions"
        )
    print(f"{all_.seconds / one.seconds:.2f} times as long (claim: at most 2); load {os.getloadavg()[0]:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
