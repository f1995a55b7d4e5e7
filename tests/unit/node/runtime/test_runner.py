"""The runner: persisted, then applied, then answered; and nobody waits for ever."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import pytest

from mcr.errors import DivergedError, FailedError, McrError, OutOfSpaceError
from mcr.model import ChunkId, LogIndex, RequestId
from mcr_node.core.members import Member, Membership
from mcr_node.core.raft.messages import ConfState, Entry, EntryType, Message, MessageType
from mcr_node.core.state import codec
from mcr_node.core.state.commands import CheckDigest, CommitVersion
from mcr_node.core.state.digest import DIGEST_ENTRIES
from mcr_node.core.state.outcomes import Accepted, Rejected, VersionResult
from mcr_node.ports import HardState, LogEntry, SnapshotSource
from mcr_node.runtime import advancing
from mcr_node.runtime.limits import APPLIED_AT_ONCE_MAX
from mcr_node.runtime.runner import Runner, Self
from tests.conformance.memory_state_store import MemoryStateStore
from tests.support.memory_log_store import MemoryLogStore

PATIENCE_S = 30.0


class FixedClock:
    def now_ms(self) -> int:
        return 1_000

    def monotonic_ns(self) -> int:
        return 0


def commit(number: int, *, expected_head: int | None = None) -> CommitVersion:
    return CommitVersion(
        request_id=RequestId(b"request %d" % number),
        principal="test",
        at_ms=number,
        model="a/b",
        branch="main",
        expected_head=expected_head,
        parent=None,
        description="",
        parameters={},
        manifest=ChunkId(bytes(32)),
        bytes_total=0,
        file_count=0,
        chunk_count=0,
        metrics={},
    )


ALONE = Membership(ConfState(voters=(1,)), (Member(1, "alone"),))
STORY_S_MAX = 30.0


def append_of(leader: int, *, after: tuple[int, int], entries: int, commit: int) -> Message:
    """An APPEND of term 1 to node 1, of empty entries after (term, index)."""
    term, index = after
    return Message(
        MessageType.APPEND,
        1,
        leader,
        1,
        term,
        index,
        commit,
        entries=tuple(Entry(1, index + 1 + each, EntryType.NORMAL, b"") for each in range(entries)),
    )


async def until(condition: Callable[[], bool], runner: Runner) -> None:
    async with asyncio.timeout(STORY_S_MAX):
        while not condition():
            # A trip to the thread that writes: what was handed to it before is done.
            await runner.run(lambda: None)


def start(
    log: MemoryLogStore,
    state: MemoryStateStore,
    executor: ThreadPoolExecutor,
    voters: Membership = ALONE,
) -> Runner:
    return Runner(
        myself=Self(1, voters, lambda limit: limit - 1),
        log=log,
        state=state,
        clock=FixedClock(),
        log_executor=executor,
        state_executor=executor,
        read_executor=executor,
    )


def committed(log: MemoryLogStore, state: MemoryStateStore, first: int, count: int) -> list[int]:
    async def work() -> list[int]:
        with ThreadPoolExecutor(1) as executor:
            runner = start(log, state, executor)
            await runner.start()
            proposals = (runner.propose(commit(number)) for number in range(first, first + count))
            outcomes = await asyncio.gather(*proposals)
            await runner.close()
        numbers = []
        for outcome in outcomes:
            assert isinstance(outcome, Accepted)
            assert isinstance(outcome.result, VersionResult)
            numbers.append(outcome.result.number)
        return numbers

    return asyncio.run(work())


def test_concurrent_proposals_each_get_their_own_outcome_in_log_order() -> None:
    log, state = MemoryLogStore(), MemoryStateStore()
    assert committed(log, state, 0, 50) == list(range(1, 51))
    # One more: the empty entry with which a leader begins its term.
    assert log.bounds() == (1, 51)
    assert state.applied() == 51


def test_what_the_state_lost_is_applied_again_from_the_log() -> None:
    log, state = MemoryLogStore(), MemoryStateStore()
    committed(log, state, 0, 30)
    digest, rows = state.state_digest(), list(state.view().scan(b"", b"\xff"))
    state.lose_unsynced()
    assert state.applied() == 0

    committed(log, state, 0, 0)

    assert (state.applied(), state.state_digest()) == (31, digest)
    assert list(state.view().scan(b"", b"\xff")) == rows
    assert committed(log, state, 100, 1) == [31]


def test_a_rejected_command_takes_a_place_in_the_log_and_changes_nothing() -> None:
    async def work() -> None:
        with ThreadPoolExecutor(1) as executor:
            runner = start(MemoryLogStore(), MemoryStateStore(), executor)
            await runner.start()
            outcome = await runner.propose(commit(1, expected_head=7))
            assert isinstance(outcome, Rejected)
            assert outcome.code == "head_moved"
            assert runner.applied == 2
            await runner.close()

    asyncio.run(work())


class FullLogStore(MemoryLogStore):
    """A log on a disk that is full."""

    def write(self, entries: Sequence[LogEntry], hard_state: HardState | None = None) -> None:
        raise OutOfSpaceError("log", "no space left")


class BrokenLogStore(MemoryLogStore):
    """A log with a bug."""

    def write(self, entries: Sequence[LogEntry], hard_state: HardState | None = None) -> None:
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("log", "expected"), [(FullLogStore(), OutOfSpaceError), (BrokenLogStore(), FailedError)]
)
def test_after_a_failed_append_everybody_is_told_and_nobody_waits(
    log: MemoryLogStore, expected: type[McrError]
) -> None:
    async def work() -> None:
        with ThreadPoolExecutor(1) as executor:
            runner = start(log, MemoryStateStore(), executor)
            await runner.start()
            answers = await asyncio.gather(
                *(runner.propose(commit(number)) for number in range(5)), return_exceptions=True
            )
            assert {type(answer) for answer in answers} == {expected}
            with pytest.raises(expected):
                await runner.propose(commit(9))
            await runner.close()

    asyncio.run(work())


def test_the_log_is_cut_back_only_after_the_state_is_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advancing, "LOG_ENTRIES_KEPT_MAX", 20)
    log, state = MemoryLogStore(), MemoryStateStore()
    committed(log, state, 0, 30)
    for first in range(100, 160, 10):
        committed(log, state, first, 10)
    entries_first, entries_last = log.bounds()
    # 90 commands, and the first entry of each of seven terms.
    assert entries_last == 97
    assert entries_last - entries_first <= 30
    state.lose_unsynced()
    assert state.applied() >= entries_first - 1
    assert committed(log, state, 500, 1) == [91]


def test_whoever_waits_for_an_entry_wakes_when_it_is_applied_and_when_it_never_will_be() -> None:
    async def work() -> None:
        with ThreadPoolExecutor(1) as executor:
            runner = start(MemoryLogStore(), MemoryStateStore(), executor)
            await runner.start()
            third = asyncio.create_task(runner.wait_applied(LogIndex(3)))
            read = asyncio.create_task(runner.read_index(at_least=LogIndex(2), stale_ok=False))
            never = asyncio.create_task(runner.wait_applied(LogIndex(99)))
            assert await runner.read_index(at_least=LogIndex(99), stale_ok=True) == 0
            await asyncio.gather(*(runner.propose(commit(number)) for number in range(3)))
            await third
            assert await read >= 2
            assert not never.done()
            await runner.close()
            with pytest.raises(FailedError, match="closed"):
                await never
            assert (await runner.wait_failed()).code == "failed"
            with pytest.raises(FailedError, match="closed"):
                await runner.propose(commit(9))

    asyncio.run(work())


class TellingLogStore(MemoryLogStore):
    """A log that says when entries were written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = threading.Event()

    def write(self, entries: Sequence[LogEntry], hard_state: HardState | None = None) -> None:
        super().write(entries, hard_state)
        if entries:
            self.written.set()


def test_a_node_whose_state_is_wrong_answers_nobody_and_still_votes_by_its_log() -> None:
    async def work() -> None:
        log, state = TellingLogStore(), MemoryStateStore()
        with ThreadPoolExecutor(1) as executor:
            runner = start(log, state, executor)
            await runner.start()
            await asyncio.gather(*(runner.propose(commit(number)) for number in range(DIGEST_ENTRIES)))
            told = CheckDigest(
                request_id=RequestId(b"check"),
                principal="mcr",
                at_ms=0,
                index=LogIndex(DIGEST_ENTRIES),
                digest=bytes(32),
            )
            with pytest.raises(DivergedError):
                await runner.propose(told)
            assert isinstance(await runner.wait_failed(), DivergedError)
            applied = runner.applied

            with pytest.raises(DivergedError):
                await runner.read_index(at_least=None, stale_ok=False)
            with pytest.raises(DivergedError):
                # Stale reads wait for nothing, and look here.
                runner.view()
            with pytest.raises(DivergedError):
                await runner.propose(commit(5_000))
            # What another node was given is appended here all the same, and never applied.
            log.written.clear()
            runner.accept_forwarded(runner.term, [codec.encode(commit(6_000))])
            assert await asyncio.to_thread(log.written.wait, PATIENCE_S)
            assert runner.applied == applied == state.applied()
            await runner.close()

    asyncio.run(work())


def test_a_founder_whose_state_forgot_the_others_starts_without_waiting_for_them() -> None:
    """The log knows that another one joined, the state does not, and the last entry was never committed."""
    log = MemoryLogStore()

    async def grow() -> None:
        with ThreadPoolExecutor(1) as executor:
            runner = start(log, MemoryStateStore(), executor)
            await runner.start()
            await runner.members.add(Member(2, "two", "127.0.0.1:2"))
            await runner.members.promote(2)
            # The second voter is never there.
            proposal = asyncio.create_task(runner.propose(commit(1)))
            before = log.bounds()[1]
            await until(lambda: log.bounds()[1] > before, runner)
            proposal.cancel()
            await runner.close()

    asyncio.run(grow())

    async def restart() -> None:
        with ThreadPoolExecutor(1) as executor:
            runner = start(log, MemoryStateStore(), executor)
            async with asyncio.timeout(STORY_S_MAX):
                await runner.start()
            assert runner.membership.conf.voters == (1, 2)
            await runner.close()

    asyncio.run(restart())


def test_an_entry_is_never_on_disk_before_a_commit_index_that_was_known_before_it() -> None:
    """Else a voter two configurations behind could campaign by majorities that do not meet."""
    log = MemoryLogStore()

    async def story() -> None:
        with ThreadPoolExecutor(1) as executor:
            voters = Membership(ConfState(voters=(1, 2)), (Member(1, "one"), Member(2, "two")))
            runner = start(log, MemoryStateStore(), executor, voters)
            await runner.start()
            runner.deliver([append_of(2, after=(0, 0), entries=2, commit=0)])
            await until(lambda: log.bounds()[1] == 2, runner)
            # Alone, it is not written.
            runner.deliver([append_of(2, after=(1, 2), entries=0, commit=2)])
            await runner.wait_applied(LogIndex(2))
            assert log.hard_state().commit == 0
            # With whatever comes next it is.
            runner.deliver([append_of(2, after=(1, 2), entries=1, commit=2)])
            await until(lambda: log.bounds()[1] == 3, runner)
            assert log.hard_state().commit == 2
            await runner.close()

    asyncio.run(story())


class Story:
    """A log, a state and peers that write down, in order, what is done with them."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self._said: list[str] = []
        self.log, self.state = _StoryLog(self.told), _StoryState(self.told)

    # ---- ports.Peers ----

    def update(self, members: Sequence[Member]) -> None: ...

    def introduce(self, node_id: int, address: str) -> None: ...

    def send(self, message: Message) -> None:
        what = f" of {len(message.entries)}" if message.entries else ""
        self._said.append(f"{message.type.name} to {message.to}{what}")

    def forward(self, to: int, term: int, commands: Sequence[bytes]) -> None: ...

    def flush(self) -> None:
        self.told += self._said
        self._said.clear()

    def send_snapshot(self, message: Message, source: SnapshotSource) -> None: ...


class _StoryLog(MemoryLogStore):
    def __init__(self, told: list[str]) -> None:
        super().__init__()
        self._told = told

    def write(self, entries: Sequence[LogEntry], hard_state: HardState | None = None) -> None:
        self._told.append(f"write {len(entries)}")
        super().write(entries, hard_state)

    def sync(self) -> None:
        self._told.append("sync")
        super().sync()


class _StoryState(MemoryStateStore):
    def __init__(self, told: list[str]) -> None:
        super().__init__()
        self._told = told

    def write(
        self,
        changes: Sequence[tuple[bytes, bytes | None]],
        applied: LogIndex,
        state_digest: bytes,
        *,
        applied_term: int,
        configuration: bytes | None = None,
    ) -> None:
        self._told.append(f"apply {applied}")
        super().write(changes, applied, state_digest, applied_term=applied_term, configuration=configuration)


BOTH = Membership(ConfState(voters=(1, 2)), (Member(1, "one"), Member(2, "two")))


@asynccontextmanager
async def one_of_two(story: Story) -> AsyncIterator[Runner]:
    """Node 1; the other one is played by the story."""
    with ThreadPoolExecutor(1) as executor:
        runner = start(story.log, story.state, executor, BOTH)
        await runner.start(story)
        yield runner
        await runner.close()


async def elected(runner: Runner, story: Story) -> None:
    """Let the other node hand over leadership, and vote."""
    runner.deliver([Message(MessageType.TIMEOUT_NOW, 1, 2, 1)])
    await until(lambda: "VOTE to 2" in story.told, runner)
    runner.deliver([Message(MessageType.VOTE_RESP, 1, 2, 2)])


def test_a_follower_acknowledges_before_it_applies_what_the_same_message_told_of() -> None:
    """The leader and its caller wait for the first, and nobody for the second."""
    story = Story()

    async def tell() -> None:
        async with one_of_two(story) as runner:
            runner.deliver([append_of(2, after=(0, 0), entries=1, commit=0)])
            await until(lambda: story.told[-1:] == ["APPEND_RESP to 2"], runner)
            story.told.clear()
            runner.deliver([append_of(2, after=(1, 1), entries=1, commit=1)])
            await runner.wait_applied(LogIndex(1))
            assert story.told == ["write 1", "sync", "APPEND_RESP to 2", "apply 1"]

    asyncio.run(tell())


def test_a_leader_sends_an_entry_before_it_writes_it() -> None:
    """Thesis, 10.2.1: so that disks work at the same time. Its own copy counts once it is written."""
    story = Story()

    async def tell() -> None:
        async with one_of_two(story) as runner:
            runner.deliver([append_of(2, after=(0, 0), entries=1, commit=0)])
            await elected(runner, story)
            await until(lambda: runner.is_leader, runner)
            runner.deliver([Message(MessageType.APPEND_RESP, 1, 2, 2, index=2)])
            await runner.wait_applied(LogIndex(2))
            # News of that, or it would come in between.
            await until(lambda: story.told[-1:] == ["APPEND to 2"], runner)
            story.told.clear()
            proposal = asyncio.create_task(runner.propose(commit(1)))
            await until(lambda: "sync" in story.told, runner)
            assert story.told == ["APPEND to 2 of 1", "write 1", "sync"]
            runner.deliver([Message(MessageType.APPEND_RESP, 1, 2, 2, index=3)])
            assert isinstance(await proposal, Accepted)
            assert story.told[3] == "apply 3"
            # Nothing followed: the other one hears of the commit all the same.
            await until(lambda: story.told[4:] == ["APPEND to 2"], runner)

    asyncio.run(tell())


def test_what_nobody_waits_for_is_applied_a_little_later_in_one_go() -> None:
    story = Story()

    async def tell() -> None:
        async with one_of_two(story) as runner:
            runner.deliver([append_of(2, after=(0, 0), entries=3, commit=0)])
            await until(lambda: "APPEND_RESP to 2" in story.told, runner)
            story.told.clear()
            for each in (1, 2, 3):
                runner.deliver([append_of(2, after=(1, 3), entries=0, commit=each)])
            await until(lambda: runner.applied == 3, runner)
            assert [told for told in story.told if told.startswith("apply")] == ["apply 3"]

    asyncio.run(tell())


def test_nothing_is_put_off_that_somebody_waits_for_or_that_is_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advancing, "PUT_OFF_S", 3600.0)
    story = Story()

    async def tell() -> None:
        async with one_of_two(story) as runner:
            count = 2 + APPLIED_AT_ONCE_MAX
            runner.deliver([append_of(2, after=(0, 0), entries=count, commit=0)])
            await until(lambda: "APPEND_RESP to 2" in story.told, runner)
            runner.deliver([append_of(2, after=(1, count), entries=0, commit=1)])
            assert runner.applied == 0
            async with asyncio.timeout(STORY_S_MAX):
                await runner.wait_applied(LogIndex(1))
            runner.deliver([append_of(2, after=(1, count), entries=0, commit=2)])
            assert runner.applied == 1
            read = asyncio.create_task(runner.read_index(at_least=None, stale_ok=False))
            await until(lambda: runner.applied == 2, runner)
            read.cancel()
            await asyncio.wait([read])
            runner.deliver([append_of(2, after=(1, count), entries=0, commit=count)])
            await until(lambda: runner.applied == count, runner)

    asyncio.run(tell())


def test_who_becomes_leader_applies_what_it_had_put_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advancing, "PUT_OFF_S", 3600.0)
    story = Story()

    async def tell() -> None:
        async with one_of_two(story) as runner:
            runner.deliver([append_of(2, after=(0, 0), entries=1, commit=0)])
            await until(lambda: "APPEND_RESP to 2" in story.told, runner)
            runner.deliver([append_of(2, after=(1, 1), entries=0, commit=1)])
            assert runner.applied == 0
            await elected(runner, story)
            await until(lambda: runner.applied == 1, runner)

    asyncio.run(tell())
