"""A fleet of followers: how long from a bad report to the last follower's switch back.

    python -m benchmarks.fleet_switch --followers 6 --rounds 10

Three nodes, and `mcr follow` as processes, in turn on each of them. In every round the channel moves to a
version that all hold, a bad loss is reported, the policy rolls the channel back, and each follower switches.
The limit of the same run is what cannot be left out: one write to the log, until an event of it comes from
another node, and one durable switch of a link on this disk.
"""

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from mcr.client import Client
from mcr.model import RefKind
from mcr.testing import LocalCluster
from tests.support.fleet import CHANNEL, MODEL, Fleet, at_s

NODES = 3
LIMIT_MODEL = "bench/limit"


def round_trip_s(writer: Client, reader: Client) -> float:
    """Move a channel that nobody follows, and wait for the event of it on another node."""
    first = threading.Event()
    seen = threading.Event()
    channel = writer.model(LIMIT_MODEL).channel("limit")
    number = 2 if channel.get().number == 1 else 1
    since = writer.model(LIMIT_MODEL).history(RefKind.CHANNEL, "limit", limit=1)[0].log_index
    events = reader.model(LIMIT_MODEL).watch(since=since)

    def watch() -> None:
        first.set()
        next(events)
        seen.set()

    thread = threading.Thread(target=watch)
    thread.start()
    first.wait()
    # Until the stream is open; opening one is no part of what a follower waits for.
    time.sleep(0.2)
    start_s = time.perf_counter()
    channel.set(f"v{number}")
    seen.wait()
    elapsed_s = time.perf_counter() - start_s
    thread.join()
    events.close()
    return elapsed_s


def switch_s(folder: Path) -> float:
    """Make a link, rename it over another one, and sync the folder."""
    start_s = time.perf_counter()
    os.symlink("version", folder / "next")
    os.rename(folder / "next", folder / "link")
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(descriptor)
    os.close(descriptor)
    return time.perf_counter() - start_s


def shown(name: str, values: list[float]) -> str:
    """Return a line with the median and the range in milliseconds."""
    low, high = min(values) * 1000, max(values) * 1000
    return f"{name:36} {statistics.median(values) * 1000:7.1f} ms  ({low:.1f} to {high:.1f})\n"


def main() -> int:
    """Run and print a few lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--followers", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    limits: list[float] = []
    lasts: list[float] = []
    answers: list[float] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mcr-bench-")))
        cluster = stack.enter_context(LocalCluster(NODES, partitions=False))
        leader = cluster.leader()
        writer, reader = (stack.enter_context(cluster.connect((leader + i) % NODES)) for i in (0, 1))
        fleet = stack.enter_context(Fleet(cluster, folder, followers=options.followers))
        for number in (1, 2):
            writer.model(LIMIT_MODEL).commit(folder / f"in{number}")
        writer.model(LIMIT_MODEL).channel("limit").set("v1")
        for _ in range(options.rounds):
            limits.append(round_trip_s(writer, reader) + switch_s(folder))
            fleet.settle(writer.model(MODEL).channel(CHANNEL).set("v2").generation)
            start_s = time.time()
            fleet.report_bad(writer)
            answers.append(time.time() - start_s)
            back = writer.model(MODEL).channel(CHANNEL).get()
            lasts.append(max(at_s(each) for each in fleet.switches(back.generation)) - start_s)
    sys.stdout.write(f"{options.followers} followers on {NODES} nodes, {options.rounds} rounds\n")
    sys.stdout.write(shown("limit: write, event, durable switch", limits))
    sys.stdout.write(shown("report answered", answers))
    sys.stdout.write(shown("report to the last switch", lasts))
    ratio = statistics.median(lasts) / statistics.median(limits)
    sys.stdout.write(f"the last switch after {ratio:.1f} x the limit; target < 1000 ms\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
