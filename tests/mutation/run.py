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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from tests.mutation.defects import ALL
from tests.mutation.plugin import VARIABLE
from tests.simulation.cluster.simulation import SeedFailed, Simulation, nodes_of

ROOT: Final = Path(__file__).parents[2]
# Of scenario files; the same variable as `tests/conformance/test_raft_conformance.py` has.
FOLDER_VARIABLE: Final = "MCR_RAFT_CONFORMANCE"
CONFORMANCE: Final = ("tests/conformance/test_raft_conformance.py",)
UNIT: Final = ("tests/unit/node/core/raft", "tests/unit/node/core/test_members.py")
SIMULATION: Final = "simulation"
STAGES: Final = {"conformance": CONFORMANCE, "unit": UNIT, SIMULATION: ()}
# A defect may well make something go round for ever; whoever hangs has found it.
STAGE_SECONDS_MAX: Final = 600
SEEDS: Final = 20
_FAILED = re.compile(r"^(?:FAILED|ERROR) \S+?(?:::(\S+))?(?: - .*)?$", re.MULTILINE)


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


def examine(name: str, stages: dict[str, tuple[str, ...]], seeds: int, *, ask_all: bool) -> Verdict:
    """Give one defect to the stages, each in a process of its own."""
    found: dict[str, str] = {}
    for stage, paths in stages.items():
        if found and not ask_all:
            break
        answer = _ask(name, stage, paths, seeds)
        if answer is not None:
            found[stage] = answer
    return Verdict(name, found)


def _ask(name: str, stage: str, paths: tuple[str, ...], seeds: int) -> str | None:
    if stage == SIMULATION:
        arguments = ["tests.mutation.run", "--simulate", name, "--seeds", str(seeds)]
    else:
        arguments = ["pytest", "-x", "-q", "-p", "tests.mutation.plugin", "-p", "no:cacheprovider", *paths]
    command = [sys.executable, "-m", *arguments]
    environment = {**os.environ, VARIABLE: name}
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=STAGE_SECONDS_MAX,
        )
    except subprocess.TimeoutExpired:
        return "hangs"
    if done.returncode == 0:
        return None
    if stage == SIMULATION:
        return done.stdout.strip() or done.stderr.strip().splitlines()[-1]
    if done.returncode != 1:
        raise RuntimeError(f"{name}: {stage} did not run: {done.stdout[-500:]} {done.stderr[-500:]}")
    failed = _FAILED.search(done.stdout)
    return "fails" if failed is None else failed[1] or "fails"


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
    stages = {stage: paths for stage, paths in STAGES.items() if stage in options.stages}
    if options.conformance is not None:
        os.environ[FOLDER_VARIABLE] = str(options.conformance.resolve())
        if not options.conformance.is_dir():
            sys.stdout.write(f"no scenario files in {options.conformance}: conformance is left out\n")
            stages.pop("conformance", None)
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
