"""Kill the store at every durable step: what was acknowledged is there, nothing half-made is visible.

To look at one point: pytest tests/crash -k 'before' with CRASH_POINTS=17 in the environment.
"""

import asyncio
import filecmp
import os
import random
import struct
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Literal

import pytest

import mcr
from mcr.aio import AsyncClient, AsyncModel
from mcr.errors import McrError, NotFoundError
from mcr_node import embedded
from tests.crash.power import CrashingDisk, Power, store_after_power_loss
from tests.faults import Keep
from tests.faults_database import CrashPoint, FaultyDatabase

MODEL = "crash/model"
KEEPS: tuple[Keep, ...] = ("none", "torn", "all")
# The loop ends by itself when a run gets through; this only bounds a store that never would.
OPERATIONS_MAX = 2000


@dataclass
class Story:
    """What the caller was told.

    Attributes:
        versions: number -> the folder whose bytes it holds, acknowledged.
        attempted: numbers that may be there, since the call was under way.
        production: where the channel may be: the last acknowledged place, and the one under way.
    """

    versions: dict[int, Path] = field(default_factory=dict)
    attempted: dict[int, Path] = field(default_factory=dict)
    production: set[int | None] = field(default_factory=lambda: {None})


def make_sources(root: Path) -> list[Path]:
    """Three small versions of a model: a tensor file of three chunks, a text, an empty file."""
    folders = []
    for number in range(1, 4):
        draw = random.Random(number)
        folder = root / f"source{number}"
        folder.mkdir()
        body = b"".join(
            random.Random(block if block != number % 3 else 100 + number).randbytes(4096)
            for block in range(3)
        )
        header = (
            '{"a":{"dtype":"U8","shape":[4096],"data_offsets":[0,4096]},'
            '"b":{"dtype":"U8","shape":[4096],"data_offsets":[4096,8192]},'
            '"c":{"dtype":"U8","shape":[4096],"data_offsets":[8192,12288]}}'
        ).encode("ascii")
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + body)
        (folder / "notes.txt").write_bytes(draw.randbytes(100 * number))
        (folder / "empty").touch()
        folders.append(folder)
    return folders


async def tell(model: AsyncModel, sources: list[Path], story: Story) -> None:
    """Three commits, a channel moved twice and back, a branch rolled back."""
    channel = model.channel("production")
    for number, source in enumerate(sources, start=1):
        story.attempted[number] = source
        version = await model.commit(source, message=f"version {number}")
        assert version.number == number
        story.versions[number] = source
        if number > 1:
            story.production.add(number)
            await channel.set(version.name, reason="newer")
            story.production = {number}
    story.production.add(2)
    await channel.rollback(reason="slower")
    story.production = {2}
    story.attempted[4] = sources[0]
    assert (await model.rollback(to="v1", reason="back to the first")).number == 4
    story.versions[4] = sources[0]


async def run_until_crash(store: Path, sources: list[Path], power: Power) -> tuple[Story, CrashingDisk, bool]:
    """Return the story so far, the disk, and whether it ended well."""
    story = Story()
    (store / "chunks").mkdir(exist_ok=True)
    disk = CrashingDisk(store / "chunks", power)
    client: AsyncClient | None = None
    try:
        node = await embedded.open_store(
            store,
            principal="test",
            timeout_s=None,
            disk=disk,
            open_database=FaultyDatabase.opener(power),
        )
        client = AsyncClient(node)
        await tell(client.model(MODEL), sources, story)
        await client.close()
    except (CrashPoint, McrError):
        # A process that meets a failing disk sees an error; what it was told before is what counts.
        assert power.off, "the store failed without a crash"
        if client is not None:
            await asyncio.gather(client.close(), return_exceptions=True)
        return story, disk, False
    return story, disk, True


def same_tree(expected: Path, actual: Path) -> bool:
    names = sorted(path.name for path in expected.iterdir())
    return sorted(path.name for path in actual.iterdir()) == names and filecmp.cmpfiles(
        expected, actual, names, shallow=False
    ) == (names, [], [])


def check_reopened(store: Path, story: Story, scratch: Path, extra: Path) -> None:
    with mcr.connect(store) as client:
        model = client.model(MODEL)
        try:
            numbers = [version.number for version in model.all_versions()]
        except NotFoundError:
            numbers = []
        assert sorted(numbers) == list(range(1, len(numbers) + 1)), "numbers have no gaps"
        assert set(story.versions) <= set(numbers) <= set(story.attempted), "what was acknowledged is there"
        for number in numbers:
            out = scratch / f"v{number}"
            model.checkout(f"v{number}", out, verify=True)
            assert same_tree(story.attempted[number], out), f"v{number} is exact"
        report = client.check(deep=True)
        assert (report.chunks_damaged, report.problems) == ((), ())
        try:
            production: int | None = model.channel("production").get().number
        except NotFoundError:
            production = None
        assert production in story.production
        # And it works on.
        version = model.commit(extra, message="after the crash")
        assert version.number == len(numbers) + 1
        model.checkout(version.name, scratch / "again", verify=True)
        assert same_tree(extra, scratch / "again")


def chosen_points() -> list[int]:
    text = os.environ.get("CRASH_POINTS", "")
    return [int(part) for part in text.split(",") if part]


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_no_crash_point_loses_or_invents_anything(
    when: Literal["before", "after"], keep: Keep, tmp_path: Path
) -> None:
    sources = make_sources(tmp_path)
    for fail_at in chosen_points() or count(1):
        assert fail_at <= OPERATIONS_MAX
        run = tmp_path / str(fail_at)
        run.mkdir()
        mcr.init(run / "store", encoding="auto")
        power = Power(fail_at=fail_at, when=when)
        story, disk, ended = asyncio.run(run_until_crash(run / "store", sources, power))
        found = store_after_power_loss(run / "store", disk, power, run / "found", keep=keep, seed=fail_at)
        check = partial(check_reopened, found, story, run, sources[fail_at % 3])
        try:
            check()
        except (AssertionError, McrError) as error:
            what = power.journal[-1] if power.journal else "nothing"
            raise AssertionError(f"crash {when} operation {fail_at} ({what}), keeping {keep}") from error
        if ended:
            assert fail_at > 40, "the story has many durable steps"
            return
