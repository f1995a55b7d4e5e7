"""A client that makes garbage: versions that share bytes with those that stay, deleted for good."""

import asyncio
import random
import tempfile
from pathlib import Path

from mcr import aio
from mcr.client import Client
from mcr.errors import McrError
from tests.chaos.clients import CALL_S, Recorder, write_model

MODEL = "chaos/garbage"
KEPT = 2
# Between two versions: each costs a commit and two entries more.
THINK_S_MAX = 1.0
# Of the last so many commits of the others one is made again, so that what goes here stays there.
SHARED_OF = 10
MADE_AT_ONCE = 4


class GarbageClient:
    """Commits to a model of its own, and deletes what is older.

    Attributes:
        deleted: how many versions went for good.
    """

    def __init__(self, way: aio.AsyncClient, recorder: Recorder, folder: Path, seed: int) -> None:
        """Note the way into the cluster, scratch room, and the seed of what it does."""
        self.deleted = 0
        self._way = way
        self._recorder = recorder
        self._folder = folder
        self._chance = random.Random(f"{seed} garbage")
        # From the oldest: number, and seed of the bytes.
        self._made: list[tuple[int, int]] = []

    async def run(self, ending: asyncio.Event) -> None:
        """Go on until the end."""
        while not ending.is_set():
            try:
                async with asyncio.timeout(CALL_S):
                    await self._act()
            except (McrError, TimeoutError):
                # Whether it was done is nobody's business: what is promised is about the others.
                continue
            finally:
                await asyncio.sleep(self._chance.uniform(0, THINK_S_MAX))

    async def _act(self) -> None:
        model = self._way.model(MODEL)
        seed = seed_to_drop(self._recorder, self._chance)
        made = await model.commit(write_model(self._folder, seed))
        self._made.append((made.number, seed))
        while len(self._made) > KEPT:
            number, dropped = self._made.pop(0)
            await model.delete([f"v{number}"])
            self._recorder.dropped.append(dropped)
            await model.empty_trash([number])
            self.deleted += 1


def seed_to_drop(recorder: Recorder, chance: random.Random) -> int:
    """Return the seed of new bytes, or of some that a version has which stays."""
    if recorder.commits and chance.random() < 0.5:
        return chance.choice(recorder.commits[-SHARED_OF:])[1]
    return recorder.seed()


def drop_some(client: Client, recorder: Recorder) -> None:
    """Make some versions and delete all but the last for good."""
    model = client.model(MODEL)
    chance = random.Random(recorder.seed())
    with tempfile.TemporaryDirectory() as folder:
        seeds = [seed_to_drop(recorder, chance) for _ in range(MADE_AT_ONCE)]
        # The last one is the head of its branch, and stays.
        *numbers, _ = [model.commit(write_model(Path(folder), seed)).number for seed in seeds]
    model.delete([f"v{number}" for number in numbers])
    recorder.dropped.extend(seeds[:-1])
    model.empty_trash(numbers)
