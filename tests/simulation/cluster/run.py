"""Run seeds: `python -m tests.simulation.cluster.run --seeds 100 --first 1 --nodes 3 --seconds 20`."""

import argparse
import sys
import time

from tests.simulation.cluster.simulation import SeedFailed, Simulation
from tests.simulation.cluster.world import SECOND


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="how many, 1 or more")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--nodes", type=int, default=0, help="voters at the start; 0 = 3 and 5 in turn")
    parser.add_argument("--seconds", type=int, default=20, help="virtual time under faults, for each seed")
    parser.add_argument("--trace", action="store_true", help="print what happened before a failure")
    parser.add_argument("--hashes", action="store_true", help="print the hash of each trace")
    options = parser.parse_args()
    began_s = time.perf_counter()
    totals: dict[str, int] = {}
    virtual_us = events = committed = failed = 0
    for seed in range(options.first, options.first + options.seeds):
        nodes = options.nodes or (3, 5)[seed % 2]
        try:
            report = Simulation(seed, nodes=nodes, seconds=options.seconds).run()
        except SeedFailed as failure:
            failed += 1
            if options.trace:
                sys.stdout.write("\n".join(failure.recent) + "\n")
            sys.stdout.write(f"{failure}\n")
            sys.stdout.flush()
            continue
        if options.hashes:
            sys.stdout.write(f"{seed} {report.trace_hash}\n")
        virtual_us += report.virtual_us
        events += report.events
        committed += report.committed
        for kind, count in report.counts.items():
            totals[kind] = totals.get(kind, 0) + count
    if options.hashes:
        return 1 if failed else 0
    elapsed_s = time.perf_counter() - began_s
    sys.stdout.write(
        f"{options.seeds} seeds, {failed} failed; {virtual_us / SECOND:.0f} virtual s in {elapsed_s:.1f} s;"
        f" {events} events, {committed} entries committed\n"
    )
    for kind, count in sorted(totals.items()):
        sys.stdout.write(f"  {count:8} {kind}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
