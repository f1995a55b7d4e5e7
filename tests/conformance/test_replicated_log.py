"""`ports_log.ReplicatedLog`: the laws that services and state build on, on every engine that there is."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import pytest

from mcr.errors import (
    AlreadyExistsError,
    FailedError,
    McrError,
    MemberNotFoundError,
    NoQuorumError,
)
from mcr.model import ChunkId, LogIndex, RequestId
from mcr_node.core.members import Member, Membership, Staged, Told
from mcr_node.core.state import queries
from mcr_node.core.state.commands import CommitVersion
from mcr_node.core.state.outcomes import Accepted, Outcome, Rejected, VersionResult
from mcr_node.ports_log import ReplicatedLog
from tests.support.log_clusters import (
    Cluster,
    OpenCluster,
    disk_cluster,
    join,
    leader_of,
    member,
    memory_cluster,
    raft_cluster,
)

Result = TypeVar("Result")
Story = Callable[[Cluster], Awaitable[None]]

ALONE: dict[str, OpenCluster] = {
    "memory, one node": partial(memory_cluster, 1),
    "raft, one voter": partial(raft_cluster, 1),
    "raft, one voter on disk": partial(disk_cluster, 1),
}
TOGETHER: dict[str, OpenCluster] = {
    "memory, three nodes": partial(memory_cluster, 3),
    "raft, three voters": partial(raft_cluster, 3),
}
# Nothing here waits for time to pass but elections of some hundred milliseconds; a hang is a failure.
STORY_S_MAX = 60.0
FAR = LogIndex(1_000_000)


def on(engines: dict[str, OpenCluster]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("engine", engines.values(), ids=engines.keys())


def tell(engine: OpenCluster, story: Story) -> None:
    async def told() -> None:
        async with asyncio.timeout(STORY_S_MAX), engine() as cluster:
            await story(cluster)

    asyncio.run(told())


def commit(number: int, *, expected_head: int | None = None) -> CommitVersion:
    return CommitVersion(
        request_id=RequestId(b"request %d" % number),
        principal="test",
        at_ms=number,
        model="a/b",
        branch="main",
        expected_head=expected_head,
        parent=None,
        description=f"number {number}",
        parameters={},
        manifest=ChunkId(bytes(32)),
        bytes_total=0,
        file_count=0,
        chunk_count=0,
        metrics={},
    )


async def seen(log: ReplicatedLog) -> dict[int, str]:
    """Return the versions in a node's view: number and description."""
    if not await log.run(lambda: queries.list_models(log.view(), after="", limit=1)):
        return {}
    versions = await log.run(lambda: queries.list_versions(log.view(), "a/b", before=None, limit=1000))
    return {version.number: version.description for version in versions}


def made(outcome: Outcome) -> tuple[LogIndex, int]:
    """Return where a commit took effect, and the version it made."""
    assert isinstance(outcome, Accepted)
    assert isinstance(outcome.result, VersionResult)
    return outcome.index, outcome.result.number


def at_once(work: Coroutine[Any, Any, Result]) -> Result:
    """Return what a coroutine gives without waiting for anything."""
    try:
        work.send(None)
    except StopIteration as done:
        result: Result = done.value
        return result
    work.close()
    raise AssertionError("it waits")


async def begun(*works: Coroutine[Any, Any, Any]) -> list[asyncio.Task[Any]]:
    """Start tasks, and return once each of them waits and before anything else can happen."""
    tasks = [asyncio.ensure_future(work) for work in works]
    await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)
    return tasks


async def everywhere(cluster: Cluster, *, but: int = 0) -> dict[int, Membership]:
    """Return the members as each node knows them at a linearizable read."""
    found = {}
    for node_id, log in cluster.nodes.items():
        if node_id != but:
            await log.read_index(at_least=None, stale_ok=False)
            found[node_id] = log.membership
    return found


# ---- commands ----


@on(ALONE | TOGETHER)
def test_an_accepted_commands_effect_is_in_every_view_at_or_past_its_index(engine: OpenCluster) -> None:
    async def story(cluster: Cluster) -> None:
        for number, log in enumerate(cluster.nodes.values(), 1):
            index, version = made(await log.propose(commit(number)))
            assert log.applied >= index
            for other in cluster.nodes.values():
                await other.wait_applied(index)
                assert other.applied >= index
                assert (await seen(other))[version] == f"number {number}"

    tell(engine, story)


@on(ALONE | TOGETHER)
def test_a_rejected_command_has_an_index_and_leaves_no_trace(engine: OpenCluster) -> None:
    async def story(cluster: Cluster) -> None:
        for log in cluster.nodes.values():
            outcome = await log.propose(commit(1, expected_head=7))
            assert isinstance(outcome, Rejected)
            assert outcome.code == "head_moved"
            assert log.applied >= outcome.index
            assert await seen(log) == {}

    tell(engine, story)


@on(ALONE | TOGETHER)
def test_a_request_takes_effect_once_and_always_gives_the_first_outcome(engine: OpenCluster) -> None:
    async def story(cluster: Cluster) -> None:
        logs = list(cluster.nodes.values())
        # Twice at the same time on each node, then once more on each.
        at_first = await asyncio.gather(*(log.propose(commit(1)) for log in logs * 2))
        later = [await log.propose(commit(1)) for log in logs]
        assert len({made(outcome) for outcome in (*at_first, *later)}) == 1
        for outcome in later:
            assert isinstance(outcome, Accepted)
            assert outcome.already_applied
        assert await seen(logs[0]) == {1: "number 1"}

    tell(engine, story)


@on(ALONE | TOGETHER)
def test_outcomes_are_in_the_order_of_their_indexes_and_all_nodes_agree(engine: OpenCluster) -> None:
    async def story(cluster: Cluster) -> None:
        logs = list(cluster.nodes.values())
        outcomes = await asyncio.gather(
            *(logs[number % len(logs)].propose(commit(number)) for number in range(60))
        )
        places = {made(outcome): f"number {number}" for number, outcome in enumerate(outcomes)}
        in_order = sorted(places)
        assert len({index for index, _ in in_order}) == 60
        assert [version for _, version in in_order] == list(range(1, 61))

        expected = {version: places[index, version] for index, version in in_order}
        digests: dict[LogIndex, set[bytes]] = {}
        for log in logs:
            await log.wait_applied(max(other.commit for other in logs))
            assert await seen(log) == expected
            digests.setdefault(log.applied, set()).add(log.state_digest)
        assert len(digests) == 1, "nothing is under way, so all are at the same index"
        assert [len(found) for found in digests.values()] == [1], "and of the same state"

    tell(engine, story)


# ---- reads ----


@on(ALONE | TOGETHER)
def test_a_read_on_any_node_includes_every_write_answered_before_it(engine: OpenCluster) -> None:
    async def story(cluster: Cluster) -> None:
        number = 0
        for writer in cluster.nodes.values():
            for reader in cluster.nodes.values():
                number += 1
                index, version = made(await writer.propose(commit(number)))
                assert await reader.read_index(at_least=None, stale_ok=False) >= index
                assert version in await seen(reader)
                assert reader.confirmed_ns is not None

    tell(engine, story)


@on(ALONE | TOGETHER)
def test_a_stale_read_never_waits_whatever_else_it_asks_for(engine: OpenCluster) -> None:
    async def story(cluster: Cluster) -> None:
        for node_id, log in cluster.nodes.items():
            await log.propose(commit(node_id))
            before = log.applied
            cluster.cut(node_id)
            assert at_once(log.read_index(at_least=FAR, stale_ok=True)) == before
            cluster.mend(node_id)
        await log.close()
        assert at_once(log.read_index(at_least=None, stale_ok=True)) >= before

    tell(engine, story)


@on(ALONE | TOGETHER)
def test_a_read_of_at_least_an_index_waits_until_that_is_applied(engine: OpenCluster) -> None:
    async def story(cluster: Cluster) -> None:
        for log in cluster.nodes.values():
            await log.wait_applied(max(other.commit for other in cluster.nodes.values()))
            assert at_once(log.read_index(at_least=log.applied, stale_ok=False)) == log.applied
            wanted = LogIndex(log.applied + 1)
            read, wait = await begun(
                log.read_index(at_least=wanted, stale_ok=False), log.wait_applied(wanted)
            )
            await log.propose(commit(wanted))
            assert await read >= wanted
            await wait

    tell(engine, story)


@on(TOGETHER)
def test_a_node_that_is_cut_off_shows_the_past_and_says_so_until_it_has_caught_up(
    engine: OpenCluster,
) -> None:
    async def story(cluster: Cluster) -> None:
        leader = leader_of(cluster)
        behind_id = next(node_id for node_id in cluster.nodes if node_id != leader.node_id)
        behind = cluster.nodes[behind_id]
        await leader.propose(commit(1))
        await behind.read_index(at_least=None, stale_ok=False)
        cluster.cut(behind_id)
        index, _ = made(await leader.propose(commit(2)))

        assert at_once(behind.read_index(at_least=None, stale_ok=True)) < index
        assert await seen(behind) == {1: "number 1"}
        [read] = await begun(behind.read_index(at_least=index, stale_ok=False))
        cluster.mend(behind_id)
        assert await read >= index
        assert await seen(behind) == {1: "number 1", 2: "number 2"}

    tell(engine, story)


@on(TOGETHER)
def test_a_node_that_reaches_no_majority_says_so_and_goes_on_when_it_does(engine: OpenCluster) -> None:
    async def story(cluster: Cluster) -> None:
        follower = next(log for log in cluster.nodes.values() if not log.is_leader)
        for number, alone in enumerate((follower, leader_of(cluster)), 1):
            cluster.cut(alone.node_id)
            refused = await asyncio.gather(
                alone.propose(commit(number)),
                alone.read_index(at_least=None, stale_ok=False),
                return_exceptions=True,
            )
            assert [type(answer) for answer in refused] == [NoQuorumError, NoQuorumError]
            assert cluster.waiting(alone.node_id) == 0
            assert at_once(alone.read_index(at_least=None, stale_ok=True)) == alone.applied
            others = [log for log in cluster.nodes.values() if log is not alone]
            await others[0].propose(commit(10 + number))

            cluster.mend(alone.node_id)
            await alone.members.wait_leader()
            # What became of it was not known. The same request says so, and takes effect once.
            made(await alone.propose(commit(number)))
            assert list((await seen(alone)).values()).count(f"number {number}") == 1
            for log in others:
                await log.read_index(at_least=None, stale_ok=False)
                assert await seen(log) == await seen(alone)

    tell(engine, story)


# ---- ends ----


@on(ALONE | TOGETHER)
def test_a_closed_node_tells_everybody_who_waits_and_refuses_from_then_on(engine: OpenCluster) -> None:
    async def story(cluster: Cluster) -> None:
        node_id, log = max(cluster.nodes.items())
        await log.propose(commit(1))
        before = await seen(log)
        failed, *waiting = await begun(
            log.wait_failed(),
            log.propose(commit(2)),
            log.wait_applied(FAR),
            log.read_index(at_least=FAR, stale_ok=False),
        )
        await log.close()

        for answer in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(answer, FailedError)
        assert await failed is log.failure
        assert cluster.waiting(node_id) == 0
        for refused in (log.propose(commit(3)), log.read_index(at_least=None, stale_ok=False)):
            with pytest.raises(FailedError, match="closed"):
                at_once(refused)
        # What it has can still be looked at.
        assert log.applied
        assert before.items() <= (await seen(log)).items()

    tell(engine, story)


@on(ALONE | TOGETHER)
def test_a_node_that_cannot_write_fails_for_good_and_leaves_nobody_waiting(engine: OpenCluster) -> None:
    async def story(cluster: Cluster) -> None:
        leader = leader_of(cluster)
        [waiting] = await begun(leader.wait_applied(FAR))
        cluster.break_disk(leader.node_id)
        # Where others decide, a command may yet be answered by what they hold.
        answers = await asyncio.gather(
            *(leader.propose(commit(number)) for number in range(5)), return_exceptions=True
        )
        assert all(isinstance(answer, McrError | Accepted) for answer in answers)
        failure = await leader.wait_failed()
        assert isinstance(failure, FailedError)
        with pytest.raises(FailedError):
            await waiting
        assert leader.failure is failure
        assert cluster.waiting(leader.node_id) == 0
        for refused in (leader.propose(commit(9)), leader.read_index(at_least=None, stale_ok=False)):
            with pytest.raises(FailedError):
                at_once(refused)

    tell(engine, story)


@on(ALONE | TOGETHER)
def test_whoever_gives_up_leaves_nothing_behind(engine: OpenCluster) -> None:
    async def story(cluster: Cluster) -> None:
        for node_id, log in cluster.nodes.items():
            given_up = await begun(
                log.propose(commit(node_id)), log.propose(commit(node_id)), log.wait_applied(FAR)
            )
            for task in given_up:
                task.cancel()
            await asyncio.wait(given_up)
            assert all(task.cancelled() for task in given_up)
            assert cluster.waiting(node_id) == 0
            # The outcome was unknown; the same request tells it, and took effect once.
            await log.propose(commit(node_id))
            assert cluster.waiting(node_id) == 0
            assert list((await seen(log)).values()).count(f"number {node_id}") == 1

    tell(engine, story)


# ---- members ----


@on(ALONE | TOGETHER)
def test_every_node_knows_the_leader_and_only_that_one_knows_how_the_others_follow(
    engine: OpenCluster,
) -> None:
    async def story(cluster: Cluster) -> None:
        index, _ = made(await leader_of(cluster).propose(commit(0)))
        known = {await log.members.wait_leader() for log in cluster.nodes.values()}
        assert known == {leader_of(cluster).node_id}
        for log in cluster.nodes.values():
            for node_id in (*cluster.nodes, 99):
                progress = log.members.progress(node_id)
                assert (progress is not None) is (log.is_leader and node_id != 99)
        for node_id in cluster.nodes:
            await until_it_follows(leader_of(cluster), node_id, index)

    tell(engine, story)


async def until_it_follows(leader: ReplicatedLog, node_id: int, index: LogIndex) -> None:
    """Return when a member is known to hold `index` and to be there; every command brings news of it."""
    number = 1000
    while True:
        progress = leader.members.progress(node_id)
        if progress is not None and progress.match >= index and progress.is_active:
            return
        number += 1
        await leader.propose(commit(number))


@on(ALONE | TOGETHER)
def test_a_node_is_added_promoted_and_removed_for_all_to_see(engine: OpenCluster) -> None:
    async def story(cluster: Cluster) -> None:
        at_start = leader_of(cluster).membership
        await leader_of(cluster).propose(commit(1))
        members = leader_of(cluster).members
        new = cluster.start(9)
        assert new.membership == Membership()

        await members.add(member(9))
        await until_it_follows(leader_of(cluster), 9, leader_of(cluster).applied)
        for known in (await everywhere(cluster)).values():
            assert known.conf.learners == (9,)
            assert known.members == (*at_start.members, member(9))
        assert (await seen(new))[1] == "number 1"

        moved = Member(9, "n9", "elsewhere:9", site="b")
        await members.add(moved)
        await members.promote(9)
        for known in (await everywhere(cluster)).values():
            assert known.conf.voters == (*at_start.conf.voters, 9)
            assert known.conf.learners == ()
            assert known.get(9) == moved

        await members.remove(9)
        for known in (await everywhere(cluster, but=9)).values():
            assert (known.conf, known.members) == (at_start.conf, at_start.members)
            assert known.epoch > at_start.epoch

    tell(engine, story)


@on(ALONE | TOGETHER)
def test_what_members_are_said_to_be_changes_at_once_and_for_all_of_them(engine: OpenCluster) -> None:
    async def story(cluster: Cluster) -> None:
        leader = leader_of(cluster)
        before = leader.membership
        staged = (Staged(before.ids()[0], site="b"),)

        def decide(known: Membership) -> Told:
            assert known == before
            return Told(tuple(replace(each, leaving=True) for each in known.members), staged)

        after = await leader.members.arrange(decide)
        assert after.epoch > before.epoch
        for known in (await everywhere(cluster)).values():
            assert (known.conf, known.staged, known.epoch) == (before.conf, staged, after.epoch)
            assert known.leaving == known.members != ()

        def refuse(_: Membership) -> Told:
            raise AlreadyExistsError("layout", "this", "somebody was first")

        with pytest.raises(AlreadyExistsError):
            await leader.members.arrange(refuse)
        assert leader.membership == after

    tell(engine, story)


@on(ALONE)
def test_a_change_of_members_may_be_the_first_thing_that_a_node_alone_is_asked_for(
    engine: OpenCluster,
) -> None:
    async def story(cluster: Cluster) -> None:
        await leader_of(cluster).members.add(member(9))
        assert leader_of(cluster).membership.conf.learners == (9,)

    tell(engine, story)


@on(ALONE | TOGETHER)
def test_a_change_that_is_in_force_may_be_repeated_and_changes_nothing(engine: OpenCluster) -> None:
    async def story(cluster: Cluster) -> None:
        cluster.start(9)
        leader = leader_of(cluster)
        await asyncio.gather(leader.members.add(member(9)), leader.members.add(member(9)))
        await asyncio.gather(leader.members.promote(9), leader.members.promote(9))
        before, applied = leader.membership, leader.applied
        await leader.members.add(member(9))
        await leader.members.promote(9)
        assert await leader.members.transfer_leader(leader.node_id) == leader.node_id
        assert (leader.membership, leader.applied) == (before, applied)

    tell(engine, story)


@on(ALONE | TOGETHER)
def test_a_change_that_cannot_follow_is_refused_with_its_reason(engine: OpenCluster) -> None:
    async def story(cluster: Cluster) -> None:
        leader = leader_of(cluster)
        await leader.members.add(Member(9, "n9"))
        before = leader.membership
        own = str(leader.membership.name_of(leader.node_id))
        refused: list[tuple[Coroutine[Any, Any, object], type[McrError], str]] = [
            (leader.members.add(Member(77, own)), AlreadyExistsError, own),
            (leader.members.promote(77), MemberNotFoundError, "77"),
            (leader.members.remove(77), MemberNotFoundError, "77"),
            (leader.members.transfer_leader(77), MemberNotFoundError, "77"),
            (leader.members.transfer_leader(9), FailedError, "no vote"),
            (leader.members.remove(leader.node_id), FailedError, "last voter|it leads"),
        ]
        for change, error, reason in refused:
            with pytest.raises(error, match=reason):
                await change
        assert leader.membership == before

    tell(engine, story)


@on(ALONE)
def test_the_last_voter_can_neither_leave_nor_hand_over(engine: OpenCluster) -> None:
    async def story(cluster: Cluster) -> None:
        leader = leader_of(cluster)
        with pytest.raises(FailedError, match="last voter"):
            await leader.members.remove(leader.node_id)
        with pytest.raises(FailedError, match="no other voter"):
            await leader.members.transfer_leader(None)
        assert leader.membership.decides_alone(leader.node_id)

    tell(engine, story)


@on(TOGETHER)
def test_only_the_leader_changes_the_members(engine: OpenCluster) -> None:
    async def story(cluster: Cluster) -> None:
        before = leader_of(cluster).membership
        follower = next(log for log in cluster.nodes.values() if not log.is_leader)
        changes: list[Coroutine[Any, Any, object]] = [
            follower.members.add(member(9)),
            follower.members.remove(leader_of(cluster).node_id),
            follower.members.transfer_leader(follower.node_id),
        ]
        for change in changes:
            with pytest.raises(FailedError, match="does not lead"):
                await change
        assert set((await everywhere(cluster)).values()) == {before}

    tell(engine, story)


@on(TOGETHER)
def test_leadership_goes_where_it_is_sent_and_commands_go_on(engine: OpenCluster) -> None:
    async def story(cluster: Cluster) -> None:
        for step in range(1, 4):
            before = leader_of(cluster)
            term = before.term
            target = 1 + before.node_id % 3 if step > 1 else None
            leads = await before.members.transfer_leader(target)
            assert leads == (target or leads) != before.node_id
            for number, log in enumerate(cluster.nodes.values()):
                index, version = made(await log.propose(commit(10 * step + number)))
                assert log.leader == leads
                assert log.term > term
                await before.wait_applied(index)
                assert version in await seen(before)

    tell(engine, story)


@on(TOGETHER)
def test_a_node_that_led_can_be_removed_once_another_leads(engine: OpenCluster) -> None:
    async def story(cluster: Cluster) -> None:
        await join(cluster, 4)
        former = leader_of(cluster)
        leads = cluster.nodes[await former.members.transfer_leader(None)]
        await leads.members.remove(former.node_id)
        index, _ = made(await leads.propose(commit(1)))
        for node_id, log in cluster.nodes.items():
            if node_id != former.node_id:
                await log.wait_applied(index)
                assert former.node_id not in log.membership.ids()

    tell(engine, story)
