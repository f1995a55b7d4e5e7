"""What every `ports.LogStore` promises, run on the real one and on the one in memory."""

import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar, Protocol

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from mcr.errors import CorruptStoreError
from mcr.model import LogIndex
from mcr_node.ports import LOG_ENTRY_BYTES_MAX, HardState, LogEntry, LogStore, StorageFailure
from mcr_node.storage.log_records import entry_key
from mcr_node.storage.log_store import RocksLogStore
from tests.faults_database import Faults, FaultyDatabase, image_of
from tests.support.memory_log_store import MemoryLogStore

IDENTITY = b"i" * 16
EVERYTHING = 2**40


class Setting(Protocol):
    """A log, and what a test may do behind its back."""

    @property
    def log(self) -> LogStore: ...

    def damage(self, index: int) -> None: ...

    def fail_sync(self) -> None: ...

    def reopen(self) -> None: ...

    def crash(self) -> None:
        """Lose what was not synced, and open again."""


class InMemory:
    def __init__(self) -> None:
        self.memory = MemoryLogStore()

    @property
    def log(self) -> LogStore:
        return self.memory

    def damage(self, index: int) -> None:
        self.memory.damage(index)

    def fail_sync(self) -> None:
        self.memory.sync_fails = True

    def reopen(self) -> None:
        self.log.close()

    def crash(self) -> None:
        self.memory.crash()


class OnDisk:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.faults = Faults()
        self.crashes = 0
        self.open()

    def open(self, applied: int = 0) -> None:
        self.rocks = RocksLogStore.open(
            self.path, IDENTITY, last_at_least=applied, open_database=FaultyDatabase.opener(self.faults)
        )

    @property
    def log(self) -> LogStore:
        return self.rocks

    def damage(self, index: int) -> None:
        value = self.rocks._database.get(entry_key(index))
        assert value is not None
        self.rocks._database.write([(entry_key(index), value[:-1] + bytes((value[-1] ^ 1,)))])

    def fail_sync(self) -> None:
        database = self.rocks._database
        vars(database)["_rdict"] = FailingSync(database._rdict)

    def reopen(self) -> None:
        self.rocks.close()
        self.open(self.rocks.hard_state().commit)

    def crash(self) -> None:
        self.crashes += 1
        found = self.path.parent / f"after-crash-{self.crashes}"
        image_of(self.path, self.faults.synced_wal_bytes, found)
        self.rocks._database.close()
        self.path = found
        self.open()


class FailingSync:
    """The engine on a disk that does not sync."""

    def __init__(self, rdict: object) -> None:
        self._rdict = rdict

    def __getattr__(self, name: str) -> object:
        return getattr(self._rdict, name)

    def flush_wal(self, _: bool) -> None:
        raise OSError("IO error: Input/output error")


@pytest.fixture(params=["memory", "rocksdb"])
def setting(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Setting]:
    made: Setting = InMemory() if request.param == "memory" else OnDisk(tmp_path / "log")
    yield made
    made.log.close()


def entries(first: int, last: int, *, term: int = 1) -> list[LogEntry]:
    return [LogEntry(LogIndex(index), term, b"command %d" % index) for index in range(first, last + 1)]


def test_new_log_is_empty_and_the_first_entry_has_index_one(setting: Setting) -> None:
    assert setting.log.bounds() == (1, 0)
    assert setting.log.last_term() == 0

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
    assert setting.log.read(LogIndex(1), LogIndex(3), bytes_max=EVERYTHING) == mine
    assert setting.log.read(LogIndex(2), LogIndex(2), bytes_max=EVERYTHING) == mine[1:2]
    assert setting.log.last_term() == 7


def test_largest_entry_is_kept(setting: Setting) -> None:
    largest = LogEntry(LogIndex(1), 1, bytes(LOG_ENTRY_BYTES_MAX))

    setting.log.append([largest])
    setting.reopen()

    assert setting.log.read(LogIndex(1), LogIndex(1), bytes_max=EVERYTHING) == [largest]


def test_appending_nothing_changes_nothing(setting: Setting) -> None:
    setting.log.append(entries(1, 2))

    setting.log.append([])

    assert setting.log.bounds() == (1, 2)


def test_appended_entries_survive_reopening(setting: Setting) -> None:
    setting.log.append(entries(1, 300))

    setting.reopen()

    assert setting.log.bounds() == (1, 300)
    assert setting.log.read(LogIndex(1), LogIndex(300), bytes_max=EVERYTHING) == entries(1, 300)


@pytest.mark.parametrize("through", [1, 5, 9])
def test_compaction_forgets_what_it_names_and_nothing_more(setting: Setting, through: int) -> None:
    # given
    setting.log.append(entries(1, 10))

    # when
    setting.log.compact(LogIndex(through))

    # then
    assert setting.log.bounds() == (through + 1, 10)
    assert setting.log.read(LogIndex(through + 1), LogIndex(10), bytes_max=EVERYTHING) == entries(
        through + 1, 10
    )


def test_log_that_is_compacted_away_still_knows_its_last_index_and_term(setting: Setting) -> None:
    # given
    setting.log.append(entries(1, 10, term=3))
    setting.log.compact(LogIndex(10))

    # when
    setting.reopen()

    # then
    assert setting.log.bounds() == (11, 10)
    assert setting.log.last_term() == 3
    setting.log.append(entries(11, 12, term=3))
    assert setting.log.read(LogIndex(11), LogIndex(12), bytes_max=EVERYTHING) == entries(11, 12, term=3)


def test_compacting_again_below_the_floor_changes_nothing(setting: Setting) -> None:
    setting.log.append(entries(1, 10))
    setting.log.compact(LogIndex(6))

    setting.log.compact(LogIndex(4))
    setting.log.compact(LogIndex(0))

    assert setting.log.bounds() == (7, 10)


def test_damaged_entry_is_refused_and_the_others_are_served(setting: Setting) -> None:
    # given
    setting.log.append(entries(1, 5))

    # when: entries that were just written are still in memory
    setting.damage(3)
    setting.reopen()

    # then
    with pytest.raises(CorruptStoreError):
        setting.log.read(LogIndex(1), LogIndex(5), bytes_max=EVERYTHING)
    assert setting.log.read(LogIndex(1), LogIndex(2), bytes_max=EVERYTHING) == entries(1, 2)
    assert setting.log.read(LogIndex(4), LogIndex(5), bytes_max=EVERYTHING) == entries(4, 5)


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
        setting.log.read(LogIndex(2), LogIndex(3), bytes_max=EVERYTHING)
    with pytest.raises(AssertionError):
        setting.log.read(LogIndex(5), LogIndex(6), bytes_max=EVERYTHING)
    with pytest.raises(AssertionError):
        setting.log.compact(LogIndex(6))


def test_write_takes_the_place_of_everything_from_its_first_entry_on(setting: Setting) -> None:
    # given (Raft §5.3: a follower drops what conflicts, and all that follows it)
    setting.log.write(entries(1, 9), HardState(1, 1))

    # when
    setting.log.write(entries(4, 5, term=2), HardState(2, 3))

    # then
    for _ in range(2):
        assert setting.log.bounds() == (1, 5)
        assert setting.log.read(LogIndex(1), LogIndex(5), bytes_max=EVERYTHING) == [
            *entries(1, 3),
            *entries(4, 5, term=2),
        ]
        assert [setting.log.term(LogIndex(index)) for index in range(6)] == [0, 1, 1, 1, 2, 2]
        setting.reopen()


def test_kinds_of_entries_come_back(setting: Setting) -> None:
    mine = [LogEntry(LogIndex(index), 1, b"x" * index, kind) for index, kind in enumerate((0, 1, 2), start=1)]

    setting.log.write(mine, HardState(1))
    setting.reopen()

    assert setting.log.read(LogIndex(1), LogIndex(3), bytes_max=EVERYTHING) == mine


def test_hard_state_is_kept_with_and_without_entries(setting: Setting) -> None:
    assert setting.log.hard_state() == HardState()

    setting.log.write([], HardState(3, 2))
    setting.reopen()
    assert setting.log.hard_state() == HardState(3, 2)

    setting.log.write(entries(1, 4, term=3), HardState(4, 0, LogIndex(2)))
    setting.reopen()
    assert setting.log.hard_state() == HardState(4, 0, LogIndex(2))

    setting.log.write(entries(5, 5, term=4))
    assert setting.log.hard_state() == HardState(4, 0, LogIndex(2))


def test_commit_index_that_comes_late_changes_nothing(setting: Setting) -> None:
    setting.log.write(entries(1, 4), HardState(1, 1, LogIndex(3)))

    setting.log.write([], HardState(2, 1, LogIndex(1)))

    assert setting.log.hard_state() == HardState(2, 1, LogIndex(3))


@pytest.mark.parametrize(
    ("batch", "hard_state"),
    [
        pytest.param([], HardState(2, 3), id="older-term"),
        pytest.param([], HardState(3, 2), id="second-vote"),
        pytest.param([], HardState(3, 0), id="vote-taken-back"),
        pytest.param([], HardState(3, 1, LogIndex(5)), id="commit-beyond-the-end"),
        pytest.param(entries(2, 2, term=3), None, id="committed-entry-replaced"),
        pytest.param(entries(5, 5, term=4), None, id="entry-of-an-unknown-term"),
    ],
)
def test_what_a_voter_may_not_do_is_our_own_bug_and_leaves_no_trace(
    setting: Setting, batch: list[LogEntry], hard_state: HardState | None
) -> None:
    setting.log.write(entries(1, 4), HardState(3, 1, LogIndex(2)))

    with pytest.raises(AssertionError):
        setting.log.write(batch, hard_state)

    assert setting.log.bounds() == (1, 4)
    assert setting.log.hard_state() == HardState(3, 1, LogIndex(2))


def test_crash_takes_what_was_not_synced_and_nothing_else(setting: Setting) -> None:
    # given
    setting.log.write(entries(1, 5), HardState(1, 1))
    setting.log.sync()

    # when
    setting.log.write(entries(4, 9, term=2), HardState(2, 2))
    setting.log.write(entries(10, 10, term=2))
    setting.crash()

    # then
    assert setting.log.read(LogIndex(1), setting.log.bounds()[1], bytes_max=EVERYTHING) == entries(1, 5)
    assert setting.log.hard_state() == HardState(1, 1)
    setting.log.write(entries(6, 6, term=2), HardState(2, 3))
    setting.log.sync()
    setting.crash()
    assert setting.log.bounds() == (1, 6)
    assert setting.log.hard_state() == HardState(2, 3)


def test_one_sync_serves_all_writes_before_it(setting: Setting) -> None:
    for index in range(1, 21):
        setting.log.write(entries(index, index), HardState(1))
    with ThreadPoolExecutor(4) as pool:
        for waiter in [pool.submit(setting.log.sync) for _ in range(4)]:
            waiter.result()

    setting.crash()

    assert setting.log.bounds() == (1, 20)


def test_after_a_failed_sync_everything_is_refused_for_ever(setting: Setting) -> None:
    # given
    setting.log.write(entries(1, 2), HardState(1))
    setting.log.sync()
    setting.log.write(entries(3, 4))

    # when
    setting.fail_sync()

    # then
    for _ in range(2):
        with pytest.raises(StorageFailure):
            setting.log.sync()
        with pytest.raises(StorageFailure):
            setting.log.write(entries(5, 5))
        with pytest.raises(StorageFailure):
            setting.log.append(entries(5, 5))
        with pytest.raises(StorageFailure):
            setting.log.reset(LogIndex(9), 1)
    assert setting.log.read(LogIndex(1), LogIndex(2), bytes_max=EVERYTHING) == entries(1, 2)


@pytest.mark.parametrize("reopened", [False, True])
def test_read_is_bounded_by_bytes_and_always_gives_one(setting: Setting, reopened: bool) -> None:
    mine = [LogEntry(LogIndex(index), 1, bytes(100)) for index in range(1, 11)]
    setting.log.append(mine)
    if reopened:
        setting.reopen()

    for bytes_max, count in ((0, 1), (100, 1), (299, 2), (300, 3), (10_000, 8)):
        assert setting.log.read(LogIndex(3), LogIndex(10), bytes_max=bytes_max) == mine[2 : 2 + count]
    assert setting.log.read(LogIndex(4), LogIndex(3), bytes_max=100) == []


def test_no_entry_has_the_term_before_the_first_leader(setting: Setting) -> None:
    with pytest.raises(AssertionError, match="terms begin with 1"):
        setting.log.write(entries(1, 1, term=0), HardState())
    assert setting.log.bounds() == (1, 0)


def test_term_is_known_from_the_floor_to_the_end_and_nowhere_else(setting: Setting) -> None:
    setting.log.append([*entries(1, 4, term=2), *entries(5, 8, term=5)])
    setting.log.compact(LogIndex(3))
    for _ in range(2):
        assert [setting.log.term(LogIndex(index)) for index in range(3, 9)] == [2, 2, 5, 5, 5, 5]
        for outside in (2, 9):
            with pytest.raises(AssertionError):
                setting.log.term(LogIndex(outside))
        setting.reopen()


@pytest.mark.parametrize("index", [4, 8, 30])
def test_reset_begins_after_a_snapshot_whatever_was_there(setting: Setting, index: int) -> None:
    # given
    setting.log.write(entries(1, 8), HardState(1, 1, LogIndex(3)))
    setting.log.sync()

    # when
    setting.log.reset(LogIndex(index), 4, HardState(6, 2, LogIndex(index)))
    setting.crash()

    # then
    assert setting.log.bounds() == (index + 1, index)
    assert (setting.log.term(LogIndex(index)), setting.log.last_term()) == (4, 4)
    assert setting.log.hard_state() == HardState(6, 2, LogIndex(index))
    setting.log.write(entries(index + 1, index + 2, term=6))
    setting.log.sync()
    setting.crash()
    assert setting.log.bounds() == (index + 1, index + 2)


def test_reset_without_a_hard_state_knows_the_term_and_keeps_the_vote_of_a_newer(setting: Setting) -> None:
    setting.log.write([], HardState(3, 2))
    setting.log.reset(LogIndex(5), 2)
    assert setting.log.hard_state() == HardState(3, 2, LogIndex(5))

    setting.log.reset(LogIndex(9), 7)
    assert setting.log.hard_state() == HardState(7, 0, LogIndex(9))


def test_reset_never_takes_back_what_is_committed(setting: Setting) -> None:
    setting.log.write(entries(1, 8), HardState(1, 1, LogIndex(5)))

    with pytest.raises(AssertionError, match="committed"):
        setting.log.reset(LogIndex(4), 1)
    setting.log.reset(LogIndex(9), 1)
    with pytest.raises(AssertionError, match="ahead"):
        setting.log.reset(LogIndex(9), 2)


class Twins(RuleBasedStateMachine):
    """The real log and the one in memory never differ, whatever is done to both."""

    folder: ClassVar[Path]

    def __init__(self) -> None:
        super().__init__()
        self.disk = OnDisk(Path(tempfile.mkdtemp(dir=self.folder)) / "log")
        self.memory = InMemory()

    def both(self, act: Callable[[LogStore], None]) -> None:
        for setting in (self.disk, self.memory):
            act(setting.log)

    @rule(
        back=st.integers(0, 3),
        terms=st.lists(st.integers(0, 1), max_size=4),
        data=st.binary(max_size=20),
        vote=st.integers(0, 1),
        commit=st.integers(0, 2),
    )
    def write(self, back: int, terms: list[int], data: bytes, vote: int, commit: int) -> None:
        known, end = self.memory.log.hard_state(), self.memory.log.bounds()[1]
        last = max(end - back, known.commit) if terms else end
        term, batch = self.memory.log.term(LogIndex(last)), []
        for offset, step in enumerate(terms, start=1):
            # The first leader has term 1.
            term = max(1, term + step)
            batch.append(LogEntry(LogIndex(last + offset), term, data, offset % 3))
        term = max(term, known.term)
        hard = HardState(
            term,
            known.vote or vote if term == known.term else vote,
            LogIndex(min(last + len(batch), known.commit + commit)),
        )
        self.both(lambda log: log.write(batch, hard))

    @rule()
    def sync(self) -> None:
        self.both(lambda log: log.sync())

    @rule(share=st.integers(0, 4))
    def compact(self, share: int) -> None:
        first, last = self.memory.log.bounds()
        through = LogIndex(first - 1 + (last - first + 1) * share // 4)
        self.both(lambda log: log.compact(through))

    @rule(ahead=st.integers(0, 5), step=st.integers(0, 1))
    def reset(self, ahead: int, step: int) -> None:
        known = self.memory.log.hard_state()
        index = LogIndex(max(known.commit + ahead, self.memory.log.bounds()[0]))
        self.both(lambda log: log.reset(index, max(1, known.term + step)))

    @rule()
    def reopen(self) -> None:
        self.disk.reopen()
        self.memory.reopen()

    @rule()
    def crash(self) -> None:
        self.disk.crash()
        self.memory.crash()

    @invariant()
    def same(self) -> None:
        first, last = self.memory.log.bounds()
        disk, memory = self.disk.log, self.memory.log
        assert disk.bounds() == (first, last)
        assert disk.last_term() == memory.last_term()
        assert disk.hard_state() == memory.hard_state()
        assert disk.read(first, last, bytes_max=99) == memory.read(first, last, bytes_max=99)
        indexes = [LogIndex(index) for index in range(first - 1, last + 1)]
        assert list(map(disk.term, indexes)) == list(map(memory.term, indexes))

    def teardown(self) -> None:
        self.disk.log.close()


def test_real_log_and_memory_log_agree_on_every_history(tmp_path: Path) -> None:
    class InFolder(Twins):
        folder = tmp_path

    run_state_machine_as_test(
        InFolder, settings=settings(max_examples=20, stateful_step_count=15, deadline=None)
    )
