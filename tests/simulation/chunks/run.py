"""Many seeds of the chunk plane: `make simulate-chunks`, `python -m tests.simulation.chunks.run`."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from tests.simulation.chunks.simulation import SECONDS, Report, SeedFailed, Simulation

# A run of an hour says how far it is.
TOLD_EVERY = 100


@dataclass(frozen=True, slots=True)
class Failure:
    """How a seed failed, in a form that travels between processes."""

    seed: int
    text: str
    recent: list[str]


def attempt(seed: int, seconds: int) -> Report | Failure:
    """Run one seed."""
    try:
        return Simulation(seed, seconds=seconds).run()
    except SeedFailed as failure:
        return Failure(seed, str(failure), failure.recent)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument(
        "--seconds", type=int, default=SECONDS, help="virtual, under faults, each of two rounds"
    )
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--trace", action="store_true", help="what happened before a failure")
    parser.add_argument("--hashes", action="store_true", help="only the hash of each trace")
    options = parser.parse_args(arguments)
    if os.environ.get("PYTHONHASHSEED") != "0":
        # Sets of ids are walked in an order that only this fixes.
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.simulation.chunks.run", *(arguments or sys.argv[1:])],
            environment,
        )
    began_s = time.perf_counter()
    seeds = range(options.first, options.first + options.seeds)
    failed: list[int] = []
    totals: dict[str, int] = {}
    versions = checks = 0
    virtual_s = 0.0
    with ProcessPoolExecutor(options.processes) as pool:
        for done, result in enumerate(pool.map(attempt, seeds, [options.seconds] * len(seeds))):
            if done and done % TOLD_EVERY == 0:
                sys.stderr.write(f"{done} of {options.seeds} seeds, {len(failed)} failed\n")
            if isinstance(result, Failure):
                failed.append(result.seed)
                sys.stdout.write(f"{result.text}\n")
                sys.stdout.flush()
                if options.trace:
                    sys.stdout.write("\n".join(result.recent) + "\n")
                continue
            if options.hashes:
                sys.stdout.write(f"{result.seed} {result.trace_hash}\n")
            versions, checks = versions + result.versions, checks + result.checks
            virtual_s += result.virtual_s
            for kind, count in result.counts.items():
                totals[kind] = totals.get(kind, 0) + count
    if not options.hashes:
        elapsed_s = time.perf_counter() - began_s
        sys.stdout.write(
            f"{options.seeds} seeds, {len(failed)} failed; {virtual_s:.0f} virtual s in {elapsed_s:.1f} s; "
            f"{versions} versions, disks looked at {checks} times\n"
        )
        for kind, count in sorted(totals.items()):
            sys.stdout.write(f"  {count:8} {kind}\n")
        if failed:
            sys.stdout.write(f"failed: {' '.join(map(str, failed))}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
