"""Repair counts the copies of all that versions need, and makes those that lack, most endangered first."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from google.protobuf.message import Message

from mcr.errors import FailedError, UnavailableError
from mcr.manifest import ManifestBuilder, Opened, Steps, walk_ids, walk_new_ids
from mcr.model import Chunk, ChunkId, ChunkRef, LogIndex, RequestId
from mcr.v1 import admin_pb2 as pb
from mcr_node.core.members import Member
from mcr_node.core.placement.ring import ranked
from mcr_node.core.state.commands import CommitVersion
from mcr_node.services import census, repair
from mcr_node.services.cluster_chunks import ClusterChunks
from mcr_node.services.colleagues import Response
from mcr_node.services.lacking import Order
from mcr_node.services.pace import SILENCE_S
from mcr_node.services.presence import Presence
from mcr_node.services.repair import NEW_VERSIONS_S, NEWCOMERS_S, REWALK_S, Repair
from tests.conformance.memory_chunk_store import MemoryChunkStore
from tests.support.holders import MemoryHolders
from tests.support.memory_log import MemoryLog, SharedLog
from tests.unit.client.manifest.samples import file_entry

MODEL = "vision/net"
CHUNK_BYTES = 1000
B, C, D = "b:1", "c:1", "d:1"


class Others(MemoryHolders):
    """The other nodes: what they hold, and whether they answer, and give what they hold."""

    only_answer = False

    def _of(self, address: str) -> MemoryChunkStore:
        if self.only_answer:
            raise UnavailableError(address, "it refuses")
        return super()._of(address)

    async def admin(
        self,
        address: str,
        rpc: str,
        request: Message,
        kind: type[Response],
        *,
        timeout_s: float | None = None,
    ) -> Response:
        assert rpc == "Ping"
        if address in self.silent:
            raise UnavailableError(address, "it does not answer")
        return kind(life=self.lives.get(address, 1))

    async def store_status(self, address: str) -> pb.GetStoreStatusResponse:
        return pb.GetStoreStatusResponse()


def by_id(members: Sequence[Member], _: ChunkId) -> Sequence[Member]:
    """This node, which is 1, before the others: so it looks after all models, and takes copies first."""
    return sorted(members, key=lambda member: member.node_id)


class Scene:
    """Node 1 of four, and what they hold."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self.executor = executor
        self.store = MemoryChunkStore()
        self.others = Others(B, C, D)
        self.members = [Member(1, "a", "a:1"), Member(2, "b", B), Member(3, "c", C), Member(4, "d", D)]
        self.shared = SharedLog(self.members[0])
        self.log: MemoryLog = self.shared.open(1)
        self.chunks = ClusterChunks(self.store, executor, self.others, self.me, self.rest)
        self.repair = self.repair_by(by_id)

    def me(self) -> Member:
        return self.members[0]

    def rest(self) -> list[Member]:
        return self.members[1:]

    def repair_by(self, order: Order) -> Repair:
        presence = Presence(self.others, self.rest, self.log.clock, silence_s=SILENCE_S)
        return Repair(self.log, self.chunks, self.others, presence, self.log.clock, order)

    @property
    def stores(self) -> dict[str, MemoryChunkStore]:
        return {"a:1": self.store, **self.others.stores}

    def copies(self, chunk_id: ChunkId) -> list[str]:
        return [
            address
            for address, store in self.stores.items()
            if chunk_id in store.durable and address not in self.others.silent
        ]

    async def begin(self) -> None:
        await self.log.wait_applied(LogIndex(1))
        for member in self.members[1:]:
            await self.log.members.add(member)

    async def commit(
        self, seed: int, *on: str, model: str = MODEL, files: int = 1, request: str = ""
    ) -> list[Chunk]:
        """Make a version of some files of one chunk each, and return all its chunks, those of files first."""
        made: list[Chunk] = []
        builder = ManifestBuilder(made.append)
        content = [Chunk.of(b"%8d" % (seed * 1000 + number) * 125) for number in range(files)]
        for number, chunk in enumerate(content):
            entry = file_entry(f"file{number:03}", CHUNK_BYTES, content=number)
            builder.add(entry, [ChunkRef(chunk.id, CHUNK_BYTES)])
        root = builder.finish().root
        for address in on:
            self.stores[address].put(content + made)
            self.stores[address].sync()
        await self.log.propose(
            CommitVersion(
                request_id=RequestId(request.encode() or b"%d" % seed),
                principal="somebody",
                at_ms=1,
                model=model,
                branch="main",
                expected_head=None,
                parent=None,
                description="",
                parameters={},
                manifest=root,
                bytes_total=files * CHUNK_BYTES,
                file_count=files,
                chunk_count=files,
                metrics={},
            )
        )
        return content + made

    async def run(self, *, asked: bool = False) -> None:
        async for _ in self.repair.run(asked=asked):
            pass

    def wait(self, seconds: float) -> None:
        self.log.clock.ms += round(seconds * 1000)


def tell(story: Callable[[Scene], Coroutine[Any, Any, None]]) -> None:
    async def told() -> None:
        with ThreadPoolExecutor(1) as executor:
            scene = Scene(executor)
            await scene.begin()
            await story(scene)

    asyncio.run(told())


def test_what_has_one_copy_gets_a_second_and_what_has_two_is_left() -> None:
    async def story(scene: Scene) -> None:
        alone = await scene.commit(1, C, files=20)
        paired = await scene.commit(2, B, D, files=20)
        await scene.run()
        assert all(scene.copies(chunk.id) == ["a:1", C] for chunk in alone)
        assert all(scene.copies(chunk.id)[-2:] == [B, D] for chunk in paired)
        counts = scene.repair.counts()
        # Nodes of the manifest may be here by then: they were fetched to be walked.
        assert 20 <= counts["chunks_copied"] <= len(alone)
        assert counts["bytes_copied"] >= 20 * CHUNK_BYTES
        assert counts["chunks_under_replicated"] == 0

    tell(story)


def test_the_most_endangered_chunks_are_copied_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repair, "COPIES", 3)

    async def story(scene: Scene) -> None:
        two = await scene.commit(1, "a:1", B, files=9)
        one = await scene.commit(2, "a:1", files=9)
        await scene.run()
        order = scene.others.put_order
        first_of_two = min(order.index(chunk.id) for chunk in two)
        assert all(order.index(chunk.id) < first_of_two for chunk in one)
        assert all(len(scene.copies(chunk.id)) == 3 for chunk in one + two)

    tell(story)


def test_a_silent_node_is_waited_for_and_replaced_once_it_is_gone() -> None:
    async def story(scene: Scene) -> None:
        chunks = await scene.commit(1, "a:1", B)
        await scene.run()
        scene.others.silent.append(B)
        assert not await scene.repair.is_due()
        scene.wait(SILENCE_S - 1)
        assert not await scene.repair.is_due()
        scene.wait(1)
        assert await scene.repair.is_due()
        await scene.run()
        assert all(scene.copies(chunk.id) == ["a:1", C] for chunk in chunks)

        # It comes back, with its copies: one more than needed does no harm.
        scene.others.silent.clear()
        assert await scene.repair.is_due()
        await scene.run()
        assert scene.repair.under_replicated == 0
        assert not await scene.repair.is_due()

    tell(story)


def test_a_node_that_answers_again_in_time_is_not_replaced() -> None:
    async def story(scene: Scene) -> None:
        await scene.commit(1, "a:1", B)
        await scene.run()
        scene.others.silent.append(B)
        assert not await scene.repair.is_due()
        scene.others.silent.clear()
        scene.wait(SILENCE_S / 2)
        assert not await scene.repair.is_due()
        scene.others.silent.append(B)
        scene.wait(SILENCE_S / 2)
        assert not await scene.repair.is_due()
        assert scene.others.put_order == []

    tell(story)


def test_whoever_asks_does_not_wait_for_the_silent() -> None:
    async def story(scene: Scene) -> None:
        chunks = await scene.commit(1, "a:1", B)
        scene.others.silent.append(B)
        await scene.run(asked=True)
        assert all(scene.copies(chunk.id) == ["a:1", C] for chunk in chunks)

    tell(story)


def test_an_unchanged_cluster_is_not_looked_through_again_before_its_time() -> None:
    async def story(scene: Scene) -> None:
        await scene.commit(1, "a:1", B, files=30)
        assert await scene.repair.is_due()
        await scene.run()
        scene.wait(REWALK_S - 1)
        assert not await scene.repair.is_due()
        scene.wait(1)
        assert await scene.repair.is_due()
        before = scene.others.asked
        await scene.run()
        assert scene.others.asked > before

    tell(story)


def test_what_a_node_has_lost_is_found_when_it_starts_again() -> None:
    async def story(scene: Scene) -> None:
        chunks = await scene.commit(1, B, C, files=5)
        await scene.run()
        # Set aside because it was met damaged; whoever knew ended before it was healed.
        scene.others.stores[B].remove([chunks[0].id])
        assert not await scene.repair.is_due()
        scene.others.lives[B] = 2
        assert await scene.repair.is_due()
        await scene.run()
        assert len(scene.copies(chunks[0].id)) == 2
        assert not await scene.repair.is_due()

    tell(story)


def test_a_member_more_is_no_reason_to_hurry_but_one_that_goes_is() -> None:
    async def story(scene: Scene) -> None:
        last = scene.members.pop()
        await scene.commit(1, "a:1", B, files=5)
        await scene.run()
        assert not await scene.repair.is_due()
        scene.members.append(last)
        assert not await scene.repair.is_due()
        scene.wait(NEWCOMERS_S)
        assert await scene.repair.is_due()
        await scene.run()
        assert not await scene.repair.is_due()
        scene.others.lives[D] = 2
        assert await scene.repair.is_due()

    tell(story)


def test_what_was_dropped_for_a_member_that_came_and_went_is_copied_again() -> None:
    async def story(scene: Scene) -> None:
        last = scene.members.pop()
        chunks = await scene.commit(1, "a:1", B, files=5)
        await scene.run()
        scene.members.append(last)
        assert not await scene.repair.is_due()
        # It took a copy over, so there was one too many; and it is gone before anybody counted.
        scene.others.stores[B].remove([chunks[0].id])
        scene.members.pop()
        assert await scene.repair.is_due()
        await scene.run()
        assert len(scene.copies(chunks[0].id)) == 2
        assert not await scene.repair.is_due()

    tell(story)


def test_a_member_more_is_not_waited_for_where_copies_lack() -> None:
    async def story(scene: Scene) -> None:
        del scene.members[1:]
        await scene.commit(1, "a:1", files=5)
        await scene.run()
        scene.members.append(Member(2, "b", B))
        assert await scene.repair.is_due()

    tell(story)


def test_of_a_model_with_new_versions_only_these_are_looked_through() -> None:
    async def story(scene: Scene) -> None:
        await scene.commit(1, "a:1", B, files=50)
        await scene.run()
        before = scene.repair.counts()["chunks_counted"]
        fresh = await scene.commit(2, "a:1", files=3)
        assert not await scene.repair.is_due()
        scene.wait(NEW_VERSIONS_S)
        assert await scene.repair.is_due()
        await scene.run()
        assert scene.repair.counts()["chunks_counted"] - before == len(fresh)
        assert all(len(scene.copies(chunk.id)) == 2 for chunk in fresh)

    tell(story)


def test_a_manifest_that_many_versions_have_is_walked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    together: list[ChunkId] = []
    alone: list[ChunkId] = []

    def walk_together(manifest: ChunkId, opened: Opened) -> Steps[ChunkId]:
        together.append(manifest)
        return walk_new_ids(manifest, opened)

    def walk_alone(manifest: ChunkId) -> Steps[ChunkId]:
        alone.append(manifest)
        return walk_ids(manifest)

    monkeypatch.setattr(census, "walk_new_ids", walk_together)
    monkeypatch.setattr(census, "walk_ids", walk_alone)

    async def story(scene: Scene) -> None:
        for number in range(20):
            await scene.commit(1, B, C, request=f"again{number}")
        await scene.commit(2, B, C)
        await scene.run()
        assert len(together) == len(set(together)) == 2
        assert alone == []
        # Where one lacks something, each version of those beside it is looked at: all are to be named.
        for number in range(3):
            await scene.commit(3, request=f"lost{number}")
        with pytest.raises(FailedError):
            await scene.run(asked=True)
        assert len(alone) == 20 + 1 + 3

    tell(story)


def test_versions_are_asked_about_together(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = 3 * census.VERSIONS_AT_ONCE
    calls: list[int] = []
    missing = Others.missing

    async def counted(self: Others, address: str, ids: Sequence[ChunkId]) -> set[ChunkId]:
        calls.append(len(ids))
        return await missing(self, address, ids)

    monkeypatch.setattr(Others, "missing", counted)

    async def story(scene: Scene) -> None:
        made = [await scene.commit(number, B, C, files=2) for number in range(versions)]
        await scene.run()
        ids = {chunk.id for chunks in made for chunk in chunks}
        assert sum(calls) == len(ids) * len(scene.rest())
        assert len(calls) == 3 * len(scene.rest())
        assert scene.repair.counts()["chunks_counted"] == len(ids)

    tell(story)


def test_manifests_of_many_nodes_are_walked_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(census, "NODES_AT_ONCE", 3)
    monkeypatch.setattr(census, "IDS_AT_ONCE", 50)

    async def story(scene: Scene) -> None:
        made = [await scene.commit(number, "a:1", files=900) for number in range(5)]
        await scene.run()
        assert all(len(scene.copies(chunk.id)) == 2 for chunks in made for chunk in chunks)
        assert scene.repair.counts()["chunks_counted"] == len({one.id for each in made for one in each})

    tell(story)


@pytest.mark.parametrize("at_once", [1, 2, 64])
def test_a_version_that_shares_what_lacks_copies_is_not_taken_for_whole(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(census, "VERSIONS_AT_ONCE", at_once)

    async def story(scene: Scene) -> None:
        # The same bytes under three numbers, and once more beside others.
        for number in range(3):
            chunks = await scene.commit(1, B, C, files=3, request=f"same{number}")
        await scene.commit(2, B, C)
        for store in scene.stores.values():
            store.remove([chunks[0].id])
        with pytest.raises(FailedError):
            await scene.run(asked=True)
        assert scene.repair.lost == 1
        found = scene.repair.findings()
        assert len(found) == 1
        assert all(f"{MODEL}@v{number}" in found[0] for number in (1, 2, 3)), found
        assert f"{MODEL}@v4" not in found[0]

    tell(story)


def test_a_dry_run_says_what_a_run_does_and_copies_nothing() -> None:
    async def story(scene: Scene) -> None:
        chunks = await scene.commit(1, "a:1", files=12)
        plan = await scene.repair.plan()
        assert scene.others.put_order == []
        assert scene.repair.counts()["chunks_under_replicated"] == 0
        await scene.run()
        counts = scene.repair.counts()
        assert (plan.chunks, plan.bytes_total) == (len(chunks), counts["bytes_copied"])
        assert counts["chunks_copied"] == len(chunks)

    tell(story)


def test_a_copy_that_is_lost_before_it_is_synced_does_not_count() -> None:
    async def story(scene: Scene) -> None:
        chunks = await scene.commit(1, "a:1", files=3)
        scene.others.restarts.append(B)
        await scene.run()
        assert all(len(scene.copies(chunk.id)) == 2 for chunk in chunks)

    tell(story)


def test_what_a_node_holds_and_has_not_synced_is_counted_when_it_has() -> None:
    async def story(scene: Scene) -> None:
        chunks = await scene.commit(1, "a:1", files=3)
        scene.others.stores[C].put(chunks)
        await scene.run()
        assert all(scene.copies(chunk.id) == ["a:1", C] for chunk in chunks)
        assert scene.others.put_order == []

    tell(story)


def test_what_a_node_loses_between_its_answer_and_its_sync_is_not_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    missing = Others.missing

    uploaded: list[Chunk] = []

    async def loses_power_after(self: Others, address: str, ids: Sequence[ChunkId]) -> set[ChunkId]:
        if address == C:
            self.stores[C].put(uploaded)
            self.restarts.append(C)
        return await missing(self, address, ids)

    async def story(scene: Scene) -> None:
        chunks = await scene.commit(1, "a:1", files=3)
        uploaded.extend(chunks)
        with monkeypatch.context() as patched:
            patched.setattr(Others, "missing", loses_power_after)
            with pytest.raises(UnavailableError, match="started again"):
                await scene.run()
        scene.others.restarts.clear()
        await scene.run(asked=True)
        assert [scene.copies(chunk.id) for chunk in chunks] == [["a:1", B]] * len(chunks)

    tell(story)


def test_a_node_that_is_full_is_passed_over() -> None:
    async def story(scene: Scene) -> None:
        chunks = await scene.commit(1, "a:1", files=20)
        scene.others.full.append(B)
        await scene.run()
        assert all(scene.copies(chunk.id) == ["a:1", C] for chunk in chunks)

    tell(story)


def test_this_node_takes_no_more_than_it_was_given_either() -> None:
    async def story(scene: Scene) -> None:
        chunks = await scene.commit(1, C, files=20)
        scene.chunks = ClusterChunks(
            scene.store,
            scene.executor,
            scene.others,
            scene.me,
            scene.rest,
            capacity_bytes=10 * CHUNK_BYTES,
        )
        scene.repair = scene.repair_by(by_id)
        await scene.run()
        assert all(len(scene.copies(chunk.id)) >= 2 for chunk in chunks)
        assert scene.store.stats().bytes_used <= 10 * CHUNK_BYTES
        assert sum(scene.copies(chunk.id) == [B, C] for chunk in chunks) >= 10

    tell(story)


def test_when_nobody_can_take_a_copy_it_stays_counted_and_is_tried_again() -> None:
    async def story(scene: Scene) -> None:
        chunks = await scene.commit(1, "a:1", files=3)
        scene.others.full += [B, C, D]
        with pytest.raises(FailedError, match="tried again"):
            await scene.run()
        assert scene.repair.under_replicated == len(chunks)
        assert not await scene.repair.is_due()
        scene.others.full.clear()
        scene.wait(repair.AGAIN_S)
        assert await scene.repair.is_due()
        await scene.run()
        assert scene.repair.under_replicated == 0

    tell(story)


def test_a_copy_that_turns_out_damaged_is_no_source() -> None:
    async def story(scene: Scene) -> None:
        chunks = await scene.commit(1, C, files=3)
        scene.others.stores[C].damage(chunks[0].id)
        with pytest.raises(FailedError):
            await scene.run()
        with pytest.raises(FailedError, match=f"{chunks[0].id.hex()}, needed by file000 of {MODEL}@v1, is"):
            await scene.run()
        assert scene.repair.lost == 1
        assert all(len(scene.copies(chunk.id)) == 2 for chunk in chunks[1:])

    tell(story)


@pytest.mark.parametrize("which", [0, -1], ids=["content", "manifest"])
def test_a_chunk_that_nobody_has_is_named_with_all_versions_that_need_it(which: int) -> None:
    async def story(scene: Scene) -> None:
        chunks = await scene.commit(1, "a:1", B)
        await scene.commit(1000, "a:1", B, model="other/net")
        lost = chunks[which]
        for store in scene.stores.values():
            store.remove([lost.id])
        with pytest.raises(FailedError, match=lost.id.hex()):
            await scene.run()
        (said,) = scene.repair.findings()
        assert f"{MODEL}@v1" in said
        assert ("file000" in said) == (which == 0)
        assert (scene.repair.lost, scene.repair.under_replicated) == (1, 1)

        scene.stores[D].put([lost])
        await scene.run()
        assert (scene.repair.lost, scene.repair.findings()) == (0, [])

    tell(story)


@pytest.mark.parametrize("step", range(1, 5))
@pytest.mark.parametrize("on", [(C, D), (D,)], ids=["two", "one"])
def test_a_node_that_falls_silent_during_a_run_ends_it_and_nothing_is_called_lost(
    step: int, on: tuple[str, ...]
) -> None:
    async def story(scene: Scene) -> None:
        await scene.commit(1, *on, files=9)
        await scene.commit(2, *on, files=9)
        steps = scene.repair.run(asked=False)
        with pytest.raises((UnavailableError, FailedError)):  # noqa: PT012 - it may come at any step
            for _ in range(step):
                await anext(steps)
            scene.others.silent.append(D)
            async for _ in steps:
                pass
            # The last step may have been made before.
            raise UnavailableError(D, "it was not needed any more")
        assert (scene.repair.lost, scene.repair.findings()) == (0, [])

    tell(story)


def test_a_run_that_breaks_off_is_not_begun_again_at_once() -> None:
    async def story(scene: Scene) -> None:
        await scene.commit(1, C, D)
        # They answer, but give nothing of what this node must read.
        scene.others.only_answer = True
        with pytest.raises(UnavailableError):
            await scene.run()
        assert scene.repair.lost == 0
        assert not await scene.repair.is_due()
        scene.wait(repair.AGAIN_S)
        assert await scene.repair.is_due()
        scene.others.only_answer = False
        await scene.run()
        assert not await scene.repair.is_due()

    tell(story)


def test_more_than_fits_in_mind_is_copied_by_the_run_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(census, "SHORT_MAX", 10)

    async def story(scene: Scene) -> None:
        chunks = await scene.commit(1, "a:1", files=25)
        with pytest.raises(FailedError):
            await scene.run()
        assert scene.repair.under_replicated == len(chunks) - 10
        while await scene.repair.is_due():
            with suppress(FailedError):
                await scene.run()
        assert scene.repair.under_replicated == 0
        assert all(len(scene.copies(chunk.id)) == 2 for chunk in chunks)

    tell(story)


def test_each_model_is_looked_after_by_one_node() -> None:
    async def story(scene: Scene) -> None:
        names = [f"many/net{number}" for number in range(30)]
        for number, name in enumerate(names):
            await scene.commit(number, "a:1", B, model=name)
        mine = scene.repair_by(lambda members, key: ranked(key, members))
        async for _ in mine.run(asked=False):
            pass
        counted = mine.counts()["chunks_counted"]
        # Two chunks each: of the file and of the manifest. A fair share of four nodes, and not all.
        assert 0 < counted < 2 * len(names)

    tell(story)


def test_the_last_node_that_answers_counts_what_it_cannot_copy() -> None:
    async def story(scene: Scene) -> None:
        chunks = await scene.commit(1, "a:1", B)
        scene.others.silent += [B, C, D]
        with pytest.raises(FailedError, match="no other answers"):
            await scene.run(asked=True)
        assert scene.repair.under_replicated == len(chunks)

    tell(story)
