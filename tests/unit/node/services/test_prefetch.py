"""What is fetched before anybody reads it: what channels point at, within bounds."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mcr.manifest import ManifestBuilder
from mcr.model import Chunk, ChunkId, ChunkRef, LogIndex, RequestId
from mcr_node.core.members import Member
from mcr_node.core.state.commands import CommitVersion, MoveChannel, PreviousTarget, RollbackChannel
from mcr_node.services import prefetch
from mcr_node.services.cluster_chunks import ClusterChunks
from mcr_node.services.prefetch import Prefetch
from tests.conformance.memory_chunk_cache import MemoryChunkCache
from tests.conformance.memory_chunk_store import MemoryChunkStore
from tests.support.holders import MemoryHolders
from tests.support.memory_log import MemoryLog, SharedLog
from tests.unit.client.manifest.samples import file_entry

MODEL = "vision/net"
CHUNK_BYTES = 1000
FILES = 30


class Scene:
    """Node 1, which holds nothing, and node 2, which holds all versions."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        me, other = Member(1, "a", "a:1", "west"), Member(2, "b", "b:1", "east")
        self.log: MemoryLog = SharedLog(me).open(1)
        self.holders = MemoryHolders("b:1")
        self.cache = MemoryChunkCache()
        self.chunks = ClusterChunks(
            MemoryChunkStore(), executor, self.holders, lambda: me, lambda: [other], cache=self.cache
        )
        self.prefetch = Prefetch(self.log, self.chunks, lambda: self.cache.bytes_max, self.log.clock)
        self.number = 0

    def _request(self) -> RequestId:
        self.number += 1
        return RequestId(b"%d" % self.number)

    async def commit(self, seed: int) -> list[ChunkId]:
        made: list[Chunk] = []
        builder = ManifestBuilder(made.append)
        content = [Chunk.of(b"%8d" % (seed * 1000 + number) * 125) for number in range(FILES)]
        for number, chunk in enumerate(content):
            entry = file_entry(f"file{number:03}", CHUNK_BYTES, content=number)
            builder.add(entry, [ChunkRef(chunk.id, CHUNK_BYTES)])
        root = builder.finish().root
        self.holders.stores["b:1"].put(content + made)
        await self.log.propose(
            CommitVersion(
                request_id=self._request(),
                principal="somebody",
                at_ms=1,
                model=MODEL,
                branch="main",
                expected_head=None,
                parent=None,
                description="",
                parameters={},
                manifest=root,
                bytes_total=FILES * CHUNK_BYTES,
                file_count=FILES,
                chunk_count=FILES,
                metrics={},
            )
        )
        return [chunk.id for chunk in content + made]

    async def set(self, channel: str, number: int) -> None:
        await self.log.propose(
            MoveChannel(
                request_id=self._request(),
                principal="somebody",
                at_ms=1,
                model=MODEL,
                channel=channel,
                number=number,
                expected_generation=None,
                reason="",
            )
        )

    async def back(self, channel: str) -> None:
        await self.log.propose(
            RollbackChannel(
                request_id=self._request(),
                principal="somebody",
                at_ms=1,
                model=MODEL,
                channel=channel,
                target=PreviousTarget(),
                reason="",
            )
        )

    async def run(self, *, asked: bool = False) -> None:
        async for _ in self.prefetch.run(asked=asked):
            pass

    async def here(self, ids: Sequence[ChunkId]) -> bool:
        return await self.chunks.held(ids) == set(ids)


def tell(story: Callable[[Scene], Coroutine[Any, Any, None]]) -> None:
    async def told() -> None:
        with ThreadPoolExecutor(1) as executor:
            scene = Scene(executor)
            await scene.log.wait_applied(LogIndex(1))
            try:
                await story(scene)
            finally:
                await scene.chunks.close()
                await scene.log.close()

    asyncio.run(told())


def test_what_a_channel_points_at_and_goes_back_to_is_brought_and_nothing_else() -> None:
    async def story(scene: Scene) -> None:
        versions = [await scene.commit(seed) for seed in (1, 2, 3, 4)]
        await scene.set("production", 2)
        await scene.set("production", 3)
        assert await scene.prefetch.is_due()
        await scene.run()
        assert [await scene.here(ids) for ids in versions] == [False, True, True, False]
        assert not await scene.prefetch.is_due()

    tell(story)


def test_a_move_of_a_channel_is_noticed_and_a_commit_costs_nothing() -> None:
    async def story(scene: Scene) -> None:
        first = await scene.commit(1)
        await scene.set("production", 1)
        await scene.run()
        second = await scene.commit(2)
        assert not await scene.prefetch.is_due()
        await scene.set("production", 2)
        assert await scene.prefetch.is_due()
        await scene.run()
        assert await scene.here(second)
        await scene.back("production")
        await scene.prefetch.is_due()
        await scene.run()
        assert await scene.here(first)

    tell(story)


def test_what_does_not_fit_into_half_of_the_cache_is_left_and_said() -> None:
    async def story(scene: Scene) -> None:
        await scene.commit(1)
        await scene.commit(2)
        await scene.set("production", 1)
        await scene.set("production", 2)
        # Room for one version and the manifests of both, in half of it.
        scene.cache.bytes_max = 3 * FILES * CHUNK_BYTES
        await scene.run()
        assert scene.prefetch.counts()["versions_here"] == 1
        assert scene.prefetch.findings() == [
            f"{MODEL}@v1 does not fit into half of the cache (cache_bytes)",
        ]

    tell(story)


def test_without_a_cache_nothing_is_due() -> None:
    async def story(scene: Scene) -> None:
        await scene.commit(1)
        await scene.set("production", 1)
        scene.cache.bytes_max = 0
        assert not await scene.prefetch.is_due()

    tell(story)


def test_what_the_cache_dropped_comes_again_with_time() -> None:
    async def story(scene: Scene) -> None:
        ids = await scene.commit(1)
        await scene.set("production", 1)
        assert await scene.prefetch.is_due()
        await scene.run()
        scene.cache.chunks.clear()
        assert not await scene.prefetch.is_due()
        scene.log.clock.ms += round(prefetch.AGAIN_S * 1000)
        assert await scene.prefetch.is_due()
        await scene.run()
        assert await scene.here(ids)

    tell(story)
