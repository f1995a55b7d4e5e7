"""The laws of the chunk plane hold in every world tried; more of them: `make simulate-chunks`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutation.patching import TextDefect
from tests.simulation.chunks.defects import DEFECTS

slow = pytest.mark.slow

ROOT = Path(__file__).parents[3]
# Other worlds each time; a failure prints its seed, and how to run it again.
CHUNKS = 5
# Worlds that failed once, and what was wrong. They are other worlds by now; nobody should have to ask.
FAILED_ONCE = {
    50115: "a node of the simulation that started again was a cluster of one, and sealed with one copy",
    200857: "a read right after a partition, by a client that did not ask again",
    200904: "a member came back for four seconds: others dropped copies, and nobody counted them again",
}
SEEDS_PER_CHUNK = int(os.environ.get("CHUNK_SEEDS", "10"))


def run(*arguments: str, hash_seed: str = "0", module: str = "run") -> subprocess.CompletedProcess[str]:
    """Run in a process of its own: a seed is one world only where sets of bytes have one order."""
    return subprocess.run(
        [sys.executable, "-m", f"tests.simulation.chunks.{module}", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=False,
    )


@slow
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_law_holds_whatever_fails(chunk: int) -> None:
    first = int.from_bytes(os.urandom(4)) * SEEDS_PER_CHUNK

    done = run("--first", str(first), "--seeds", str(SEEDS_PER_CHUNK))

    assert done.returncode == 0, done.stdout + done.stderr


@slow
@pytest.mark.parametrize("seed", FAILED_ONCE)
def test_every_law_holds_in_a_world_that_failed_once(seed: int) -> None:
    done = run("--first", str(seed), "--seeds", "1")

    assert done.returncode == 0, done.stdout + done.stderr


@slow
def test_a_seed_is_one_trace_in_every_process() -> None:
    first = run("--hashes", "--first", "7", "--seeds", "2")

    assert first.stdout.count("\n") == 2, first.stdout + first.stderr
    assert run("--hashes", "--first", "7", "--seeds", "2", hash_seed="4711").stdout == first.stdout


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_a_defect_finds_its_place_and_leaves_no_trace(defect: TextDefect) -> None:
    good = defect.function().__code__

    with defect():
        assert defect.function().__code__ != good

    assert defect.function().__code__ is good


@slow
@pytest.mark.parametrize("name", ["seal_syncs_no_other_disk", "store_gives_what_went_bad"])
def test_the_worlds_find_a_defect(name: str) -> None:
    done = run("--only", name, "--seeds", "20", module="defects")

    assert "1 of 1 found" in done.stdout, done.stdout + done.stderr
