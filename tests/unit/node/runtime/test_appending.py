"""Appends reach the log in batches, in order, and none after one that failed."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import pytest

from mcr_node.core.promises import Promises
from mcr_node.core.raft.messages import (
    APPEND_QUEUE,
    ConfState,
    Entry,
    EntryType,
    HardState,
    Message,
    MessageType,
    Snapshot,
)
from mcr_node.core.replica import Append
from mcr_node.ports import HardState as LogHardState
from mcr_node.ports import LogEntry, SnapshotSink
from mcr_node.runtime.appending import Appending
from mcr_node.runtime.limits import APPENDS_PER_SYNC_MAX, APPLIED_AT_ONCE_MAX
from mcr_node.runtime.log_writing import LogWriter
from tests.support.memory_log_store import MemoryLogStore

STORY_S_MAX = 30.0


def append(index: int, *, commit: int = 0) -> Append:
    """One entry of term 1, or with `commit` only the news that so much is committed."""
    entries = () if commit else (Entry(1, index, EntryType.NORMAL, b""),)
    return Append(
        Message(MessageType.STORAGE_APPEND, APPEND_QUEUE, 1, 1, vote=1, commit=commit, entries=entries)
    )


class HeldLogStore(MemoryLogStore):
    """A log whose syncs wait until they are let go, and that remembers what was written, and by whom."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = threading.Event()
        self.writes: list[tuple[list[int], int | None]] = []
        self.writers: list[threading.Thread] = []
        self.syncs = 0
        self.failure: Exception | None = None

    def write(self, entries: Sequence[LogEntry], hard_state: LogHardState | None = None) -> None:
        if self.failure is not None:
            raise self.failure
        super().write(entries, hard_state)
        commit = None if hard_state is None else int(hard_state.commit)
        self.writes.append(([int(entry.index) for entry in entries], commit))
        self.writers.append(threading.current_thread())

    def sync(self) -> None:
        assert self.let_go.wait(STORY_S_MAX)
        super().sync()
        self.syncs += 1


class Scene:
    """An `Appending` and what it told. With `is_cutting` its thread does all, else only the syncs."""

    is_cutting = False

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self.log = HeldLogStore()
        self.written: list[int] = []
        self.errors: list[BaseException] = []
        self.is_applying = False
        # What is to be told of when it is being synced; and what was, with all that was written before.
        self.awaited: set[int] = set()
        self.syncing: list[tuple[list[int], list[int]]] = []
        self.writer = LogWriter(self.log)
        self.appending = Appending(
            self.writer,
            Promises(HardState()),
            executor,
            is_applying=lambda: self.is_applying,
            is_cutting=lambda: self.is_cutting,
            is_awaited=lambda batch: not self.awaited.isdisjoint(indexes(batch)),
            syncing=lambda batch: self.syncing.append((indexes(batch), list(self.written))),
            written=self.tell,
        )

    def tell(self, batch: Sequence[Append], error: BaseException | None) -> None:
        if error is not None:
            self.errors.append(error)
        else:
            self.written += indexes(batch)
        self.appending.advance(is_alone=False)

    def put(self, *appends: Append) -> list[Append]:
        for each in appends:
            self.appending.put(each)
        return self.appending.advance(is_alone=False)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(STORY_S_MAX):
            while not condition():
                # A turn of the loop, in which the thread tells.
                await asyncio.to_thread(lambda: None)


def indexes(batch: Sequence[Append]) -> list[int]:
    return [entry.index for each in batch for entry in each.message.entries]


@pytest.fixture(params=[False, True], ids=["brief", "by the thread"], autouse=True)
def is_cutting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the log is being cut back, so that its thread has to do all: the same laws hold."""
    monkeypatch.setattr(Scene, "is_cutting", request.param)
    return bool(request.param)


def test_the_thread_writes_only_what_is_not_brief_or_while_it_cuts_the_log_back(is_cutting: bool) -> None:
    async def story() -> None:
        here = threading.current_thread()
        with ThreadPoolExecutor(1) as executor:
            scene = Scene(executor)
            scene.log.let_go.set()
            scene.put(append(1))
            await scene.until(lambda: scene.written == [1])
            # As many as hold up the loop longer than the way to the thread.
            scene.put(*[append(index) for index in range(2, 3 + APPLIED_AT_ONCE_MAX)])
            await scene.until(lambda: len(scene.written) == 2 + APPLIED_AT_ONCE_MAX)
            # In place of one that is there, which is noted beside the log.
            scene.put(append(2 + APPLIED_AT_ONCE_MAX))
            await scene.until(lambda: len(scene.written) == 3 + APPLIED_AT_ONCE_MAX)
            by_loop = [writer is here for writer in scene.log.writers]
            assert by_loop == [not is_cutting, *[False] * (2 + APPLIED_AT_ONCE_MAX)]
            await scene.appending.close()

    asyncio.run(story())


def test_who_waits_for_an_entry_hears_when_only_the_disk_is_waited_for() -> None:
    async def story() -> None:
        with ThreadPoolExecutor(1) as executor:
            scene = Scene(executor)
            scene.awaited = {2}
            scene.log.let_go.set()
            scene.put(append(1))
            await scene.until(lambda: scene.written == [1])
            scene.log.let_go.clear()
            scene.put(append(2))
            await scene.until(lambda: bool(scene.syncing))
            assert (scene.written, scene.log.writes[-1][0]) == ([1], [2])
            scene.log.let_go.set()
            await scene.until(lambda: scene.written == [1, 2])
            assert scene.syncing == [([2], [1])]
            await scene.appending.close()

    asyncio.run(story())


def test_what_comes_while_the_log_is_written_is_one_batch_with_one_sync() -> None:
    async def story() -> None:
        with ThreadPoolExecutor(1) as executor:
            scene = Scene(executor)
            scene.put(append(1))
            scene.put(append(2), append(3))
            scene.put(append(4))
            assert scene.appending.is_writing
            scene.log.let_go.set()
            await scene.until(lambda: scene.written == [1, 2, 3, 4])
            assert scene.log.syncs == 2
            assert not scene.appending.is_writing
            await scene.appending.close()

    asyncio.run(story())


def test_no_batch_is_longer_than_one_sync_may_be() -> None:
    async def story() -> None:
        with ThreadPoolExecutor(1) as executor:
            scene = Scene(executor)
            count = 2 * APPENDS_PER_SYNC_MAX
            scene.put(*[append(index) for index in range(1, count + 1)])
            scene.log.let_go.set()
            await scene.until(lambda: len(scene.written) == count)
            assert scene.written == list(range(1, count + 1))
            assert scene.log.syncs == 2
            await scene.appending.close()

    asyncio.run(story())


def test_the_news_of_a_commit_needs_no_disk_and_shares_the_write_of_the_next_entry() -> None:
    async def story() -> None:
        with ThreadPoolExecutor(1) as executor:
            scene = Scene(executor)
            scene.log.let_go.set()
            scene.put(append(1))
            await scene.until(lambda: scene.written == [1])
            assert len(scene.put(append(0, commit=1))) == 1
            assert scene.log.writes == [([1], 0)]
            scene.put(Append(Message(MessageType.STORAGE_APPEND, APPEND_QUEUE, 1, entries=(Entry(1, 2),))))
            await scene.until(lambda: scene.written == [1, 2])
            assert scene.log.writes == [([1], 0), ([2], 1)]
            await scene.appending.close()

    asyncio.run(story())


class Sink:
    """A snapshot of which all bytes are here."""

    def __init__(self) -> None:
        self.installed = 0

    def install(self) -> None:
        self.installed += 1


def test_a_snapshot_is_installed_only_when_nothing_is_on_its_way_into_the_state() -> None:
    async def story() -> None:
        with ThreadPoolExecutor(1) as executor:
            scene = Scene(executor)
            scene.log.let_go.set()
            sink, snapshot = Sink(), Snapshot(index=5, term=1, conf_state=ConfState(voters=(1,)))
            scene.writer.expect(snapshot, cast("SnapshotSink", sink))
            scene.is_applying = True
            scene.put(Append(Message(MessageType.STORAGE_APPEND, APPEND_QUEUE, 1, snapshot=snapshot)))
            assert not scene.appending.is_writing
            scene.is_applying = False
            scene.put()
            await scene.until(lambda: not scene.appending.is_writing)
            assert (sink.installed, scene.log.bounds()) == (1, (6, 5))
            await scene.appending.close()

    asyncio.run(story())


def test_after_a_failure_nothing_is_written_any_more() -> None:
    async def story() -> None:
        with ThreadPoolExecutor(1) as executor:
            scene = Scene(executor)
            scene.log.failure = ZeroDivisionError()
            scene.put(append(1))
            scene.put(append(2))
            scene.log.let_go.set()
            await scene.until(lambda: bool(scene.errors))
            scene.log.failure = None
            scene.put(append(2))
            await scene.appending.close()
        assert (scene.written, scene.log.writes) == ([], [])
        assert len(scene.errors) == 1

    asyncio.run(story())


def test_closing_waits_for_the_thread_and_begins_nothing_new() -> None:
    async def story() -> None:
        with ThreadPoolExecutor(1) as executor:
            scene = Scene(executor)
            scene.put(append(1))
            scene.put(append(2))
            closing = asyncio.create_task(scene.appending.close())
            await asyncio.to_thread(lambda: None)
            assert not closing.done()
            scene.log.let_go.set()
            await closing
            scene.put(append(3))
        assert (scene.written, scene.log.writes) == ([], [([1], 0)])

    asyncio.run(story())
