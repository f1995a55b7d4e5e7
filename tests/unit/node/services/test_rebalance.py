"""Rebalance brings chunks to where placement has them when the members have settled, and only adds."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from mcr.errors import FailedError
from mcr.model import Chunk, digest
from mcr_node.core.members import Membership, Told
from mcr_node.core.placement.ring import goal, holders, ranked
from mcr_node.services.pace import SILENCE_S
from mcr_node.services.presence import Presence
from mcr_node.services.rebalance import SETTLE_S, Rebalance
from tests.support.holders import MemoryHolders
from tests.unit.node.services.test_repair import B, C, D, Scene


class Balanced(Scene):
    """Node 1 of four, which looks after the models that fall to it."""

    def rebalance(self, *, is_new: bool = False) -> Rebalance:
        presence = Presence(self.others, self.rest, self.log.clock, silence_s=SILENCE_S)
        return Rebalance(
            self.log,
            self.chunks,
            self.others,
            presence,
            lambda: self.is_short,
            self.log.clock,
            is_new=is_new,
        )

    is_short = False


def tell(story: Callable[[Balanced], Coroutine[Any, Any, None]]) -> None:
    async def told() -> None:
        with ThreadPoolExecutor(1) as executor:
            scene = Balanced(executor)
            await scene.begin()
            await story(scene)

    asyncio.run(told())


def own_model(scene: Balanced) -> str:
    """Return a model that falls to node 1."""

    names = (f"vision/net{number}" for number in range(100))
    return next(name for name in names if ranked(digest(name.encode()), scene.members)[0].node_id == 1)


async def work(task: Rebalance) -> None:
    async for _ in task.run(asked=True):
        pass


def test_every_chunk_comes_to_its_holders_and_stays_where_it_was() -> None:
    async def story(scene: Balanced) -> None:
        chunks = await scene.commit(1, "a:1", B, model=own_model(scene), files=40)
        task = scene.rebalance()
        await work(task)
        for chunk in chunks:
            named = {member.address for member in holders(chunk.id, scene.members, goal(scene.members, 2))}
            assert named | {"a:1", B} == set(scene.copies(chunk.id))
        moved = task.counts()["chunks_moved"]
        assert moved > 10
        await work(task)
        assert task.counts()["chunks_moved"] == moved

    tell(story)


def test_it_begins_when_the_members_have_settled_and_no_chunk_is_in_danger() -> None:
    async def story(scene: Balanced) -> None:
        task = scene.rebalance()
        assert not await task.is_due()
        scene.wait(SETTLE_S)
        assert not await task.is_due()

        def more_room(membership: Membership) -> Told:
            member = membership.members[1]
            return Told((replace(member, capacity_bytes=member.capacity_bytes + 10**12),))

        await scene.log.members.arrange(more_room)
        assert not await task.is_due()
        scene.wait(SETTLE_S - 1)
        await scene.log.members.arrange(more_room)
        assert not await task.is_due()
        scene.wait(SETTLE_S)
        scene.is_short = True
        assert not await task.is_due()
        scene.is_short = False
        assert await task.is_due()
        await work(task)
        assert not await task.is_due()

    tell(story)


def test_a_node_that_is_new_does_its_share_although_nothing_changed_before_its_eyes() -> None:
    async def story(scene: Balanced) -> None:
        task = scene.rebalance(is_new=True)
        assert not await task.is_due()
        scene.wait(SETTLE_S)
        assert await task.is_due()

    tell(story)


def test_a_full_holder_is_left_alone_and_said() -> None:
    async def story(scene: Balanced) -> None:
        await scene.commit(1, "a:1", B, model=own_model(scene), files=40)
        scene.others.full.append(C)
        task = scene.rebalance()
        with pytest.raises(FailedError, match="it is full"):
            await work(task)
        assert scene.others.sent[C] == []
        assert scene.others.sent[D]
        assert task.findings()

    tell(story)


def test_a_holder_that_loses_power_before_its_sync_has_got_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    put = MemoryHolders.put

    async def loses_power_after(self: MemoryHolders, address: str, chunks: Sequence[Chunk]) -> None:
        await put(self, address, chunks)
        self.restarts.append(address)

    async def story(scene: Balanced) -> None:
        await scene.commit(1, "a:1", B, model=own_model(scene), files=40)
        task = scene.rebalance()
        with monkeypatch.context() as patched:
            patched.setattr(MemoryHolders, "put", loses_power_after)
            with pytest.raises(FailedError, match="started again"):
                await work(task)
        assert task.counts()["chunks_moved"] == 0

    tell(story)


def test_whoever_leaves_gets_nothing_and_gives() -> None:
    async def story(scene: Balanced) -> None:
        chunks = await scene.commit(1, C, model=own_model(scene), files=20)
        scene.members[2] = replace(scene.members[2], leaving=True)
        await scene.log.members.arrange(lambda _: Told((scene.members[2],)))
        await work(scene.rebalance())
        assert scene.others.sent[C] == []
        assert all(len(set(scene.copies(chunk.id)) - {C}) >= 2 for chunk in chunks)

    tell(story)
