"""What `Database` promises beyond the traps it avoids (`test_rocksdict_traps.py`)."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcr.errors import CorruptStoreError, FailedError, OutOfSpaceError
from mcr_node.storage.database import Database
from mcr_node.storage.disk import StorageFailure
from tests.faults_database import CrashPoint, Faults, FaultyDatabase, image_of

ALL = (b"", b"\xff" * 9)
NO_SPACE = "IO error: No space left on device: While appending to file: 000004.log"
UNREADABLE = "IO error: While fdatasync: 000004.log: Input/output error"


class Meddling:
    """The binding, but for one method."""

    def __init__(self, database: Database, name: str, instead: Callable[..., object]) -> None:
        self._rdict = database._rdict
        self._name = name
        self._instead = instead
        self.calls = 0
        vars(database)["_rdict"] = self

    def __getattr__(self, name: str) -> object:
        if name != self._name:
            return getattr(self._rdict, name)
        self.calls += 1
        return self._instead


class BindingError(Exception):
    """As untyped as what the binding raises."""


def fails_with(message: str) -> Callable[..., object]:
    def fail(*_: object) -> object:
        raise BindingError(message)

    return fail


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database.open(tmp_path / "db")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    opened = Database.open(tmp_path_factory.mktemp("shared") / "db")
    yield opened
    opened.close()


# Reading and writing


def test_batch_is_applied_in_its_order_and_read_back(database: Database) -> None:
    database.write([(b"a", b"1"), (b"b", b""), (b"a", b"2"), (b"c", b"3"), (b"c", None), (b"never", None)])
    database.write([])

    assert database.get(b"a") == b"2"
    assert database.get(b"c") is None
    assert database.get_many([b"c", b"b", b"a", b"a"]) == [None, b"", b"2", b"2"]
    assert database.get_many([]) == []


def test_batch_with_anything_but_bytes_is_our_own_bug_and_leaves_no_trace(database: Database) -> None:
    with pytest.raises(ValueError, match="bytes"):
        database.write([(b"a", b"1"), (b"b", cast("bytes", bytearray(b"2")))])

    assert list(database.scan(*ALL)) == []
    database.write([(b"a", b"1")])
    database.sync()


@given(
    rows=st.dictionaries(st.binary(min_size=1, max_size=3), st.binary(max_size=3), max_size=12),
    start=st.binary(max_size=3),
    end=st.binary(max_size=3),
)
@settings(max_examples=60, deadline=None)
def test_scan_gives_the_rows_between_its_bounds_in_either_order(
    shared: Database, rows: dict[bytes, bytes], start: bytes, end: bytes
) -> None:
    shared.delete_range(*ALL)
    shared.write(list(rows.items()))
    inside = sorted((key, value) for key, value in rows.items() if start <= key < end)

    assert list(shared.scan(start, end)) == inside
    assert list(shared.scan(start, end, reverse=True)) == inside[::-1]
    shared.delete_range(start, end)
    assert list(shared.scan(*ALL)) == sorted(rows.items() - inside)


def test_scan_that_ended_stays_ended_even_after_close(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "db")
    scan = database.scan(*ALL)

    assert next(scan, None) is None
    database.close()

    assert next(scan, None) is None


# Opening and closing


def test_rows_survive_closing_and_a_second_close_is_nothing(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "folder" / "db")
    database.write([(b"a", b"1")])
    database.close()
    database.close()

    database = Database.open(tmp_path / "folder" / "db")

    assert database.get(b"a") == b"1"
    database.close()


def test_using_a_closed_database_is_our_own_bug(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "db")
    database.close()

    for use in (
        lambda: database.get(b"a"),
        lambda: database.get_many([b"a"]),
        lambda: database.write([]),
        lambda: database.scan(*ALL),
        database.sync,
    ):
        with pytest.raises(AssertionError, match="after close"):
            use()


def test_new_database_holds_its_founding_rows_and_an_old_one_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "db").mkdir()
    database = Database.open(tmp_path / "db", founding=[(b"owner", b"first")])
    assert database.get(b"owner") == b"first"
    database.close()

    database = Database.open(tmp_path / "db", founding=[(b"owner", b"second")])

    assert database.get(b"owner") == b"first"
    database.close()


def test_creation_that_was_cut_short_is_begun_anew(tmp_path: Path) -> None:
    draft = tmp_path / "db.creating"
    draft.mkdir()
    (draft / "MANIFEST-000001").write_bytes(b"half")

    Database.open(tmp_path / "db").close()

    assert [path.name for path in tmp_path.iterdir()] == ["db"]


def test_what_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"text")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_bytes(b"text")

    for name in ("file", "folder"):
        with pytest.raises(CorruptStoreError, match="not a database"):
            Database.open(tmp_path / name)
    with pytest.raises(FailedError, match="exists"):
        Database.open(tmp_path / "file" / "below")

    assert (tmp_path / "file").read_bytes() == b"text"
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["notes.txt"]


def test_session_that_only_reads_costs_no_sync(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "db")
    meddling = Meddling(database, "flush_wal", lambda _: None)

    database.get(b"a")
    database.close()

    assert meddling.calls == 0


def test_diary_and_lists_of_the_engine_do_not_pile_up(tmp_path: Path) -> None:
    for number in range(12):
        database = Database.open(tmp_path / "db")
        database.write([(b"a", b"%d" % number), (b"z", b"")])
        database.close()

    names = [path.name for path in (tmp_path / "db").iterdir()]

    for prefix in ("LOG", "MANIFEST", "OPTIONS"):
        assert sum(name.startswith(prefix) for name in names) <= 2


def test_checkpoint_is_a_database_of_its_own(tmp_path: Path, database: Database) -> None:
    # given
    database.write([(b"a", b"1")])

    # when
    database.checkpoint(tmp_path / "copy")
    database.write([(b"a", b"2")])

    # then
    copy = Database.open(tmp_path / "copy")
    assert copy.get(b"a") == b"1"
    copy.write([(b"a", b"3")])
    copy.close()
    assert database.get(b"a") == b"2"
    with pytest.raises(FailedError, match="exists"):
        database.checkpoint(tmp_path / "copy")


# Failing media


@pytest.mark.parametrize(
    ("message", "raised"),
    [(NO_SPACE, OutOfSpaceError), (UNREADABLE, StorageFailure), ("Corruption: block", CorruptStoreError)],
)
def test_first_failed_write_is_the_last_and_reads_go_on(
    database: Database, message: str, raised: type[Exception]
) -> None:
    # given
    database.write([(b"a", b"1")])
    meddling = Meddling(database, "write", fails_with(message))

    # when
    with pytest.raises(raised):
        database.write([(b"b", b"2")])

    # then
    with pytest.raises(raised):
        database.write([(b"c", b"3")])
    with pytest.raises(raised):
        database.delete_range(b"a", b"b")
    with pytest.raises(raised):
        database.sync()
    assert meddling.calls == 1
    assert database.get(b"a") == b"1"


@pytest.mark.parametrize("message", [UNREADABLE, NO_SPACE, "Corruption: block"])
def test_failed_sync_is_never_tried_again(database: Database, message: str) -> None:
    # given
    meddling = Meddling(database, "flush_wal", fails_with(message))
    database.write([(b"a", b"1")])

    # when
    with pytest.raises(StorageFailure):
        database.sync()

    # then
    with pytest.raises(StorageFailure):
        database.sync()
    with pytest.raises(StorageFailure):
        database.write([(b"b", b"2")])
    database.close()
    assert meddling.calls == 1


def test_failed_sync_at_close_is_told_and_the_files_are_free(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "db")
    Meddling(database, "flush_wal", fails_with(UNREADABLE))
    database.write([(b"a", b"1")])

    with pytest.raises(StorageFailure):
        database.close()

    Database.open(tmp_path / "db").close()


def test_failure_to_close_is_told(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "db")
    Meddling(database, "close", fails_with("Busy: something"))

    with pytest.raises(FailedError, match="Busy"):
        database.close()


@pytest.mark.parametrize(
    ("message", "raised"),
    [
        ("Corruption: block checksum mismatch", CorruptStoreError),
        ("IO error: While pread: 000009.sst: Input/output error", CorruptStoreError),
        ("IO error: No such file or directory: While open a file: 000009.sst", CorruptStoreError),
        ("IO error: While open a file: Too many open files", FailedError),
    ],
)
def test_failed_read_says_whether_the_data_is_damaged(
    database: Database, message: str, raised: type[Exception]
) -> None:
    Meddling(database, "get", fails_with(message))

    with pytest.raises(raised):
        database.get(b"a")
    with pytest.raises(raised):
        database.get_many([b"a"])

    # A failed read says nothing about writes.
    database.write([(b"a", b"1")])
    database.sync()


# Threads


class Gate:
    """A sync that lasts until the test lets it end."""

    def __init__(self, database: Database) -> None:
        self.begun = threading.Semaphore(0)
        self._may_end = threading.Semaphore(0)
        self._real = database._opened().flush_wal
        self.meddling = Meddling(database, "flush_wal", self._flush_wal)

    def _flush_wal(self, sync: bool) -> None:
        self.begun.release()
        self._may_end.acquire()
        self._real(sync)

    def open(self) -> None:
        self._may_end.release(100)


def test_threads_write_sync_and_read_side_by_side(database: Database) -> None:
    def commit(number: int) -> list[bytes | None]:
        database.write([(b"%d" % number, b"x")])
        database.sync()
        return database.get_many([b"%d" % number])

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(commit, range(40)))

    assert found == [[b"x"]] * 40
    assert len(list(database.scan(*ALL))) == 40


def test_write_that_fails_during_a_sync_leaves_nobody_reassured(database: Database) -> None:
    # given
    gate = Gate(database)
    database.write([(b"a", b"1")])
    with ThreadPoolExecutor(1) as threads:
        syncing = threads.submit(database.sync)
        gate.begun.acquire()

        # when
        Meddling(database, "write", fails_with(NO_SPACE))
        with pytest.raises(OutOfSpaceError):
            database.write([(b"b", b"2")])
        gate.open()

        # then
        with pytest.raises(OutOfSpaceError):
            syncing.result()


def test_close_waits_for_a_sync_that_runs(tmp_path: Path) -> None:
    # given
    database = Database.open(tmp_path / "db")
    gate = Gate(database)
    database.write([(b"a", b"1")])
    with ThreadPoolExecutor(2) as threads:
        syncing = threads.submit(database.sync)
        gate.begun.acquire()

        # when
        closing = threads.submit(database.close)
        gate.open()

        # then
        syncing.result()
        closing.result()
    assert gate.meddling.calls == 1
    Database.open(tmp_path / "db").close()


# Power loss


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("unsynced_bytes_kept", [0, 23, 10_000])
def test_power_loss_at_any_step_keeps_what_was_synced_and_no_half_batch(
    tmp_path: Path, when: Literal["before", "after"], unsynced_bytes_kept: int
) -> None:
    crashes = 0
    for fail_at in range(1, 12):
        path = tmp_path / str(fail_at)
        faults = Faults(fail_at=fail_at, when=when)
        database = FaultyDatabase.opener(faults)(path, founding=[(b"owner", b"me")])
        acknowledged = 0

        # given
        try:
            for batch in range(5):
                database.write([(b"%d-%d" % (batch, row), b"") for row in range(3)])
                database.sync()
                acknowledged += 1
        except CrashPoint:
            crashes += 1

        # when
        image = image_of(
            path,
            faults.synced_wal_bytes,
            tmp_path / f"image-{fail_at}",
            unsynced_bytes_kept=unsynced_bytes_kept,
        )
        database.close()

        # then
        survivor = Database.open(image)
        keys = [key for key, _ in survivor.scan(b"0", b"9")]
        assert keys == [b"%d-%d" % (batch, row) for batch in range(len(keys) // 3) for row in range(3)]
        assert len(keys) // 3 in (acknowledged, acknowledged + 1)
        assert survivor.get(b"owner") == b"me"
        survivor.close()
    assert crashes == 10
