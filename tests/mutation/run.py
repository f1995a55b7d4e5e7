"""The mutation score of what tests the replicated log: `make mutants`, `python -m tests.mutation.run`.

Each seeded defect is given to etcd's scenario files, to the unit tests of the core, and to the simulation,
one after another until something fails; `--all` asks all three, to see who would. A score says more than
hours of passed tests: a defect that nobody finds shows where they are blind.
"""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from tests.mutation.defects import ALL
from tests.mutation.plugin import VARIABLE
from tests.simulation.cluster.defects import DEFECTS
from tests.simulation.cluster.simulation import SeedFailed, Simulation, nodes_of

ROOT: Final = Path(__file__).parents[2]
# Of scenario files; the same variable as `tests/conformance/test_raft_conformance.py` has.
FOLDER_VARIABLE: Final = "MCR_RAFT_CONFORMANCE"
CONFORMANCE: Final = "tests/conformance/test_raft_conformance.py"
UNIT: Final = "tests/unit/node/core/raft"
# Who is asked, and where their tests are.
STAGES: Final = {"conformance": CONFORMANCE, "unit": UNIT, "simulation": ""}
# A defect may well make something go round for ever; whoever hangs has found it.
STAGE_SECONDS_MAX: Final = 600
SEEDS: Final = 20
_FAILED = re.compile(r"^(?:FAILED|ERROR) ([^\s:]+)(?:::(\S+))?", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Who found a defect, by stage: a test or a law; stages that did not are absent."""

    name: str
    found: dict[str, str]


def simulate(name: str, seeds: int, first: int) -> str | None:
    """Return which seed finds a defect, and how; None if none does."""
    with ALL[name]():
        for count, seed in enumerate(range(first, first + seeds), 1):
            try:
                Simulation(seed, nodes=nodes_of(seed)).run()
            except SeedFailed as failure:
                why = f"{failure.cause}".splitlines() or [type(failure.cause).__name__]
                return f"seed {count}: {why[0]}"
    return None


def examine(name: str, stages: Sequence[str], seeds: int, *, ask_all: bool) -> Verdict:
    """Give one defect to the stages, in processes of its own, until one finds it, or all are asked."""
    by_pytest = [stage for stage in stages if STAGES[stage]]
    asked = [[stage] for stage in by_pytest] if ask_all else [by_pytest] if by_pytest else []
    if "simulation" in stages:
        # What is wrong around the core, the others cannot see; for the rest they are quicker.
        asked.insert(0 if name in DEFECTS else len(asked), ["simulation"])
    found: dict[str, str] = {}
    for some in asked:
        if not found or ask_all:
            found |= _simulate_apart(name, seeds) if some == ["simulation"] else _test_apart(name, some)
    return Verdict(name, found)


def _simulate_apart(name: str, seeds: int) -> dict[str, str]:
    done = _run(name, "tests.mutation.run", "--simulate", name, "--seeds", str(seeds))
    if done is None:
        return {"simulation": "hangs"}
    if done.returncode == 0:
        return {}
    return {"simulation": done.stdout.strip() or done.stderr.strip().splitlines()[-1]}


def _test_apart(name: str, stages: Sequence[str]) -> dict[str, str]:
    paths = [STAGES[stage] for stage in stages]
    done = _run(name, "pytest", "-x", "-q", "-p", "tests.mutation.plugin", "-p", "no:cacheprovider", *paths)
    if done is None:
        return {stages[-1]: "hangs"}
    if done.returncode == 0:
        return {}
    failed = _FAILED.search(done.stdout)
    if done.returncode not in (1, 2) or failed is None:
        raise RuntimeError(f"{name}: the tests did not run: {done.stdout[-500:]} {done.stderr[-500:]}")
    stage = next(stage for stage in stages if failed[1].startswith(STAGES[stage]))
    return {stage: failed[2] or failed[1]}


def _run(name: str, *arguments: str) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            env={**os.environ, VARIABLE: name},
            capture_output=True,
            text=True,
            check=False,
            timeout=STAGE_SECONDS_MAX,
        )
    except subprocess.TimeoutExpired:
        return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="a part of the name")
    parser.add_argument("--all", action="store_true", help="ask all, not only until one finds it")
    parser.add_argument("--stages", nargs="+", choices=tuple(STAGES), default=tuple(STAGES))
    parser.add_argument("--seeds", type=int, default=SEEDS, help="of the simulation, the most a defect")
    parser.add_argument("--processes", type=int, default=1, help="how many defects side by side")
    parser.add_argument("--conformance", type=Path, help="folder of etcd's scenario files")
    parser.add_argument("--simulate", metavar="NAME", help="one defect, only in the simulation")
    options = parser.parse_args()
    if options.simulate:
        answer = simulate(options.simulate, options.seeds, 1)
        sys.stdout.write(answer or "")
        return 0 if answer is None else 1
    stages = [stage for stage in STAGES if stage in options.stages]
    if options.conformance is not None:
        os.environ[FOLDER_VARIABLE] = str(options.conformance.resolve())
        if not options.conformance.is_dir():
            sys.stdout.write(f"no scenario files in {options.conformance}: conformance is left out\n")
            stages = [stage for stage in stages if stage != "conformance"]
    names = [name for name in ALL if options.only in name]
    work = partial(examine, stages=stages, seeds=options.seeds, ask_all=options.all)
    with ThreadPoolExecutor(options.processes) as pool:
        verdicts = [_tell(verdict) for verdict in pool.map(work, names)]
    missed = [verdict.name for verdict in verdicts if not verdict.found]
    for stage in stages:
        count = sum(stage in verdict.found for verdict in verdicts)
        sys.stdout.write(f"{count:4} {'found' if options.all else 'found first'} by {stage}\n")
    score = 100 * (len(names) - len(missed)) / len(names)
    sys.stdout.write(f"{len(names) - len(missed)} of {len(names)} found: {score:.0f} %\n")
    for name in missed:
        sys.stdout.write(f"missed: {name}\n")
    return 1 if missed else 0


def _tell(verdict: Verdict) -> Verdict:
    told = "; ".join(f"{stage}: {how[:100]}" for stage, how in verdict.found.items()) or "NOT FOUND"
    sys.stdout.write(f"{verdict.name:45} {told}\n")
    sys.stdout.flush()
    return verdict


if __name__ == "__main__":
    sys.exit(main())
