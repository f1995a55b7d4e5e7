"""The laws of the replicated log hold in every world tried; more of them with `make simulate SEEDS=1000`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.cluster.simulation import Simulation, nodes_of

ROOT = Path(__file__).parents[3]
# Other worlds each time, in so many chunks of so many: a hundred virtual minutes. A failure prints its seed,
# and how to run it again; such a seed then goes into the list below, and what it found into a test of its
# own, for a seed stands for its world only until the simulation itself changes.
CHUNKS = 20
SEEDS_PER_CHUNK = 5
# Worlds in which something was wrong once: (seed, nodes, virtual seconds).
FAILED_ONCE = (
    (1, 5, 4),  # a node that read the log from its beginning took itself for the only voter
    (3, 5, 20),  # a read that came back to who had asked tripped the node
    (7, 5, 20),  # a leader tripped over its own answer, having been removed meanwhile
    (101523, 5, 60),  # the simulator asked a leader for a change that it had switched off in the same breath
    (101994, 3, 60),  # the same
    (2727016, 3, 60),  # a leader's order to campaign met a node that, restarted, did not know it as a member
)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_law_holds_whatever_fails(chunk: int) -> None:
    first = int.from_bytes(os.urandom(4)) * SEEDS_PER_CHUNK

    for seed in range(first, first + SEEDS_PER_CHUNK):
        report = Simulation(seed, nodes=nodes_of(seed)).run()

        assert report.committed > 0, f"nothing is committed in seed {seed}"


@pytest.mark.parametrize(("seed", "nodes", "seconds"), FAILED_ONCE)
def test_what_failed_once_holds(seed: int, nodes: int, seconds: int) -> None:
    Simulation(seed, nodes=nodes, seconds=seconds).run()


def test_a_seed_is_one_trace_in_every_process() -> None:
    def hashes(hash_seed: str) -> str:
        command = [
            sys.executable,
            "-m",
            "tests.simulation.cluster.run",
            "--hashes",
            "--seeds",
            "2",
            "--seconds",
            "4",
        ]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        return done.stdout

    first = hashes("1")

    assert first.count("\n") == 2
    assert hashes("4711") == first
    again = [
        f"{seed} {Simulation(seed, nodes=nodes_of(seed), seconds=4).run().trace_hash}" for seed in (1, 2)
    ]
    assert first.splitlines() == again
