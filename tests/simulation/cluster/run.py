"""Run seeds: `python -m tests.simulation.cluster.run --seeds 100 --first 1 --seconds 60 --processes 2`."""

import argparse
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

from tests.simulation.cluster.simulation import SECONDS, Report, SeedFailed, Simulation, nodes_of
from tests.simulation.cluster.world import SECOND


@dataclass(frozen=True, slots=True)
class Failure:
    """A seed that failed: what is printed, and what happened before."""

    seed: int
    text: str
    recent: tuple[str, ...]


def run_seed(seed: int, nodes: int, seconds: int) -> Report | Failure:
    """Run one seed; a failure is a value, for it has to travel between processes."""
    try:
        return Simulation(seed, nodes=nodes or nodes_of(seed), seconds=seconds).run()
    except SeedFailed as failure:
        return Failure(seed, str(failure), tuple(failure.recent))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="how many, 1 or more")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--nodes", type=int, default=0, help="voters at the start; 0 = 3 and 5 in turn")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="virtual time under faults, a seed")
    parser.add_argument("--processes", type=int, default=1, help="how many seeds run side by side")
    parser.add_argument("--trace", action="store_true", help="print what happened before a failure")
    parser.add_argument("--hashes", action="store_true", help="print the hash of each trace")
    options = parser.parse_args()
    work = partial(run_seed, nodes=options.nodes, seconds=options.seconds)
    seeds = range(options.first, options.first + options.seeds)
    began_s = time.perf_counter()
    if options.processes == 1:
        return _tell(map(work, seeds), options, began_s)
    # Fresh processes: nothing of this one, its imports and caches, can make a seed differ.
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        return _tell(pool.map(work, seeds, chunksize=4), options, began_s)


def _tell(results: Iterable[Report | Failure], options: argparse.Namespace, began_s: float) -> int:
    totals: dict[str, int] = {}
    virtual_us = events = committed = 0
    failed: list[int] = []
    for result in results:
        if isinstance(result, Failure):
            failed.append(result.seed)
            if options.trace:
                sys.stdout.write("\n".join(result.recent) + "\n")
            sys.stdout.write(f"{result.text}\n")
            sys.stdout.flush()
            continue
        if options.hashes:
            sys.stdout.write(f"{result.seed} {result.trace_hash}\n")
        virtual_us += result.virtual_us
        events += result.events
        committed += result.committed
        for kind, count in result.counts.items():
            totals[kind] = totals.get(kind, 0) + count
    if not options.hashes:
        elapsed_s = time.perf_counter() - began_s
        sys.stdout.write(
            f"{options.seeds} seeds, {len(failed)} failed; {virtual_us / SECOND:.0f} virtual s in"
            f" {elapsed_s:.1f} s; {events} events, {committed} entries committed\n"
        )
        for kind, count in sorted(totals.items()):
            sys.stdout.write(f"  {count:8} {kind}\n")
        if failed:
            sys.stdout.write(f"failed: {' '.join(map(str, failed))}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
