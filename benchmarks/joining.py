"""A node that joins a cluster with a long history while writes go on: when it votes, what it costs them.

    python -m benchmarks.joining --versions 100000 --clients 16

Three nodes are filled with versions by many clients. Then writes are measured without and with a fourth
node that joins meanwhile: it gets the state as a snapshot, the rest by log, a vote by itself. The ratio is
that of the writes a second while it joined to those before. A join takes few seconds, of which each is
another; so it is done several times, the node removed in between.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.log_beside_etcd import McrCluster, run_clients
from benchmarks.measuring import Spread
from tests.support.waiting import until

FILL_CLIENTS = 64
FILL_S = 20.0
# Long enough for any join; the load ends with it.
JOIN_S_MAX = 25


def fill(cluster: McrCluster, versions: int) -> int:
    """Commit until there are so many versions; return how many there are."""
    count = 1
    while count < versions:
        leader = cluster.addresses[cluster.leader()]
        done = run_clients(cluster, "put", [leader], FILL_CLIENTS, FILL_S)
        count += int(done["per_s"] * FILL_S)
        sys.stderr.write(f"  {count} of {versions} versions, {done['per_s']:.0f}/s\n")
    return count


def loaded(cluster: McrCluster, clients: int, seconds: int) -> "subprocess.Popen[str]":
    """Start a load that goes on for so long."""
    leader = cluster.addresses[cluster.leader()]
    command = [sys.executable, "-m", "benchmarks.log_clients", "mcr", "put", leader]
    command += ["--clients", str(clients), "--seconds", str(seconds), *cluster.options()]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def join(cluster: McrCluster, clients: int, before_s: int) -> tuple[float, float]:
    """Let a node join under load, and remove it; return how long it took, and the share of writes left."""
    process = loaded(cluster, clients, before_s + JOIN_S_MAX)
    start_s = time.perf_counter()
    time.sleep(before_s)
    joined_s = time.perf_counter() - start_s
    position = cluster.add()
    # One connection for all looks: a new one each time, at the node that leads, took a tenth of its time.
    with cluster.connected(0) as client:
        until(lambda: cluster.has_vote(position, client), JOIN_S_MAX)
        voted_s = time.perf_counter() - start_s
    assert process.stdout is not None
    by_second = json.loads(process.stdout.read())["by_second"]
    process.wait()
    applied, last = cluster.status(position)
    cluster.remove(position)
    # The client's clock began when its interpreter had started, up to a second after ours.
    before = by_second[2 : int(joined_s) - 1]
    during = by_second[int(joined_s) : int(voted_s) + 1]
    rates = [statistics.mean(part) for part in (before, during)]
    sys.stdout.write(
        f"voted after {voted_s - joined_s:.1f} s, has applied {applied} of {last} entries; "
        f"writes/s before {rates[0]:.0f}, meanwhile {rates[1]:.0f}: {rates[1] / rates[0]:.2f}; "
        f"by second {' '.join(map(str, by_second))}\n"
    )
    return voted_s - joined_s, rates[1] / rates[0]


def main() -> int:
    """Run and print a few lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--versions", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--before", type=int, default=15, help="seconds of load before the node joins")
    parser.add_argument("--joins", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mcr-bench-") as folder, McrCluster(Path(folder)) as cluster:
        count = fill(cluster, options.versions)
        sys.stdout.write(f"{count} versions\n")
        joins = [join(cluster, options.clients, options.before) for _ in range(options.joins)]
    took, ratios = (Spread(tuple(values)) for values in zip(*joins, strict=True))
    sys.stdout.write(f"voted after {took.text(digits=1)} s; writes meanwhile / before {ratios.text()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
