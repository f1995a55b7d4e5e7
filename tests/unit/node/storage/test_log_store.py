"""What `RocksLogStore` promises beyond the port (`tests/conformance/test_log_store.py`): noticing losses."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from mcr.errors import CorruptStoreError, StoreFormatError
from mcr.model import LogIndex
from mcr_node.ports import LogEntry
from mcr_node.storage.database import Changes, Database
from mcr_node.storage.disk import StorageFailure
from mcr_node.storage.log_store import RocksLogStore
from tests.faults_database import CrashPoint, Faults, FaultyDatabase, image_of

IDENTITY = b"i" * 16


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


def test_bytes_on_disk_are_those_of_format_one(tmp_path: Path) -> None:
    log = RocksLogStore.open(tmp_path / "log", IDENTITY)
    log.append([LogEntry(LogIndex(1), 2, b"first"), LogEntry(LogIndex(2), 3, b"second")])
    log.compact(LogIndex(1))
    log.close()

    database = Database.open(tmp_path / "log")
    rows = {key: value.hex() for key, value in database.scan(b"", b"\xff")}
    database.close()

    # Golden: every byte ever written stays readable, so these lines are never edited. The four bytes after
    # the format are the CRC-32 of index, term and data (or key), computed apart from this code.
    assert rows == {
        key_of(2): "01369aaa260000000000000003" + b"second".hex(),
        b"floor": "01e9a4a4c500000000000000010000000000000002",
        b"identity": IDENTITY.hex(),
        b"last": "0143b622aa00000000000000020000000000000003",
    }


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


def test_deleted_write_ahead_log_is_noticed(tmp_path: Path) -> None:
    # given: everything is still in the write-ahead log
    path = tmp_path / "log"
    faults = Faults(fail_at=3)
    log = RocksLogStore.open(path, IDENTITY, open_database=FaultyDatabase.opener(faults))
    log.append(entries(1, 5))
    image = image_of(path, faults.synced_wal_bytes, tmp_path / "image")
    log.close()

    # when
    for wal in image.glob("*.log"):
        wal.unlink()

    # then
    with pytest.raises(CorruptStoreError, match="the log ends at 0, but the state has applied 5"):
        RocksLogStore.open(image, IDENTITY, last_at_least=5)


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
    assert log.read(LogIndex(5), LogIndex(8)) == entries(5, 8)
    with pytest.raises(CorruptStoreError, match="entries 3 to 5 are not all held"):
        log.read(LogIndex(3), LogIndex(5))
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
    replace(key, lambda value: b"\x02" + value[1:])(path)

    with pytest.raises(StoreFormatError) as caught:
        RocksLogStore.open(path, IDENTITY)

    assert (caught.value.found, caught.value.supported) == (2, 1)


def test_append_whose_sync_fails_is_not_counted(tmp_path: Path) -> None:
    # given
    log = RocksLogStore.open(tmp_path / "log", IDENTITY)
    log.append(entries(1, 2))

    class Refusing:
        def __init__(self, rdict: object) -> None:
            self._rdict = rdict

        def __getattr__(self, name: str) -> object:
            return getattr(self._rdict, name)

        def flush_wal(self, _: bool) -> None:
            raise OSError("IO error: Input/output error")

    vars(log._database)["_rdict"] = Refusing(log._database._rdict)

    # when
    with pytest.raises(StorageFailure):
        log.append(entries(3, 4))

    # then
    assert log.bounds() == (1, 2)
    with pytest.raises(StorageFailure):
        log.append(entries(3, 3))
    log.close()


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
        assert survivor.read(first_held, last) == entries(first_held, last)
        survivor.append(entries(last + 1, last + 1))
        survivor.close()
    assert crashes == 14
