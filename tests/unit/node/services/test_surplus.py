"""A node forgets copies beyond what placement says, never one that anybody may count on."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mcr.errors import UnavailableError
from mcr.model import Chunk, ChunkId
from mcr_node.core.members import Membership, Told
from mcr_node.core.placement.ring import goal, holders
from mcr_node.core.state.collecting import round_of
from mcr_node.ports_garbage import Promise
from mcr_node.services.cluster_chunks import ClusterChunks
from mcr_node.services.collecting import Collector, Settings
from mcr_node.services.damage import WatchedStore
from mcr_node.services.promises import Promises, PromisingStore
from mcr_node.services.surplus import Surplus
from mcr_node.storage.garbage_folder import GarbageFiles
from tests.unit.node.services.test_repair import B, C, D, Scene

ALL = ("a:1", B, C, D)
INTERVAL_S = 1.0


class Collected(Scene):
    """Node 1 of four, which collects garbage."""

    def __init__(self, executor: ThreadPoolExecutor, folder: Path) -> None:
        super().__init__(executor)
        self.garbage = GarbageFiles(folder)
        self.promises = Promises(self.store, self.garbage.journal, lambda: round_of(self.log.view()))
        store = WatchedStore(PromisingStore(self.store, self.promises))
        self.chunks = ClusterChunks(store, executor, self.others, self.me, self.rest, promises=self.promises)
        surplus = Surplus(self.log, self.chunks, self.others)
        self.collector = Collector(
            self.log, store, self.chunks, self.promises, self.garbage, Settings(INTERVAL_S), surplus
        )

    async def collect(self, rounds: int = 1) -> None:
        for _ in range(rounds):
            self.wait(2 * INTERVAL_S)
            await self.collector.collect_now()

    def named(self, chunk: Chunk) -> list[str]:
        """Who is to hold a chunk."""
        return [one.address for one in holders(chunk.id, self.members, goal(self.members, 2))]

    def kept_here(self, chunks: Sequence[Chunk]) -> set[ChunkId]:
        return {chunk.id for chunk in chunks} - self.store.missing([chunk.id for chunk in chunks])

    def not_ours(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        return [chunk for chunk in chunks if "a:1" not in self.named(chunk)]


def tell(path: Path, story: Callable[[Collected], Coroutine[Any, Any, None]]) -> None:
    async def told() -> None:
        with ThreadPoolExecutor(1) as executor:
            scene = Collected(executor, path)
            await scene.begin()
            await story(scene)
            scene.garbage.journal.close()

    asyncio.run(told())


def test_what_placement_gives_to_others_goes_once_all_of_them_vouch(tmp_path: Path) -> None:
    async def story(scene: Collected) -> None:
        chunks = await scene.commit(1, *ALL, files=30)
        await scene.collect()
        surplus = {chunk.id for chunk in scene.not_ours(chunks)}
        assert len(surplus) > 5
        assert scene.kept_here(chunks) == {chunk.id for chunk in chunks} - surplus
        assert scene.collector.counts()["surplus_dropped"] == len(surplus)
        assert scene.collector.counts()["surplus_bytes_dropped"] > 0
        assert scene.collector.counts()["chunks_swept"] == 0
        for chunk in scene.not_ours(chunks):
            assert set(scene.named(chunk)) <= set(scene.copies(chunk.id))
            for address in scene.named(chunk):
                assert chunk.id in scene.others.vouched[address]

    tell(tmp_path, story)


def test_a_copy_stays_while_one_of_those_who_are_to_hold_it_lacks_it(tmp_path: Path) -> None:
    async def story(scene: Collected) -> None:
        chunks = await scene.commit(1, "a:1", B, C, files=30)
        await scene.collect()
        for chunk in chunks:
            dropped = "a:1" not in scene.copies(chunk.id)
            assert dropped == ({B, C} == set(scene.named(chunk)))
            assert len(scene.copies(chunk.id)) >= 2

    tell(tmp_path, story)


def test_a_copy_stays_while_one_of_them_does_not_answer(tmp_path: Path) -> None:
    async def story(scene: Collected) -> None:
        chunks = await scene.commit(1, *ALL, files=30)
        scene.others.silent.append(C)
        await scene.collect()
        for chunk in scene.not_ours(chunks):
            assert (chunk.id in scene.kept_here(chunks)) == (C in scene.named(chunk))

    tell(tmp_path, story)


def test_a_damaged_copy_does_not_count(tmp_path: Path) -> None:
    async def story(scene: Collected) -> None:
        chunks = await scene.commit(1, *ALL, files=30)
        damaged = scene.not_ours(chunks)[0]
        scene.others.stores[scene.named(damaged)[1]].damage(damaged.id)
        await scene.collect()
        assert damaged.id in scene.kept_here(chunks)
        assert scene.collector.counts()["surplus_dropped"] == len(scene.not_ours(chunks)) - 1

    tell(tmp_path, story)


def test_nothing_goes_while_the_others_do_not_know_how_to_vouch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(scene: Collected) -> None:
        async def refuse(address: str, ids: Sequence[ChunkId]) -> Promise:
            raise UnavailableError(address, "it is of a release that does not vouch for chunks")

        monkeypatch.setattr(scene.others, "vouch", refuse)
        chunks = await scene.commit(1, *ALL, files=30)
        await scene.collect()
        assert len(scene.kept_here(chunks)) == len(chunks)

    tell(tmp_path, story)


def test_what_somebody_counts_on_here_stays_until_two_marks_later(tmp_path: Path) -> None:
    async def story(scene: Collected) -> None:
        chunks = await scene.commit(1, *ALL, files=30)
        counted_on = scene.not_ours(chunks)[:3]
        await scene.chunks.promise([chunk.id for chunk in counted_on])
        seen = []
        for _ in range(3):
            await scene.collect()
            seen.append({chunk.id for chunk in counted_on} <= scene.kept_here(chunks))
        assert seen == [True, False, False]

    tell(tmp_path, story)


def test_two_nodes_that_rely_on_each_other_both_keep_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(scene: Collected) -> None:
        vouch = scene.others.vouch

        async def vouch_and_ask_back(address: str, ids: Sequence[ChunkId]) -> Promise:
            # The other one knows an older layout, by which its copies are surplus and this node's are not.
            await scene.chunks.vouch(ids)
            return await vouch(address, ids)

        monkeypatch.setattr(scene.others, "vouch", vouch_and_ask_back)
        chunks = await scene.commit(1, *ALL, files=30)
        await scene.collect()
        assert len(scene.kept_here(chunks)) == len(chunks)

    tell(tmp_path, story)


def test_a_node_that_is_drained_forgets_nothing_as_surplus(tmp_path: Path) -> None:
    async def story(scene: Collected) -> None:
        chunks = await scene.commit(1, *ALL, files=30)

        def leave(membership: Membership) -> Told:
            return Told((replace(membership.members[0], leaving=True),))

        await scene.log.members.arrange(leave)
        await scene.collect()
        assert len(scene.kept_here(chunks)) == len(chunks)

    tell(tmp_path, story)


def test_a_layout_that_comes_back_finds_its_copies_again(tmp_path: Path) -> None:
    """What went is on those who vouched, so whoever is to hold it can be given it."""

    async def story(scene: Collected) -> None:
        chunks = await scene.commit(1, *ALL, files=30)
        await scene.collect(2)
        for chunk in chunks:
            assert await scene.chunks.get([chunk.id]) == [chunk.data]

    tell(tmp_path, story)


def test_who_vouches_has_read_all_and_synced(tmp_path: Path) -> None:
    async def story(scene: Collected) -> None:
        chunks = [Chunk.of(b"%d" % number * 1000) for number in range(4)]
        scene.store.put(chunks[:3])
        scene.store.damage(chunks[1].id)
        promise = await scene.chunks.vouch([chunk.id for chunk in chunks])
        assert promise.missing == {chunks[1].id, chunks[3].id}
        assert chunks[0].id in scene.store.durable

    tell(tmp_path, story)
