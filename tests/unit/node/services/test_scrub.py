"""A scrub meets every damaged chunk, heals it from another node, and counts both."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mcr.errors import FailedError, MissingChunkError
from mcr.model import Chunk
from mcr_node.core.members import Member
from mcr_node.ports_scrub import ScrubPlace
from mcr_node.services import scrub
from mcr_node.services.cluster_chunks import ClusterChunks
from mcr_node.services.damage import WatchedStore
from mcr_node.services.pace import SCRUB_PERIOD_S
from mcr_node.services.scrub import Scrub
from tests.conformance.memory_chunk_store import MemoryChunkStore
from tests.support.holders import MemoryHolders

PERIOD_MS = SCRUB_PERIOD_S * 1000
START_MS = 1_000_000


class Time:
    def __init__(self) -> None:
        self.ms = START_MS

    def now_ms(self) -> int:
        return self.ms

    def monotonic_ns(self) -> int:
        return self.ms * 1_000_000


class Kept:
    def __init__(self) -> None:
        self.places = [ScrubPlace()]

    def read(self) -> ScrubPlace:
        return self.places[-1]

    def write(self, place: ScrubPlace) -> None:
        self.places.append(place)


class Scene:
    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self.store = MemoryChunkStore()
        self.watched = WatchedStore(self.store)
        self.holders = MemoryHolders("b:1")
        others = [Member(2, "b", "b:1")]
        self.chunks = ClusterChunks(
            self.watched,
            executor,
            self.holders,
            lambda: Member(1, "a", "a:1"),
            lambda: others,
            lacks=self.watched.lacks,
        )
        self.time, self.kept = Time(), Kept()
        self.scrub = self.opened()
        self.held = [Chunk.of(bytes([number]) * 1000) for number in range(200)]
        self.store.put(self.held)
        self.holders.stores["b:1"].put(self.held)

    def opened(self) -> Scrub:
        """The scrub as it is after a restart."""
        return Scrub(self.watched, self.chunks, self.kept, self.time)

    async def run(self, *, asked: bool = False) -> int:
        """Run it to its end and return how many frames it read."""
        return sum([step.cost_bytes async for step in self.scrub.run(asked=asked)]) // 1000


def tell(story: Callable[[Scene], Coroutine[Any, Any, None]]) -> None:
    async def told() -> None:
        with ThreadPoolExecutor(1) as executor:
            await story(Scene(executor))

    asyncio.run(told())


def test_damage_is_found_healed_from_another_node_and_counted() -> None:
    async def story(scene: Scene) -> None:
        damaged = [scene.held[3], scene.held[150]]
        for chunk in damaged:
            scene.store.damage(chunk.id)
        assert await scene.run() == len(scene.held) - len(damaged)
        counts = scene.scrub.counts()
        assert (counts["chunks_read"], counts["chunks_damaged"]) == (len(scene.held), 2)
        assert (counts["chunks_healed"], counts["chunks_unhealed"]) == (2, 0)
        assert [scene.store.durable[chunk.id] for chunk in damaged] == [chunk.data for chunk in damaged]
        assert await scene.run() == len(scene.held)
        assert scene.scrub.counts()["chunks_damaged"] == 2

    tell(story)


def test_damage_met_by_a_read_is_healed_and_counted_too() -> None:
    async def story(scene: Scene) -> None:
        scene.store.damage(scene.held[7].id)
        assert await scene.chunks.get([scene.held[7].id]) == [scene.held[7].data]
        counts = scene.scrub.counts()
        assert (counts["chunks_damaged"], counts["chunks_healed"]) == (1, 1)

    tell(story)


def test_what_a_read_healed_is_there_after_a_loss_of_power() -> None:
    async def story(scene: Scene) -> None:
        damaged = scene.held[7]
        scene.store.sync()
        scene.store.damage(damaged.id)
        del scene.store.durable[damaged.id]

        await scene.chunks.get([damaged.id])

        assert scene.store.durable[damaged.id] == damaged.data

    tell(story)


def test_what_nobody_has_is_named_until_it_is_brought_back() -> None:
    async def story(scene: Scene) -> None:
        lost = scene.held[9]
        scene.store.damage(lost.id)
        scene.holders.stores["b:1"].remove([lost.id])
        with pytest.raises(FailedError, match=lost.id.hex()):
            await scene.run()
        assert lost.id.hex() in scene.scrub.findings()[0]
        assert scene.scrub.counts()["chunks_unhealed"] == 1
        with pytest.raises(MissingChunkError):
            await scene.chunks.get([lost.id])

        scene.holders.stores["b:1"].put([lost])
        await scene.run()
        assert scene.scrub.findings() == []
        assert scene.scrub.counts()["chunks_healed"] == 1

    tell(story)


def test_it_is_due_once_a_period_from_when_the_node_was_new() -> None:
    async def story(scene: Scene) -> None:
        assert not await scene.scrub.is_due()
        scene.time.ms += PERIOD_MS - 1
        assert not await scene.opened().is_due()
        scene.time.ms += 1
        assert await scene.scrub.is_due()
        await scene.run()
        assert not await scene.scrub.is_due()
        scene.time.ms = START_MS
        # The clock was set back: at worst it is read once more.
        assert await scene.scrub.is_due()

    tell(story)


def test_after_a_restart_it_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrub, "NOTE_S", -1.0)

    async def story(scene: Scene) -> None:
        ids = sorted(chunk.id for chunk in scene.held)
        scene.kept.places.append(ScrubPlace(ids[99], 1))
        assert await scene.scrub.is_due()
        assert await scene.run() == 100
        assert scene.kept.places[-2].after == ids[99]
        assert scene.kept.places[-1] == ScrubPlace(ended_ms=START_MS)

    tell(story)


def test_whoever_asks_has_everything_read() -> None:
    async def story(scene: Scene) -> None:
        scene.kept.places.append(ScrubPlace(sorted(chunk.id for chunk in scene.held)[99], 1))
        assert await scene.run(asked=True) == len(scene.held)

    tell(story)


def test_a_store_too_large_for_the_usual_rate_is_read_faster() -> None:
    async def story(scene: Scene) -> None:
        scene.scrub = Scrub(
            scene.watched, scene.chunks, scene.kept, scene.time, period_s=10, bytes_per_s=1000
        )
        await scene.run()
        assert scene.scrub.bytes_per_s == 1.25 * len(scene.held) * 1000 / 10

    tell(story)
