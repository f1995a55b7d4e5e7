"""What a node takes: memory, threads and open files, idle and under load, and whether it grows.

    python -m benchmarks.node_footprint --minutes 10

Three nodes on loopback. First nobody speaks to them, then clients commit, list, check out and report without
end. Every few seconds the kernel is asked what each process holds. Growth is what matters: the median of the
last quarter of the loaded time beside that of the second quarter; the first one fills caches.
"""

import argparse
import random
import shutil
import statistics
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import mcr
from mcr.errors import McrError
from mcr.testing import LocalCluster

MIB = 1 << 20
MODEL = "bench/footprint"
FILE_BYTES = 256 << 10
IDLE_SHARE = 0.1
SAMPLES = 40


@dataclass(frozen=True, slots=True)
class Sample:
    """What one process held at one moment."""

    at_s: float
    resident_bytes: int
    threads: int
    files: int


def sample(pid: int, at_s: float) -> Sample:
    """Ask the kernel."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    resident_bytes = int(fields["VmRSS"].split()[0]) * 1024
    files = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    return Sample(at_s, resident_bytes, int(fields["Threads"]), files)


class Load:
    """Clients that use a cluster without end; what failed is counted."""

    def __init__(self, cluster: LocalCluster, clients: int) -> None:
        self.commits = 0
        self.failures = 0
        self._cluster = cluster
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(clients)]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Let what is under way end."""
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        chance = random.Random(number)
        folder = self._cluster.folder / f"client{number}"
        (folder / "in").mkdir(parents=True)
        while not self._ending.is_set():
            # A client of its own each time: connections that are not given back would show.
            with self._cluster.connect() as client:
                for _ in range(20):
                    if self._ending.is_set():
                        return
                    self._use(client, folder, chance)

    def _use(self, client: mcr.Client, folder: Path, chance: random.Random) -> None:
        model = client.model(MODEL)
        (folder / "in" / "weights.bin").write_bytes(chance.randbytes(FILE_BYTES))
        try:
            made = model.commit(folder / "in", message="load")
            model.report(made.name, {"loss": chance.random()})
            model.channel("production").set(made.name)
            model.show("channel:production")
            model.log(limit=20)
            model.checkout(made.name, folder / "out", delete=True)
        except McrError:
            with self._lock:
                self.failures += 1
            return
        with self._lock:
            self.commits += 1
        shutil.rmtree(folder / "out", ignore_errors=True)


def report(name: str, samples: list[Sample], idle: list[Sample]) -> float:
    """Print what a node held and how it grew; return the growth of its memory in percent."""
    quarter = max(1, len(samples) // 4)
    early, late = samples[quarter : 2 * quarter] or samples, samples[-quarter:]

    def median(part: list[Sample], what: str) -> float:
        return float(statistics.median(getattr(one, what) for one in part))

    growth = 100 * (median(late, "resident_bytes") / median(early, "resident_bytes") - 1)
    print(
        f"{name}: idle {median(idle, 'resident_bytes') / MIB:.0f} MiB, {median(idle, 'threads'):.0f} threads,"
        f" {median(idle, 'files'):.0f} files; loaded {median(early, 'resident_bytes') / MIB:.0f} ->"
        f" {median(late, 'resident_bytes') / MIB:.0f} MiB ({growth:+.1f} %),"
        f" {median(early, 'threads'):.0f} -> {median(late, 'threads'):.0f} threads,"
        f" {median(early, 'files'):.0f} -> {median(late, 'files'):.0f} files"
    )
    return growth


def observe(cluster: LocalCluster, seconds: float, count: int) -> list[list[Sample]]:
    """Return `count` samples of every node, spread over some time."""
    found: list[list[Sample]] = [[] for _ in cluster.nodes]
    began_s = time.perf_counter()
    for number in range(1, count + 1):
        time.sleep(max(0.0, began_s + seconds * number / count - time.perf_counter()))
        at_s = time.perf_counter() - began_s
        for held, node in zip(found, cluster.nodes, strict=True):
            held.append(sample(node.pid, at_s))
        last = [held[-1] for held in found]
        print(
            f"{at_s:7.0f} s  "
            + "   ".join(
                f"{one.resident_bytes / MIB:4.0f} MiB {one.threads:3} {one.files:3}" for one in last
            ),
            flush=True,
        )
    return found


def main() -> int:
    """Run both phases and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="under load; a tenth of it idle before")
    parser.add_argument("--clients", type=int, default=2)
    options = parser.parse_args()
    seconds = options.minutes * 60
    with LocalCluster(3) as cluster:
        print("seconds   for each node: resident memory, threads, open files")
        idle = observe(cluster, seconds * IDLE_SHARE, max(2, int(SAMPLES * IDLE_SHARE)))
        load = Load(cluster, options.clients)
        load.start()
        try:
            loaded = observe(cluster, seconds, SAMPLES)
        finally:
            load.end()
        print(f"{load.commits} commits of {FILE_BYTES >> 10} KiB, {load.failures} failures")
        for node, before, during in zip(cluster.nodes, idle, loaded, strict=True):
            report(node.name, during, before)
    return 0


if __name__ == "__main__":
    sys.exit(main())
