"""What every `ports.LogStore` promises, run on the real one and on the one in memory."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Protocol

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from mcr.errors import CorruptStoreError
from mcr.model import LogIndex
from mcr_node.ports import LOG_ENTRY_BYTES_MAX, LogEntry, LogStore
from mcr_node.storage.log_store import RocksLogStore, _key
from tests.conformance.memory_log_store import MemoryLogStore

IDENTITY = b"i" * 16


class Setting(Protocol):
    """A log, and what a test may do behind its back."""

    @property
    def log(self) -> LogStore: ...

    def last_term(self) -> int: ...

    def damage(self, index: int) -> None: ...

    def reopen(self) -> None: ...


class InMemory:
    def __init__(self) -> None:
        self.memory = MemoryLogStore()

    @property
    def log(self) -> LogStore:
        return self.memory

    def last_term(self) -> int:
        return self.memory.last_term()

    def damage(self, index: int) -> None:
        self.memory.damage(index)

    def reopen(self) -> None:
        self.log.close()


class OnDisk:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.rocks = RocksLogStore.open(path, IDENTITY)

    @property
    def log(self) -> LogStore:
        return self.rocks

    def last_term(self) -> int:
        return self.rocks.last_term()

    def damage(self, index: int) -> None:
        value = self.rocks._database.get(_key(index))
        assert value is not None
        self.rocks._database.write([(_key(index), value[:-1] + bytes((value[-1] ^ 1,)))])

    def reopen(self) -> None:
        self.rocks.close()
        self.rocks = RocksLogStore.open(self.path, IDENTITY, last_at_least=self.rocks.bounds()[1])


@pytest.fixture(params=["memory", "rocksdb"])
def setting(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Setting]:
    made: Setting = InMemory() if request.param == "memory" else OnDisk(tmp_path / "log")
    yield made
    made.log.close()


def entries(first: int, last: int, *, term: int = 1) -> list[LogEntry]:
    return [LogEntry(LogIndex(index), term, b"command %d" % index) for index in range(first, last + 1)]


def test_new_log_is_empty_and_the_first_entry_has_index_one(setting: Setting) -> None:
    assert setting.log.bounds() == (1, 0)
    assert setting.last_term() == 0

    setting.log.append(entries(1, 1))

    assert setting.log.bounds() == (1, 1)


def test_entries_come_back_as_they_were_appended(setting: Setting) -> None:
    # given
    mine = [
        LogEntry(LogIndex(1), 1, b""),
        LogEntry(LogIndex(2), 1, bytes(range(256))),
        LogEntry(LogIndex(3), 7, b"\xff" * 1000),
    ]

    # when
    setting.log.append(mine[:1])
    setting.log.append(mine[1:])

    # then
    assert setting.log.read(LogIndex(1), LogIndex(3)) == mine
    assert setting.log.read(LogIndex(2), LogIndex(2)) == mine[1:2]
    assert setting.last_term() == 7


def test_largest_entry_is_kept(setting: Setting) -> None:
    largest = LogEntry(LogIndex(1), 1, bytes(LOG_ENTRY_BYTES_MAX))

    setting.log.append([largest])
    setting.reopen()

    assert setting.log.read(LogIndex(1), LogIndex(1)) == [largest]


def test_appending_nothing_changes_nothing(setting: Setting) -> None:
    setting.log.append(entries(1, 2))

    setting.log.append([])

    assert setting.log.bounds() == (1, 2)


def test_appended_entries_survive_reopening(setting: Setting) -> None:
    setting.log.append(entries(1, 300))

    setting.reopen()

    assert setting.log.bounds() == (1, 300)
    assert setting.log.read(LogIndex(1), LogIndex(300)) == entries(1, 300)


@pytest.mark.parametrize("through", [1, 5, 9])
def test_compaction_forgets_what_it_names_and_nothing_more(setting: Setting, through: int) -> None:
    # given
    setting.log.append(entries(1, 10))

    # when
    setting.log.compact(LogIndex(through))

    # then
    assert setting.log.bounds() == (through + 1, 10)
    assert setting.log.read(LogIndex(through + 1), LogIndex(10)) == entries(through + 1, 10)


def test_log_that_is_compacted_away_still_knows_its_last_index_and_term(setting: Setting) -> None:
    # given
    setting.log.append(entries(1, 10, term=3))
    setting.log.compact(LogIndex(10))

    # when
    setting.reopen()

    # then
    assert setting.log.bounds() == (11, 10)
    assert setting.last_term() == 3
    setting.log.append(entries(11, 12, term=3))
    assert setting.log.read(LogIndex(11), LogIndex(12)) == entries(11, 12, term=3)


def test_compacting_again_below_the_floor_changes_nothing(setting: Setting) -> None:
    setting.log.append(entries(1, 10))
    setting.log.compact(LogIndex(6))

    setting.log.compact(LogIndex(4))
    setting.log.compact(LogIndex(0))

    assert setting.log.bounds() == (7, 10)


def test_damaged_entry_is_refused_and_the_others_are_served(setting: Setting) -> None:
    # given
    setting.log.append(entries(1, 5))

    # when
    setting.damage(3)

    # then
    with pytest.raises(CorruptStoreError):
        setting.log.read(LogIndex(1), LogIndex(5))
    assert setting.log.read(LogIndex(1), LogIndex(2)) == entries(1, 2)
    assert setting.log.read(LogIndex(4), LogIndex(5)) == entries(4, 5)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(LogEntry(LogIndex(4), 1, b""), id="gap"),
        pytest.param(LogEntry(LogIndex(2), 1, b""), id="again"),
        pytest.param(LogEntry(LogIndex(3), 0, b""), id="older-term"),
        pytest.param(LogEntry(LogIndex(3), 1, bytes(LOG_ENTRY_BYTES_MAX + 1)), id="too-large"),
    ],
)
def test_entry_that_cannot_follow_is_our_own_bug_and_leaves_the_log_alone(
    setting: Setting, wrong: LogEntry
) -> None:
    setting.log.append(entries(1, 2))

    with pytest.raises(AssertionError):
        setting.log.append([wrong])

    assert setting.log.bounds() == (1, 2)


def test_asking_for_what_is_not_held_is_our_own_bug(setting: Setting) -> None:
    setting.log.append(entries(1, 5))
    setting.log.compact(LogIndex(2))

    with pytest.raises(AssertionError):
        setting.log.read(LogIndex(2), LogIndex(3))
    with pytest.raises(AssertionError):
        setting.log.read(LogIndex(5), LogIndex(6))
    with pytest.raises(AssertionError):
        setting.log.compact(LogIndex(6))


class Twins(RuleBasedStateMachine):
    """The real log and the one in memory never differ, whatever is done to both."""

    folder: ClassVar[Path]

    def __init__(self) -> None:
        super().__init__()
        self.disk = OnDisk(Path(tempfile.mkdtemp(dir=self.folder)) / "log")
        self.memory = InMemory()

    @rule(terms=st.lists(st.integers(0, 1), max_size=5), data=st.binary(max_size=20))
    def append(self, terms: list[int], data: bytes) -> None:
        term = self.memory.last_term()
        last = self.memory.log.bounds()[1]
        batch = []
        for offset, step in enumerate(terms, start=1):
            term += step
            batch.append(LogEntry(LogIndex(last + offset), term, data))
        self.disk.log.append(batch)
        self.memory.log.append(batch)

    @rule(share=st.integers(0, 4))
    def compact(self, share: int) -> None:
        first, last = self.memory.log.bounds()
        through = LogIndex(first - 1 + (last - first + 1) * share // 4)
        self.disk.log.compact(through)
        self.memory.log.compact(through)

    @rule()
    def reopen(self) -> None:
        self.disk.reopen()

    @invariant()
    def same(self) -> None:
        first, last = self.memory.log.bounds()
        assert self.disk.log.bounds() == (first, last)
        assert self.disk.last_term() == self.memory.last_term()
        assert self.disk.log.read(first, last) == self.memory.log.read(first, last)

    def teardown(self) -> None:
        self.disk.log.close()


def test_real_log_and_memory_log_agree_on_every_history(tmp_path: Path) -> None:
    class InFolder(Twins):
        folder = tmp_path

    run_state_machine_as_test(
        InFolder, settings=settings(max_examples=15, stateful_step_count=12, deadline=None)
    )
