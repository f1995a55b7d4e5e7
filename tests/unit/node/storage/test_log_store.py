"""What `RocksLogStore` promises beyond the port (`tests/conformance/test_log_store.py`): noticing losses."""

import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from mcr.errors import CorruptStoreError, StoreFormatError
from mcr.model import LogIndex
from mcr_node.ports import HardState, LogEntry
from mcr_node.storage import log_store, log_tail
from mcr_node.storage.database import Changes, Database
from mcr_node.storage.disk import Disk
from mcr_node.storage.log_mark import LogMark, mark_path, write_mark
from mcr_node.storage.log_store import RocksLogStore
from tests.faults_database import CrashPoint, Faults, FaultyDatabase, image_of

IDENTITY = b"i" * 16
EVERYTHING = 2**40


def entries(first: int, last: int, *, term: int = 1) -> list[LogEntry]:
    return [LogEntry(LogIndex(index), term, b"command %d" % index) for index in range(first, last + 1)]


def log_of(path: Path, count: int, *, compacted: int = 0) -> Path:
    log = RocksLogStore.open(path, IDENTITY)
    log.append(entries(1, count))
    log.compact(LogIndex(compacted))
    log.close()
    return path


def change(path: Path, changes: Changes) -> None:
    database = Database.open(path)
    database.write(changes)
    database.close()


def value_of(path: Path, key: bytes) -> bytes:
    database = Database.open(path)
    value = database.get(key)
    database.close()
    assert value is not None
    return value


def key_of(index: int) -> bytes:
    return b"entry" + struct.pack(">Q", index)


# Golden: every byte ever written stays readable, so these lines are never edited. The four bytes after the
# format are the CRC-32 of index, term and data (or key), computed apart from this code.
ROWS_OF_FORMAT_ONE = {
    key_of(2): "01369aaa260000000000000003" + b"second".hex(),
    b"floor": "01e9a4a4c500000000000000010000000000000002",
    b"identity": IDENTITY.hex(),
    b"last": "0143b622aa00000000000000020000000000000003",
}


def test_log_of_format_one_is_read_and_continued(tmp_path: Path) -> None:
    # given: the log of a single voter, whose entries were committed as soon as they were synced
    path = tmp_path / "log"
    Database.open(
        path, founding=[(key, bytes.fromhex(value)) for key, value in ROWS_OF_FORMAT_ONE.items()]
    ).close()

    # when
    log = RocksLogStore.open(path, IDENTITY, last_at_least=1)

    # then
    assert log.bounds() == (2, 2)
    assert log.hard_state() == HardState(3, 0, LogIndex(2))
    assert log.read(LogIndex(2), LogIndex(2), bytes_max=99) == [LogEntry(LogIndex(2), 3, b"second")]
    assert log.term(LogIndex(1)) == 2
    log.write([LogEntry(LogIndex(3), 4, b"third", 1)], HardState(4, 1, LogIndex(2)))
    log.close()
    again = RocksLogStore.open(path, IDENTITY)
    assert [entry.data for entry in again.read(LogIndex(2), LogIndex(3), bytes_max=99)] == [
        b"second",
        b"third",
    ]
    again.close()
    mark_path(path).unlink()
    with pytest.raises(CorruptStoreError, match="mark"):
        RocksLogStore.open(path, IDENTITY)


def test_bytes_on_disk_are_those_of_format_two(tmp_path: Path) -> None:
    log = RocksLogStore.open(tmp_path / "log", IDENTITY)
    log.write([LogEntry(LogIndex(1), 2, b"first"), LogEntry(LogIndex(2), 3, b"second", 2)], HardState(3, 7))
    log.compact(LogIndex(1))
    log.close()

    database = Database.open(tmp_path / "log")
    rows = {key: value.hex() for key, value in database.scan(b"", b"\xff")}
    database.close()

    # Golden, as above.
    assert rows == {
        key_of(2): "02" + "ebcda727" + "0000000000000003" + "02" + b"second".hex(),
        b"floor": "02" + "e9a4a4c5" + "0000000000000001" + "0000000000000002",
        b"guarded": "",
        b"hard": "02" + "5b2c1a2c" + "0000000000000003" + "0000000000000007" + "0000000000000001",
        b"identity": IDENTITY.hex(),
        b"last": "02" + "43b622aa" + "0000000000000002" + "0000000000000003",
    }
    assert mark_path(tmp_path / "log").read_bytes() == (
        b"mcr log\n"
        + bytes.fromhex("01" + "645fc0cc")
        + bytes.fromhex("0000000000000002" + "0000000000000003" + "0000000000000003" + "0000000000000007")
        + IDENTITY
    )


def test_another_stores_log_is_refused(tmp_path: Path) -> None:
    log_of(tmp_path / "log", 3)

    with pytest.raises(CorruptStoreError, match="another store"):
        RocksLogStore.open(tmp_path / "log", b"j" * 16)


def test_log_that_ends_before_what_the_state_has_applied_is_refused(tmp_path: Path) -> None:
    log_of(tmp_path / "log", 5)

    with pytest.raises(CorruptStoreError, match="the log ends at 5, but the state has applied 9"):
        RocksLogStore.open(tmp_path / "log", IDENTITY, last_at_least=9)


def test_new_log_beside_a_state_that_has_applied_something_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptStoreError, match="the log ends at 0, but the state has applied 2"):
        RocksLogStore.open(tmp_path / "log", IDENTITY, last_at_least=2)


def test_log_that_was_compacted_beyond_what_is_asked_for_is_complete(tmp_path: Path) -> None:
    log_of(tmp_path / "log", 5, compacted=5)

    log = RocksLogStore.open(tmp_path / "log", IDENTITY, last_at_least=5)

    assert log.bounds() == (6, 5)
    log.close()


def crashed(path: Path, sessions: int, work: Callable[[RocksLogStore], None]) -> Path:
    """Return the log as power loss leaves it after `work`, which follows sessions of ten entries each."""
    for session in range(sessions):
        log = RocksLogStore.open(path, IDENTITY)
        log.append(entries(10 * session + 1, 10 * session + 10))
        log.close()
    faults = Faults()
    log = RocksLogStore.open(path, IDENTITY, open_database=FaultyDatabase.opener(faults))
    work(log)
    image = image_of(path, faults.synced_wal_bytes, path.with_name("image"))
    log.close()
    return image


def cut_wals(path: Path) -> None:
    for wal in path.glob("*.log"):
        wal.write_bytes(b"")


def remove_wals(path: Path) -> None:
    for wal in path.glob("*.log"):
        wal.unlink()


@pytest.mark.parametrize("sessions", [0, 3])
def test_deleted_write_ahead_log_is_refused(tmp_path: Path, sessions: int) -> None:
    # given: tables hold what earlier sessions wrote, the write-ahead log what this one did
    image = crashed(tmp_path / "log", sessions, lambda log: log.append(entries(10 * sessions + 1, 99)))

    # when
    remove_wals(image)

    # then
    with pytest.raises(CorruptStoreError, match="write-ahead log is gone"):
        RocksLogStore.open(image, IDENTITY)


def test_write_ahead_log_that_was_cut_behind_what_the_state_applied_is_refused(tmp_path: Path) -> None:
    image = crashed(tmp_path / "log", 1, lambda log: log.append(entries(11, 15)))

    cut_wals(image)

    with pytest.raises(CorruptStoreError, match="the log ends at 10, but the state has applied 15"):
        RocksLogStore.open(image, IDENTITY, last_at_least=15)


def test_lost_vote_is_refused_even_if_nothing_else_was_written(tmp_path: Path) -> None:
    # given: a voter that answered as soon as its vote was synced
    def vote(log: RocksLogStore) -> None:
        log.write([], HardState(2, 3))
        log.sync()

    image = crashed(tmp_path / "log", 1, vote)

    # when
    cut_wals(image)

    # then
    with pytest.raises(CorruptStoreError, match="it once reached 10 and term 2"):
        RocksLogStore.open(image, IDENTITY)


def test_lost_entries_are_refused_from_the_mark_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_store, "MARK_ENTRIES", 5)
    image = crashed(tmp_path / "log", 1, lambda log: log.append(entries(11, 16)))

    cut_wals(image)

    with pytest.raises(CorruptStoreError, match="it once reached 16"):
        RocksLogStore.open(image, IDENTITY)


def test_mark_never_leads_a_log_that_was_truncated(tmp_path: Path) -> None:
    # given: closed at entry 10, so marked there
    def truncate(log: RocksLogStore) -> None:
        log.write(entries(10, 10, term=2), HardState(2, 1))
        log.sync()

    log = RocksLogStore.open(tmp_path / "log", IDENTITY)
    log.write(entries(1, 13), HardState(1))
    log.close()

    # when
    image = crashed(tmp_path / "log", 0, truncate)

    # then
    log = RocksLogStore.open(image, IDENTITY)
    assert (log.bounds(), log.last_term()) == ((1, 10), 2)
    log.close()


def test_log_whose_folder_is_gone_is_refused(tmp_path: Path) -> None:
    log_of(tmp_path / "log", 5)
    shutil.rmtree(tmp_path / "log")

    with pytest.raises(CorruptStoreError, match="the log is gone; it reached 5"):
        RocksLogStore.open(tmp_path / "log", IDENTITY)


def cut_mark(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


def flip_mark(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-20] + bytes((data[-20] ^ 1,)) + data[-19:])


@pytest.mark.parametrize("damage", [Path.unlink, cut_mark, flip_mark])
def test_log_without_its_mark_is_refused(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    log_of(tmp_path / "log", 5)

    damage(mark_path(tmp_path / "log"))

    with pytest.raises(CorruptStoreError, match="mark"):
        RocksLogStore.open(tmp_path / "log", IDENTITY)


def test_mark_of_another_store_or_a_newer_release_is_refused(tmp_path: Path) -> None:
    mark = mark_path(log_of(tmp_path / "log", 5))
    data = mark.read_bytes()

    mark.write_bytes(data[:8] + b"\x02" + data[9:])
    with pytest.raises(StoreFormatError):
        RocksLogStore.open(tmp_path / "log", IDENTITY)

    write_mark(Disk(), tmp_path / "log", b"j" * 16, LogMark(LogIndex(5), 1, 1))
    with pytest.raises(CorruptStoreError, match="another store"):
        RocksLogStore.open(tmp_path / "log", IDENTITY)


def test_log_that_has_the_last_entry_of_an_installed_snapshot_keeps_what_follows(tmp_path: Path) -> None:
    """Raft §7: what this node acknowledged stays, whatever took the place of its state."""
    log_of(tmp_path / "log", 30)
    for term, last in ((1, 30), (2, 20)):
        installed = (LogIndex(20), term)
        log = RocksLogStore.open(tmp_path / "log", IDENTITY, last_at_least=20, installed=installed)
        # Under another term it is another entry, and so is all that follows it.
        assert log.bounds() == ((1, 30) if term == 1 else (21, last))
        log.close()


def test_log_from_before_the_snapshot_that_was_installed_is_reset_to_it(tmp_path: Path) -> None:
    # given: the crash came after the state was replaced, before the log was
    log = RocksLogStore.open(tmp_path / "log", IDENTITY)
    log.write(entries(1, 40, term=2), HardState(5, 3, LogIndex(7)))
    log.close()

    # when
    log = RocksLogStore.open(tmp_path / "log", IDENTITY, last_at_least=20, installed=(LogIndex(20), 4))

    # then
    assert log.bounds() == (21, 20)
    assert log.hard_state() == HardState(5, 3, LogIndex(20))
    log.write(entries(21, 25, term=5))
    log.close()
    log = RocksLogStore.open(tmp_path / "log", IDENTITY, last_at_least=20, installed=(LogIndex(20), 4))
    assert log.bounds() == (21, 25)
    log.close()


def test_recent_entries_are_read_from_memory_and_older_ones_from_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    log = RocksLogStore.open(tmp_path / "log", IDENTITY)
    log._tail = log_tail.LogTail(LogIndex(1), bytes_max=100_000)
    for index in range(1, 201):
        log.write([LogEntry(LogIndex(index), 1, bytes(1000))], HardState(1))

    def refuse(*_: object) -> None:
        raise AssertionError("read from disk")

    # then
    assert len(log.read(LogIndex(1), LogIndex(200), bytes_max=EVERYTHING)) == 200
    monkeypatch.setattr(log, "_read_rows", refuse)
    assert len(log.read(LogIndex(150), LogIndex(200), bytes_max=EVERYTHING)) == 51
    assert log.term(LogIndex(150)) == 1
    with pytest.raises(AssertionError, match="from disk"):
        log.read(LogIndex(100), LogIndex(200), bytes_max=EVERYTHING)
    log.close()


def test_folder_without_identity_is_refused(tmp_path: Path) -> None:
    Database.open(tmp_path / "log").close()

    with pytest.raises(CorruptStoreError, match="no identity"):
        RocksLogStore.open(tmp_path / "log", IDENTITY)


def drop(index: int) -> Callable[[Path], None]:
    return lambda path: change(path, [(key_of(index), None)])


def replace(key: bytes, new: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda path: change(path, [(key, new(value_of(path, key)))])


DAMAGE = {
    "first entry gone": drop(3),
    "middle entry gone": drop(5),
    "last entry gone": drop(8),
    "entry beyond the last": lambda path: change(path, [(key_of(9), value_of(path, key_of(8)))]),
    "flipped bit": replace(key_of(6), lambda value: value[:-1] + bytes((value[-1] ^ 1,))),
    "cut off": replace(key_of(6), lambda value: value[:5]),
    "empty": replace(key_of(6), lambda _: b""),
    "format that never was": replace(key_of(6), lambda value: b"\0" + value[1:]),
    "entry in another's place": lambda path: change(path, [(key_of(6), value_of(path, key_of(5)))]),
    "damaged floor": replace(b"floor", lambda value: value[:-1] + b"\x09"),
    "damaged last": replace(b"last", lambda value: value[:-1] + b"\x09"),
    "floor cut off": replace(b"floor", lambda value: value[:-1]),
    "floor gone": lambda path: change(path, [(b"floor", None)]),
    "last gone": lambda path: change(path, [(b"last", None)]),
    "key of another shape": lambda path: change(path, [(key_of(6) + b"x", value_of(path, key_of(6)))]),
}


@pytest.mark.parametrize("damage", list(DAMAGE.values()), ids=list(DAMAGE))
def test_damage_to_what_has_yet_to_be_applied_is_refused_at_open(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    path = log_of(tmp_path / "log", 8, compacted=2)

    damage(path)

    with pytest.raises(CorruptStoreError):
        RocksLogStore.open(path, IDENTITY, last_at_least=2)
    # The refused database is closed again.
    Database.open(path).close()


def test_damage_to_what_was_applied_is_found_by_reading_and_by_verifying(tmp_path: Path) -> None:
    # given
    path = log_of(tmp_path / "log", 8)
    drop(4)(path)

    # when
    log = RocksLogStore.open(path, IDENTITY, last_at_least=8)

    # then
    assert log.read(LogIndex(5), LogIndex(8), bytes_max=EVERYTHING) == entries(5, 8)
    with pytest.raises(CorruptStoreError, match="entries 3 to 5 are not all held"):
        log.read(LogIndex(3), LogIndex(5), bytes_max=EVERYTHING)
    with pytest.raises(CorruptStoreError, match="entry 5 of term 1 follows 3 of 1"):
        log.verify()
    log.close()


def test_sound_log_verifies(tmp_path: Path) -> None:
    log = RocksLogStore.open(log_of(tmp_path / "log", 8, compacted=3), IDENTITY)

    assert log.verify() == 5

    log.close()


@pytest.mark.parametrize("key", [b"floor", b"last", key_of(5)])
def test_record_of_a_newer_release_is_refused_as_such(tmp_path: Path, key: bytes) -> None:
    path = log_of(tmp_path / "log", 8, compacted=2)
    replace(key, lambda value: b"\x03" + value[1:])(path)

    with pytest.raises(StoreFormatError) as caught:
        RocksLogStore.open(path, IDENTITY)

    assert (caught.value.found, caught.value.supported) == (3, 2)


def test_many_short_sessions_leave_few_files(tmp_path: Path) -> None:
    for index in range(1, 31):
        log = RocksLogStore.open(tmp_path / "log", IDENTITY)
        log.append(entries(index, index))
        log.close()

    assert len(list((tmp_path / "log").glob("*.sst"))) < 20


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("unsynced_bytes_kept", [0, 40, 10_000])
def test_power_loss_at_any_step_keeps_every_acknowledged_entry(
    tmp_path: Path, when: Literal["before", "after"], unsynced_bytes_kept: int
) -> None:
    crashes = 0
    for fail_at in range(1, 15):
        # given
        faults = Faults(fail_at=fail_at, when=when)
        path = tmp_path / str(fail_at)
        log = RocksLogStore.open(path, IDENTITY, open_database=FaultyDatabase.opener(faults))
        acknowledged = LogIndex(0)
        try:
            for first in (1, 4, 7, 10):
                log.append(entries(first, first + 2))
                acknowledged = LogIndex(first + 2)
                if first > 4:
                    log.compact(LogIndex(first - 2))
        except CrashPoint:
            crashes += 1

        # when
        image = image_of(
            path,
            faults.synced_wal_bytes,
            tmp_path / f"image-{fail_at}",
            unsynced_bytes_kept=unsynced_bytes_kept,
        )
        log.close()

        # then
        survivor = RocksLogStore.open(image, IDENTITY, last_at_least=acknowledged)
        first_held, last = survivor.bounds()
        assert last in (acknowledged, acknowledged + 3)
        assert survivor.read(first_held, last, bytes_max=EVERYTHING) == entries(first_held, last)
        survivor.append(entries(last + 1, last + 1))
        survivor.close()
    assert crashes > 10
