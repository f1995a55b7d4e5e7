"""What was sealed a moment ago among the same nodes is not asked for again; anything else is."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from mcr.errors import DurabilityError
from mcr.manifest import ManifestBuilder
from mcr.model import Chunk, ChunkId
from mcr_node.core.members import Member
from mcr_node.services import cluster_chunks
from mcr_node.services.cluster_chunks import ClusterChunks
from tests.conformance.memory_chunk_store import MemoryChunkStore
from tests.support.holders import MemoryHolders
from tests.unit.client.manifest.samples import file_entry


class Scene:
    """A node that holds one empty manifest, and two others."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self.store = MemoryChunkStore()
        self.holders = MemoryHolders("b:1", "c:1")
        self.others = [Member(2, "b", "b:1"), Member(3, "c", "c:1")]
        self.chunks = ClusterChunks(
            self.store, executor, self.holders, lambda: Member(1, "a", "a:1"), lambda: self.others
        )
        self.manifest = self.manifest_of()

    def manifest_of(self, *paths: str) -> ChunkId:
        made: list[Chunk] = []
        builder = ManifestBuilder(made.append)
        for path in paths:
            builder.add(file_entry(path))
        root = builder.finish().root
        self.store.put(made)
        return root


def tell(story: Callable[[Scene], Coroutine[Any, Any, None]]) -> None:
    async def told() -> None:
        with ThreadPoolExecutor(1) as executor:
            await story(Scene(executor))

    asyncio.run(told())


def test_the_same_manifest_is_sealed_once() -> None:
    async def story(scene: Scene) -> None:
        first = await scene.chunks.seal(scene.manifest)
        assert await scene.chunks.seal(scene.manifest) == first
        assert len(scene.holders.syncs) == 1

    tell(story)


def test_other_members_are_asked_again() -> None:
    async def story(scene: Scene) -> None:
        await scene.chunks.seal(scene.manifest)
        del scene.others[0]
        await scene.chunks.seal(scene.manifest)
        assert len(scene.holders.syncs) == 2

    tell(story)


def test_copies_of_a_node_that_leaves_do_not_count_as_remembered() -> None:
    async def story(scene: Scene) -> None:
        await scene.chunks.seal(scene.manifest)
        leaving = next(one for one in scene.others if one.address == scene.holders.syncs[0])
        scene.others[scene.others.index(leaving)] = replace(leaving, leaving=True)
        await scene.chunks.seal(scene.manifest)
        assert set(scene.holders.syncs) == {"b:1", "c:1"}

    tell(story)


def test_it_is_believed_for_a_while_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_chunks, "SEALED_S_MAX", -1.0)

    async def story(scene: Scene) -> None:
        await scene.chunks.seal(scene.manifest)
        await scene.chunks.seal(scene.manifest)
        assert len(scene.holders.syncs) == 2

    tell(story)


def test_when_its_time_is_over_one_looks_again_and_not_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_chunks, "SEALED_S_MAX", 0.0)

    async def story(scene: Scene) -> None:
        first = await scene.chunks.seal(scene.manifest)
        found = await asyncio.gather(*(scene.chunks.seal(scene.manifest) for _ in range(20)))
        assert found == [first] * 20
        assert len(scene.holders.syncs) == 2

    tell(story)


def test_a_refusal_of_a_second_look_is_not_hidden_by_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_chunks, "SEALED_S_MAX", 0.0)

    async def story(scene: Scene) -> None:
        await scene.chunks.seal(scene.manifest)
        scene.holders.silent = ["b:1", "c:1"]
        for _ in range(2):
            with pytest.raises(DurabilityError):
                await scene.chunks.seal(scene.manifest)

    tell(story)


def test_a_refusal_is_not_remembered() -> None:
    async def story(scene: Scene) -> None:
        scene.holders.silent = ["b:1", "c:1"]
        with pytest.raises(DurabilityError):
            await scene.chunks.seal(scene.manifest)
        scene.holders.silent = []
        await scene.chunks.seal(scene.manifest)
        assert len(scene.holders.syncs) == 1

    tell(story)


def test_damage_that_a_read_meets_makes_it_forget() -> None:
    async def story(scene: Scene) -> None:
        await scene.chunks.seal(scene.manifest)
        scene.store.damage(scene.manifest)
        assert await scene.chunks.get([scene.manifest])
        await scene.chunks.seal(scene.manifest)
        assert len(scene.holders.syncs) == 2

    tell(story)


def test_the_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_chunks, "SEALED_MAX", 1)

    async def story(scene: Scene) -> None:
        other = scene.manifest_of("empty file")
        await scene.chunks.seal(scene.manifest)
        await scene.chunks.seal(other)
        # The older one had to go.
        await scene.chunks.seal(scene.manifest)
        assert len(scene.holders.syncs) == 3

    tell(story)
