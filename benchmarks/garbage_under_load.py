"""Garbage collection under load: commits, deletions and sweeps at once, for some minutes.

    python -m benchmarks.garbage_under_load [MINUTES]

Three nodes mark garbage every few seconds. Clients commit models of a few MiB that share most of their bytes
with what is about to be deleted, delete the older ones for good, and read back what they keep. It prints how
many commits failed, and how much of the files is dead at the end.
"""

import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import mcr
from mcr.errors import McrError
from mcr.testing import LocalCluster

MIB = 1024 * 1024
PARTS, PART_BYTES = 4, MIB
# Contents of a part: so few that what one client drops, another one is about to count on.
POOL = 12
KEPT = 3
INTERVAL_S = 3
DEAD_SHARE_TARGET = 0.10
SETTLE_S = 120.0


@dataclass(slots=True)
class Tally:
    """What happened."""

    commits: int = 0
    deleted: int = 0
    read_back: int = 0
    wrong: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)


def content(seed: int) -> bytes:
    """Return a part that does not compress."""
    return random.Random(seed).randbytes(PART_BYTES)


def write(folder: Path, pool: list[bytes], chosen: list[int]) -> None:
    """Write a model of some parts."""
    folder.mkdir(exist_ok=True)
    for part, number in enumerate(chosen):
        (folder / f"part{part}.bin").write_bytes(pool[number])


def wrong(folder: Path, pool: list[bytes], chosen: list[int]) -> int:
    """Return how many parts of a checkout are not what was committed."""
    return sum(
        (folder / f"part{part}.bin").read_bytes() != pool[number] for part, number in enumerate(chosen)
    )


async def client(i: int, address: str, folder: Path, end_s: float, pool: list[bytes], tally: Tally) -> None:
    """Commit, delete and read back, until the time is up."""
    chance = random.Random(i)
    kept: list[tuple[int, list[int]]] = []
    async with await mcr.aio.connect(address) as connection:
        model = connection.model(f"load/net{i}")
        while time.monotonic() < end_s:
            chosen = [chance.randrange(POOL) for _ in range(PARTS)]
            write(folder, pool, chosen)
            try:
                made = await model.commit(folder, message=f"client {i}")
            except McrError as error:
                tally.failures[error.code] += 1
                continue
            tally.commits += 1
            tally.seconds.append(made.seconds)
            kept.append((made.number, chosen))
            if len(kept) > KEPT:
                number, _ = kept.pop(0)
                await model.delete([f"v{number}"])
                await model.empty_trash([number])
                tally.deleted += 1
            number, chosen = chance.choice(kept)
            out = folder.parent / f"out{i}"
            await model.checkout(f"v{number}", out, delete=True)
            tally.wrong += wrong(out, pool, chosen)
            tally.read_back += 1


def disks(cluster: LocalCluster) -> tuple[int, int, int]:
    """Return the bytes of all chunk files, those of them that are dead, and the round."""
    with cluster.connect() as connection:
        workers = connection.workers("gc").workers
    return (
        sum(worker.counts["bytes_used"] for worker in workers),
        sum(worker.counts["bytes_dead"] for worker in workers),
        max(worker.counts["round"] for worker in workers),
    )


def run(minutes: float) -> int:
    """Load three nodes for some minutes; return an exit status."""
    tally = Tally()
    pool = [content(seed) for seed in range(POOL)]
    settings = {"garbage_interval_s": INTERVAL_S}
    with (
        tempfile.TemporaryDirectory() as name,
        LocalCluster(nodes=3, partitions=False, settings=settings) as cluster,
    ):
        end_s = time.monotonic() + 60 * minutes

        async def load() -> None:
            await asyncio.gather(
                *(
                    client(i, node.address, Path(name) / f"in{i}", end_s, pool, tally)
                    for i, node in enumerate(cluster.nodes)
                )
            )

        asyncio.run(load())
        at_end = disks(cluster)
        settled = at_end
        give_up_s = time.monotonic() + SETTLE_S
        while settled[2] < at_end[2] + 3 and time.monotonic() < give_up_s:
            settled = disks(cluster)
        with cluster.connect() as connection:
            swept = sum(worker.counts["chunks_swept"] for worker in connection.workers("gc").workers)
            given_back = sum(worker.counts["bytes_given_back"] for worker in connection.workers("gc").workers)
    return report(minutes, tally, at_end, settled, swept, given_back)


def report(
    minutes: float,
    tally: Tally,
    at_end: tuple[int, int, int],
    settled: tuple[int, int, int],
    swept: int,
    given_back: int,
) -> int:
    """Print what happened; return an exit status."""
    failed = sum(tally.failures.values())
    seconds = sorted(tally.seconds) or [0.0]
    share = at_end[1] / max(1, at_end[0])
    share_settled = settled[1] / max(1, settled[0])
    print(f"minutes                     {minutes:g}")
    print(f"commits                     {tally.commits}, failed {failed} {dict(tally.failures)}")
    median_s, slow_s = seconds[len(seconds) // 2], seconds[-(len(seconds) // 100) - 1]
    print(f"median, 99th percentile     {median_s:.3f} s, {slow_s:.3f} s")
    print(f"versions deleted for good   {tally.deleted}")
    print(f"checkouts, wrong files      {tally.read_back}, {tally.wrong}")
    print(f"marks                       {at_end[2]}")
    print(f"chunks swept, given back    {swept}, {given_back / MIB:.0f} MiB")
    print(f"files at the end of load    {at_end[0] / MIB:.0f} MiB, dead {100 * share:.1f} %")
    print(f"three marks later           {settled[0] / MIB:.0f} MiB, dead {100 * share_settled:.1f} %")
    is_good = not failed and not tally.wrong and min(share, share_settled) < DEAD_SHARE_TARGET
    print("passed" if is_good else "FAILED")
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(run(float(sys.argv[1]) if len(sys.argv) > 1 else 10.0))
