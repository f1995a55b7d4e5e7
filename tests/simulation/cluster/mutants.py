"""Seeded defects: does the simulation find them? `python -m tests.simulation.cluster.mutants --seeds 40`.

A defect that no seed finds says that the simulation is blind there, so the score is the measure of the
simulation, not the hours that it ran.
"""

import argparse
import sys
from functools import partial

from tests.simulation.cluster.defects import DEFECTS
from tests.simulation.cluster.simulation import SeedFailed, Simulation, nodes_of


def seeds_to_find(name: str, seeds: int, first: int) -> tuple[int, str] | None:
    """Return after how many seeds a defect is found, and how; None if it is not."""
    with DEFECTS[name]():
        for count, seed in enumerate(range(first, first + seeds), 1):
            try:
                Simulation(seed, nodes=nodes_of(seed)).run()
            except SeedFailed as failure:
                return count, f"{type(failure.cause).__name__}: {failure.cause}".splitlines()[0]
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=40, help="the most for each defect")
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--only", help="a part of the name")
    options = parser.parse_args()
    found = 0
    names = [name for name in DEFECTS if not options.only or options.only in name]
    find = partial(seeds_to_find, seeds=options.seeds, first=options.first)
    for name in names:
        result = find(name)
        found += result is not None
        told = "NOT FOUND" if result is None else f"seed {result[0]:3}: {result[1][:90]}"
        sys.stdout.write(f"{name:45} {told}\n")
        sys.stdout.flush()
    sys.stdout.write(f"{found} of {len(names)} defects found within {options.seeds} seeds each\n")
    return 0 if found == len(names) else 1


if __name__ == "__main__":
    sys.exit(main())
