"""Reads through nodes that lack what is read: several nodes in one process, their network in memory."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any

import pytest

from mcr import _frames
from mcr.errors import MissingChunkError, UnavailableError
from mcr.model import KIB, Chunk, ChunkId
from mcr_node.core.members import Member
from mcr_node.core.placement import sources
from mcr_node.services import lanes
from mcr_node.services.cluster_chunks import ClusterChunks
from tests.conformance.memory_chunk_cache import MemoryChunkCache
from tests.conformance.memory_chunk_store import MemoryChunkStore
from tests.support.holders import MemoryHolders

CHUNKS = [Chunk.of(number.to_bytes(2, "big") * (8 * KIB)) for number in range(40)]
IDS = [chunk.id for chunk in CHUNKS]


class Network(MemoryHolders):
    """What the nodes ask of each other; it counts, and fails as it is told.

    Attributes:
        sent: (from, to, chunk) of every chunk that was sent.
        hanging: addresses that take questions and send nothing.
        lying: addresses that send other bytes than they were asked for.
        first: what becomes of the node that is asked first, `hanging` or `silent`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.nodes: dict[str, ClusterChunks] = {}
        self.crossed: list[tuple[str, str, ChunkId]] = []
        self.hanging: list[str] = []
        self.lying: list[str] = []
        self.first: list[str] | None = None
        self.streams: Counter[str] = Counter()
        self.streams_most = 0

    def of(self, me: str) -> "Wire":
        return Wire(self, me)


class Wire(MemoryHolders):
    """The network as one node sees it."""

    def __init__(self, network: Network, me: str) -> None:
        super().__init__()
        self._network = network
        self._me = me

    async def have(self, address: str, ids: Sequence[ChunkId]) -> set[ChunkId]:
        self._check(address)
        return await self._network.nodes[address].held(ids)

    async def fetch(self, address: str, ids: Sequence[ChunkId], *, for_site: bool) -> AsyncGenerator[bytes]:
        network = self._network
        self._check(address)
        key = f"{self._me}>{address}>{for_site}"
        network.streams[key] += 1
        network.streams_most = max(network.streams_most, network.streams[key])
        try:
            async with aclosing(network.nodes[address].give(ids, for_site=for_site)) as frames:
                async for frame in frames:
                    if network.first is not None:
                        network.first.append(address)
                        network.first = None
                    if address in network.hanging:
                        await asyncio.Event().wait()
                    self._check(address)
                    if frame == lanes.SIGN:
                        yield frame
                        continue
                    received = _frames.decode(frame)
                    network.crossed += [(address, self._me, one.id) for one in received]
                    if address in network.lying:
                        yield _frames.encode([Chunk(one.id, b"other") for one in received])
                    else:
                        yield frame
        finally:
            network.streams[key] -= 1

    def _check(self, address: str) -> None:
        if address in self._network.silent:
            raise UnavailableError(address, "it does not answer")


class World:
    """Some nodes; `have` says who holds what."""

    def __init__(self, executor: ThreadPoolExecutor, sites: Sequence[str]) -> None:
        self.network = Network()
        self.members = [
            Member(number, f"n{number}", f"n{number}:1", site) for number, site in enumerate(sites, 1)
        ]
        self.stores: list[MemoryChunkStore] = []
        self.caches: list[MemoryChunkCache] = []
        self.nodes: list[ClusterChunks] = []
        for member in self.members:
            self.stores.append(MemoryChunkStore())
            self.caches.append(MemoryChunkCache())
            store = Cached(self.stores[-1], self.caches[-1])
            others = [one for one in self.members if one is not member]
            node = ClusterChunks(
                store,
                executor,
                self.network.of(member.address),
                lambda me=member: me,  # type: ignore[misc]
                lambda others=others: others,  # type: ignore[misc]
                cache=self.caches[-1],
            )
            self.nodes.append(node)
            self.network.nodes[member.address] = node

    def have(self, i: int, chunks: Sequence[Chunk]) -> None:
        self.stores[i].put(chunks)
        self.stores[i].sync()

    def sent_by(self, i: int) -> Counter[ChunkId]:
        address = self.members[i].address
        return Counter(chunk_id for source, _, chunk_id in self.network.crossed if source == address)

    def crossings(self) -> Counter[ChunkId]:
        """Return how often each chunk went from one site to another."""
        site = {member.address: member.site for member in self.members}
        return Counter(one for source, to, one in self.network.crossed if site[source] != site[to])

    async def read(self, i: int, ids: Sequence[ChunkId] = IDS) -> list[bytes]:
        """Read as the edge does for a client: frame by frame."""
        found: list[bytes] = []
        while len(found) < len(ids):
            frame, count, error = await self.nodes[i].get_frame(ids[len(found) :])
            if error is not None:
                raise error
            received = _frames.decode(frame)
            assert [one.id for one in received] == list(ids[len(found) : len(found) + count])
            found += [bytes(one.data) for one in received]
        return found


class Cached(MemoryChunkStore):
    """A store in memory whose reads find what is cached, as `services.caching` has it."""

    def __init__(self, store: MemoryChunkStore, cache: MemoryChunkCache) -> None:
        super().__init__()
        self._store, self._cache = store, cache
        self.missing, self.put, self.sync = store.missing, store.put, store.sync  # type: ignore[method-assign]

    def get(self, chunk_id: ChunkId) -> bytes:
        try:
            return self._store.get(chunk_id)
        except MissingChunkError:
            data = self._cache.get(chunk_id)
            if data is None:
                raise
            return data


def tell(story: Callable[[World], Coroutine[Any, Any, None]], *sites: str) -> None:
    async def told() -> None:
        with ThreadPoolExecutor(2) as executor:
            world = World(executor, sites)
            try:
                async with asyncio.timeout(60):
                    await story(world)
            finally:
                for node in world.nodes:
                    await node.close()

    asyncio.run(told())


RIGHT = [chunk.data for chunk in CHUNKS]


def test_what_a_node_lacks_comes_from_its_holders_in_order_and_is_kept_as_no_copy() -> None:
    async def story(world: World) -> None:
        world.have(0, CHUNKS[:20])
        world.have(1, CHUNKS[20:])
        assert await world.read(2) == RIGHT
        assert await world.nodes[2].get(IDS) == RIGHT
        before = len(world.network.crossed)
        assert await world.read(2) == RIGHT
        assert len(world.network.crossed) == before
        # Only what belongs here by placement is held for good.
        missing = await world.nodes[2].missing(IDS)
        assert missing == {one for one in IDS if not world.nodes[2]._is_mine(one)}
        assert missing

    tell(story, "east", "east", "east")


def test_a_chunk_comes_to_a_site_once_whoever_reads_it_there() -> None:
    async def story(world: World) -> None:
        world.have(0, CHUNKS)
        found = await asyncio.gather(*(world.read(i) for i in (2, 3, 4, 2, 3, 4)))
        assert found == [RIGHT] * 6
        assert set(world.crossings().values()) == {1}
        assert len(world.crossings()) == len(IDS)
        # And within the site at most once to each node.
        per_node = Counter((to, one) for _, to, one in world.network.crossed)
        assert set(per_node.values()) == {1}

    tell(story, "east", "east", "west", "west", "west")


def test_a_source_sends_a_version_once_to_a_whole_fleet() -> None:
    async def story(world: World) -> None:
        world.have(0, CHUNKS)
        found = await asyncio.gather(*(world.read(i) for i in range(1, 9)))
        assert found == [RIGHT] * 8
        # Once to the node that fetches a chunk for the others; where that is the source itself, to each: of
        # nine nodes it is that for a ninth, so it sends less than two versions whatever the number of nodes.
        source, *others = world.members
        for one, count in world.sent_by(0).items():
            assert count == (8 if sources.relay(one, source, others) is source else 1)

    tell(story, *["east"] * 9)


def test_a_holder_that_dies_in_the_middle_of_a_read_is_replaced() -> None:
    async def story(world: World) -> None:
        world.have(0, CHUNKS)
        world.have(1, CHUNKS)
        world.network.first = world.network.silent
        assert await world.read(2) == RIGHT
        assert len(world.network.silent) == 1

    tell(story, "east", "east", "east")


def test_a_node_that_sends_nothing_is_passed_by_after_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    # Long enough for one that answers, on the slowest machine.
    monkeypatch.setattr(sources, "HEDGE_US_MIN", 500_000)
    monkeypatch.setattr(sources, "HEDGE_US_MAX", 500_000)

    async def story(world: World) -> None:
        # The holders are of another site, so that this node asks them itself.
        world.have(0, CHUNKS)
        world.have(1, CHUNKS)
        world.network.first = world.network.hanging
        assert await world.read(2) == RIGHT
        assert world.nodes[2].reading.counts.hedges > 0
        assert world.nodes[2].reading.counts.hedges_lost == 0

    tell(story, "east", "east", "west")


def test_when_the_one_that_fetches_for_the_site_hangs_another_does_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lanes, "SILENT_S", 0.1)

    async def story(world: World) -> None:
        world.have(0, CHUNKS)
        world.network.hanging = ["n3:1"]
        assert await world.read(1) == RIGHT

    tell(story, "east", "west", "west")


def test_wrong_bytes_are_never_served_and_come_from_another_node() -> None:
    async def story(world: World) -> None:
        world.have(0, CHUNKS)
        world.have(1, CHUNKS)
        world.network.lying = ["n1:1"]
        assert await world.read(2) == RIGHT
        world.network.lying = ["n1:1", "n2:1"]
        world.caches[2].chunks.clear()
        with pytest.raises(MissingChunkError):
            await world.read(2, [one for one in IDS if not world.nodes[2]._is_mine(one)])

    tell(story, "east", "east", "west")


def test_damage_of_one_copy_is_healed_from_another_and_of_all_is_said() -> None:
    async def story(world: World) -> None:
        for i in (0, 1):
            world.have(i, CHUNKS)
            world.stores[i].damage(IDS[7])
        world.stores[0].damage(IDS[3])
        assert await world.read(2, IDS[:7]) == RIGHT[:7]
        with pytest.raises(MissingChunkError, match=IDS[7].hex()):
            await world.read(2)

    tell(story, "east", "east", "west")


def test_what_only_a_silent_node_has_is_not_called_lost() -> None:
    async def story(world: World) -> None:
        world.have(0, CHUNKS)
        world.network.silent = ["n1:1"]
        with pytest.raises(UnavailableError, match="n1:1"):
            await world.read(2)
        with pytest.raises(UnavailableError, match="n1:1"):
            await world.nodes[2].get(IDS[:1])

    tell(story, "east", "east", "west")


def test_a_cache_that_keeps_nothing_costs_no_second_crossing() -> None:
    async def story(world: World) -> None:
        world.have(0, CHUNKS)
        for cache in world.caches:
            cache.bytes_max = 0
        assert await world.read(1) == RIGHT
        assert set(world.crossings().values()) == {1}

    tell(story, "east", "west")


def test_streams_to_one_node_are_few_however_many_read() -> None:
    async def story(world: World) -> None:
        world.have(0, CHUNKS)
        await asyncio.gather(*(world.read(1, IDS[at:] + IDS[:at]) for at in range(20)))
        assert world.network.streams_most <= lanes.STREAMS_MAX

    tell(story, "east", "west")
