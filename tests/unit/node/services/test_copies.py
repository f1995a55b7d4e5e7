"""Sealing: how widely chunks are held when a version becomes visible, and what is sent for it."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mcr.durability import Durability
from mcr.errors import DurabilityError, MissingChunkError
from mcr.manifest import ManifestBuilder, drain, walk_ids
from mcr.model import Chunk, ChunkId, ChunkRef
from mcr_node.core.members import Member
from mcr_node.ports_garbage import Promise
from mcr_node.services import copies
from mcr_node.services.cluster_chunks import ClusterChunks
from tests.conformance.memory_chunk_store import MemoryChunkStore
from tests.support.holders import MemoryHolders
from tests.unit.client.manifest.samples import file_entry

CHUNKS = [Chunk.of(number.to_bytes(4, "big") * 8) for number in range(64)]
ME = "a:1"


class Scene:
    """A node in the east with another one there, and two in the west."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self.holders = MemoryHolders(ME, "b:1", "c:1", "d:1")
        self.store = self.holders.stores[ME]
        me = Member(1, "a", ME, "east")
        self.others = [
            Member(2, "b", "b:1", "east"),
            Member(3, "c", "c:1", "west"),
            Member(4, "d", "d:1", "west"),
        ]
        self.chunks = ClusterChunks(self.store, executor, self.holders, lambda: me, lambda: self.others)
        made: list[Chunk] = []
        builder = ManifestBuilder(made.append)
        refs = builder.chunk_list()
        for chunk in CHUNKS:
            refs.add(ChunkRef(chunk.id, len(chunk.data)))
        size = sum(len(chunk.data) for chunk in CHUNKS)
        builder.add(file_entry("weights.bin", size), refs.finish(), [])
        self.manifest = builder.finish().root
        self.nodes = made
        world = MemoryChunkStore()
        world.put([*made, *CHUNKS])
        self.ids = list(
            dict.fromkeys(drain(walk_ids(self.manifest), lambda ids: [world.get(one) for one in ids]))
        )
        assert len(self.ids) == len(made) + len(CHUNKS)

    def have(self, address: str, chunks: Sequence[Chunk]) -> None:
        self.holders.stores[address].put(chunks)

    def durable_at(self, chunk_id: ChunkId) -> set[str]:
        return {address for address, store in self.holders.stores.items() if chunk_id in store.durable}

    def sent(self) -> int:
        return sum(map(len, self.holders.sent.values()))


def tell(story: Callable[[Scene], Coroutine[Any, Any, None]]) -> None:
    async def told() -> None:
        with ThreadPoolExecutor(1) as executor:
            scene = Scene(executor)
            try:
                await story(scene)
            finally:
                await scene.chunks.close()

    asyncio.run(told())


def test_two_nodes_hold_all_durably_and_nobody_waits_for_a_far_one() -> None:
    async def story(scene: Scene) -> None:
        scene.have(ME, [*scene.nodes, *CHUNKS])
        content = await scene.chunks.seal(scene.manifest)
        assert content.chunk_count == len(CHUNKS)
        assert all(scene.durable_at(one) == {ME, "b:1"} for one in scene.ids)

    tell(story)


def test_two_sites_hold_all_when_asked_for_and_share_it() -> None:
    async def story(scene: Scene) -> None:
        scene.have(ME, [*scene.nodes, *CHUNKS])
        await scene.chunks.seal(scene.manifest, durability=Durability(2, sites=2))
        where = [scene.durable_at(one) for one in scene.ids]
        assert all(one in ({ME, "c:1"}, {ME, "d:1"}) for one in where)
        assert {ME, "c:1"} in where
        assert {ME, "d:1"} in where

    tell(story)


def test_as_many_nodes_as_asked_for_hold_all() -> None:
    async def story(scene: Scene) -> None:
        scene.have(ME, [*scene.nodes, *CHUNKS])
        for count in (1, 3, 4):
            await scene.chunks.seal(scene.manifest, durability=Durability(count))
            assert all(len(scene.durable_at(one)) >= count for one in scene.ids)

    tell(story)


def test_what_is_where_it_must_be_is_not_sent() -> None:
    async def story(scene: Scene) -> None:
        # An earlier version went through another node: this one has what is new, and the manifest.
        scene.have(ME, [*scene.nodes, *CHUNKS[:4]])
        scene.have("c:1", CHUNKS[4:])
        scene.have("d:1", CHUNKS[4:])
        await scene.chunks.seal(scene.manifest)
        assert scene.sent() == len(scene.nodes) + 4
        assert all(len(scene.durable_at(one)) >= 2 for one in scene.ids)

    tell(story)


def test_what_only_another_node_has_is_fetched_and_is_not_missing_meanwhile() -> None:
    async def story(scene: Scene) -> None:
        scene.have("c:1", [*scene.nodes, *CHUNKS])
        assert await scene.chunks.missing_anywhere(scene.ids) == set()
        assert await scene.chunks.missing(scene.ids) == set(scene.ids)
        await scene.chunks.seal(scene.manifest)
        assert all(scene.durable_at(one) == {ME, "c:1"} for one in scene.ids)

    tell(story)


def test_a_chunk_that_vanished_with_a_node_is_named_for_the_client_to_send() -> None:
    async def story(scene: Scene) -> None:
        scene.have(ME, [*scene.nodes, *CHUNKS[1:]])
        scene.have("d:1", CHUNKS[:1])
        assert await scene.chunks.missing_anywhere([CHUNKS[0].id]) == set()
        scene.holders.silent = ["d:1"]
        with pytest.raises(MissingChunkError, match=CHUNKS[0].id.hex()):
            await scene.chunks.seal(scene.manifest)
        assert await scene.chunks.missing_anywhere([CHUNKS[0].id]) == {CHUNKS[0].id}

    tell(story)


def test_a_silent_member_is_passed_over() -> None:
    async def story(scene: Scene) -> None:
        scene.have(ME, [*scene.nodes, *CHUNKS])
        scene.holders.silent = ["b:1"]
        await scene.chunks.seal(scene.manifest)
        assert all(len(scene.durable_at(one) - {ME}) == 1 for one in scene.ids)

    tell(story)


@pytest.mark.parametrize("puts", [0, 1, 3])
def test_a_member_that_falls_silent_midway_counts_for_nothing(puts: int) -> None:
    async def story(scene: Scene) -> None:
        scene.have(ME, [*scene.nodes, *CHUNKS])
        scene.holders.fails_after = {"b:1": puts, "c:1": puts}
        await scene.chunks.seal(scene.manifest, durability=Durability(2))
        assert all(scene.durable_at(one) - {"b:1", "c:1"} == {ME, "d:1"} for one in scene.ids)

    tell(story)


def test_a_refusal_says_who_does_not_answer_and_what_was_copied_is_not_sent_again() -> None:
    async def story(scene: Scene) -> None:
        scene.have(ME, [*scene.nodes, *CHUNKS])
        scene.holders.fails_after = {"c:1": 3}
        with pytest.raises(DurabilityError) as caught:
            await scene.chunks.seal(scene.manifest, durability=Durability(4))
        assert caught.value.available == 3
        assert "c in site west: no node can be reached at c:1" in caught.value.message
        assert "stays" in caught.value.hint
        scene.holders.silent, scene.holders.fails_after = [], {}
        await scene.chunks.seal(scene.manifest, durability=Durability(4))
        assert scene.sent() == 3 * len(scene.ids)

    tell(story)


def test_a_member_that_comes_back_is_waited_for_before_a_refusal() -> None:
    async def story(scene: Scene) -> None:
        scene.have(ME, [*scene.nodes, *CHUNKS])
        scene.holders.silent, scene.holders.returning = ["c:1", "d:1"], ["d:1"]
        await scene.chunks.seal(scene.manifest, durability=Durability(3))
        assert all(scene.durable_at(one) == {ME, "b:1", "d:1"} for one in scene.ids)

    tell(story)


def test_what_a_member_lost_before_it_came_back_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "IDS_AT_ONCE", 16)

    async def story(scene: Scene) -> None:
        scene.have(ME, [*scene.nodes, *CHUNKS])
        del scene.others[1:]
        # It takes some, loses power, and is back when it is waited for.
        scene.holders.fails_after, scene.holders.returning = {"b:1": 4}, ["b:1"]
        scene.holders.loses_unsynced = True
        await scene.chunks.seal(scene.manifest)
        assert all(scene.durable_at(one) == {ME, "b:1"} for one in scene.ids)

    tell(story)


def test_what_a_member_lost_in_a_restart_that_no_call_met_does_not_count() -> None:
    """It said what it held, lost power, came back, and synced: in good order, each of it."""

    async def story(scene: Scene) -> None:
        scene.have(ME, [*scene.nodes, *CHUNKS])
        scene.have("b:1", [*scene.nodes, *CHUNKS])
        scene.holders.restarts = ["b:1"]

        await scene.chunks.seal(scene.manifest)

        assert all(len(scene.durable_at(one)) >= 2 for one in scene.ids)

    tell(story)


def test_a_site_that_is_silent_is_told_from_one_that_never_was() -> None:
    async def story(scene: Scene) -> None:
        scene.have(ME, [*scene.nodes, *CHUNKS])
        scene.holders.silent = ["c:1", "d:1"]
        with pytest.raises(DurabilityError, match=r"c in site west.*d in site west"):
            await scene.chunks.seal(scene.manifest, durability=Durability(2, sites=2))
        del scene.others[1:]
        with pytest.raises(DurabilityError, match="1 site: 'east'"):
            await scene.chunks.seal(scene.manifest, durability=Durability(2, sites=2))

    tell(story)


def test_another_wish_is_not_answered_from_memory() -> None:
    async def story(scene: Scene) -> None:
        scene.have(ME, [*scene.nodes, *CHUNKS])
        await scene.chunks.seal(scene.manifest)
        await scene.chunks.seal(scene.manifest, durability=Durability(3))
        assert all(len(scene.durable_at(one)) == 3 for one in scene.ids)

    tell(story)


def test_a_damaged_copy_here_is_healed_on_the_way() -> None:
    async def story(scene: Scene) -> None:
        scene.have(ME, [*scene.nodes, *CHUNKS])
        scene.have("c:1", CHUNKS[:1])
        scene.store.damage(CHUNKS[0].id)
        await scene.chunks.seal(scene.manifest, durability=Durability(3))
        assert all(len(scene.durable_at(one)) >= 3 for one in scene.ids)
        assert scene.store.get(CHUNKS[0].id) == CHUNKS[0].data

    tell(story)


def test_a_seal_is_of_the_earliest_round_in_which_somebody_promised() -> None:
    async def story(scene: Scene) -> None:
        scene.have("b:1", [*scene.nodes, *CHUNKS])
        scene.have(ME, [*scene.nodes, *CHUNKS])
        scene.holders.rounds = {"b:1": 3, "c:1": 2, "d:1": 4}
        sealing = copies.Sealing(
            scene.chunks, scene.holders, Member(1, "a", ME, "east"), scene.others, Durability(2)
        )

        await sealing.run(lambda: iter(scene.ids))

        # This node, which was told of no mark, promised in round 0.
        assert sealing.gc_round == 0

    tell(story)


@pytest.mark.parametrize("late", ["b:1", "c:1"])
def test_a_member_that_is_behind_in_the_log_is_counted_on_only_where_it_must_be(
    late: str,
) -> None:
    """Who has just joined would else let every commit be refused until it heard of the last mark."""

    async def story(scene: Scene) -> None:
        here = scene.chunks.promise

        async def promise(ids: Sequence[ChunkId]) -> Promise:
            return Promise((await here(ids)).missing, 5)

        scene.chunks.promise = promise  # type: ignore[method-assign]
        scene.have(ME, [*scene.nodes, *CHUNKS])
        scene.holders.rounds = {"b:1": 5, "c:1": 5, "d:1": 5, late: 1}
        me = Member(1, "a", ME, "east")
        enough = copies.Sealing(scene.chunks, scene.holders, me, scene.others, Durability(2))
        await enough.run(lambda: iter(scene.ids))
        assert enough.gc_round == 5
        assert late not in scene.holders.syncs

        all_of_them = copies.Sealing(scene.chunks, scene.holders, me, scene.others, Durability(4))
        await all_of_them.run(lambda: iter(scene.ids))
        assert all_of_them.gc_round == 1

    tell(story)
