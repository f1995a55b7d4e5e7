"""Each trap of RocksDB and its binding: shown on the bare binding, then our way around it.

When a test of the bare binding fails, a trap is gone and its guard in `storage.database` may go too.
"""

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rocksdict import DBRecoveryMode, Options, Rdict, WriteBatch

from mcr.errors import CorruptStoreError, FailedError, OutOfSpaceError, StoreBusyError
from mcr.model import MIB
from mcr_node.storage.database import Database

ROWS = 2000
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")


def options(*, strict_wal: bool = False) -> Options:
    made = Options(raw_mode=True)
    made.create_if_missing(True)
    if strict_wal:
        made.set_wal_recovery_mode(DBRecoveryMode.tolerate_corrupted_tail_records())
    return made


def key(number: int) -> bytes:
    return number.to_bytes(8, "big")


def value(number: int) -> bytes:
    # Does not compress, so that a flipped bit hits a row and nothing else.
    return b"".join((number * 1000 + part).to_bytes(3, "little") * 7 for part in range(40))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def only(path: Path, pattern: str) -> Path:
    """Return the largest file of a kind."""
    return max(path.glob(pattern), key=lambda file: file.stat().st_size)


def with_damaged_table(path: Path) -> Path:
    """Make a database whose rows are in one table, a bit of which is flipped."""
    rdict = Rdict(str(path), options())
    batch = WriteBatch(raw_mode=True)
    for number in range(ROWS):
        batch.put(key(number), value(number))
    rdict.write(batch)
    rdict.flush()
    rdict.close()
    table = only(path, "*.sst")
    flip(table, table.stat().st_size // 2)
    return path


def killed_after(path: Path, statements: str) -> Path:
    """Run statements on an open `Database` in a process that ends without closing it."""
    program = f"""
import os
from pathlib import Path
from mcr_node.storage.database import Database
database = Database.open(Path({str(path)!r}))
{statements}
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    return path


def with_synced_rows_in_the_wal(path: Path) -> Path:
    return killed_after(
        path,
        "for number in range(1000):\n"
        "    database.write([(number.to_bytes(8, 'big'), b'value' * 20)])\n"
        "database.sync()",
    )


# Trap: a reader ends at a damaged block as if the data ended there.


def test_bare_iteration_over_a_damaged_block_ends_without_a_word(tmp_path: Path) -> None:
    rdict = Rdict(str(with_damaged_table(tmp_path / "db")), options())

    assert 0 < sum(1 for _ in rdict.items()) < ROWS

    rdict.close()


@pytest.mark.parametrize("reverse", [False, True])
def test_scan_over_a_damaged_block_raises_after_the_sound_rows(tmp_path: Path, reverse: bool) -> None:
    # given
    database = Database.open(with_damaged_table(tmp_path / "db"))
    found: list[bytes] = []

    # when
    with pytest.raises(CorruptStoreError, match="checksum"):
        found.extend(row_key for row_key, _ in database.scan(b"", b"\xff", reverse=reverse))

    # then
    assert 0 < len(found) < ROWS
    assert found == sorted(found, reverse=reverse)
    database.close()


def test_reading_a_row_of_a_damaged_block_raises_and_others_are_served(tmp_path: Path) -> None:
    database = Database.open(with_damaged_table(tmp_path / "db"))
    keys = [key(number) for number in range(ROWS)]
    damaged = []

    for row_key in keys:
        try:
            assert database.get(row_key) == value(int.from_bytes(row_key, "big"))
        except CorruptStoreError:
            damaged.append(row_key)

    assert 0 < len(damaged) < 50
    with pytest.raises(CorruptStoreError):
        database.get_many(damaged[:1])
    database.close()


def test_damage_found_by_a_scan_does_not_keep_the_database_locked(tmp_path: Path) -> None:
    # given
    path = with_damaged_table(tmp_path / "db")
    database = Database.open(path)

    # when the exception, and with it every frame it passed, is still held
    with pytest.raises(CorruptStoreError) as caught:
        list(database.scan(b"", b"\xff"))
    database.close()

    # then
    Database.open(path).close()
    assert caught.value.exit_status == 13


# Trap: a snapshot is not what its iterators read.


def test_bare_snapshot_iterates_over_the_live_data(tmp_path: Path) -> None:
    rdict = Rdict(str(tmp_path / "db"), options())
    rdict[b"a"] = b"1"
    snapshot = rdict.snapshot()
    del rdict[b"a"]

    assert snapshot[b"a"] == b"1"
    assert list(snapshot.items()) == []

    del snapshot
    rdict.close()


def test_scan_sees_the_database_as_it_was_when_it_was_asked_for(tmp_path: Path) -> None:
    # given
    database = Database.open(tmp_path / "db")
    before = [(key(number), value(number)) for number in range(100)]
    database.write(before)

    # when
    scan = database.scan(b"", b"\xff")
    database.delete_range(key(10), key(50))
    database.write([(key(60), b"changed"), (key(500), b"new")])

    # then
    assert list(scan) == before
    database.close()


# Trap: damage in the middle of the write-ahead log drops all that was synced behind it.


def test_bare_default_recovery_drops_synced_rows_without_a_word(tmp_path: Path) -> None:
    path = with_synced_rows_in_the_wal(tmp_path / "db")
    wal = only(path, "*.log")
    flip(wal, wal.stat().st_size // 2)

    rdict = Rdict(str(path), options())

    assert 0 < sum(1 for _ in rdict.items()) < 1000
    rdict.close()


def test_flipped_bit_in_the_middle_of_the_wal_is_refused(tmp_path: Path) -> None:
    path = with_synced_rows_in_the_wal(tmp_path / "db")
    wal = only(path, "*.log")
    flip(wal, wal.stat().st_size // 2)

    with pytest.raises(CorruptStoreError, match="checksum mismatch"):
        Database.open(path)


@pytest.mark.parametrize("cut_bytes", [1, 60, 113])
def test_torn_tail_of_the_wal_costs_the_last_row_only(tmp_path: Path, cut_bytes: int) -> None:
    path = with_synced_rows_in_the_wal(tmp_path / "db")
    wal = only(path, "*.log")
    os.truncate(wal, wal.stat().st_size - cut_bytes)

    database = Database.open(path)

    assert [row_key for row_key, _ in database.scan(b"", b"\xff")] == [key(number) for number in range(999)]
    database.close()


# Trap: a database whose CURRENT file is gone is taken for a new one.


def test_bare_open_without_current_makes_an_empty_database_of_a_full_one(tmp_path: Path) -> None:
    # given
    path = tmp_path / "db"
    rdict = Rdict(str(path), options())
    rdict[b"a"] = b"1"
    rdict.flush()
    rdict.close()
    for file in (*path.glob("*.log"), path / "CURRENT"):
        file.unlink()

    # when
    rdict = Rdict(str(path), options())

    # then
    assert rdict.get(b"a") is None
    rdict.close()


def test_folder_without_current_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    # given
    path = tmp_path / "db"
    database = Database.open(path)
    database.write([(b"a", b"1")])
    database.close()
    kept = (path / "CURRENT").read_bytes()
    (path / "CURRENT").unlink()

    # when
    with pytest.raises(CorruptStoreError, match="CURRENT"):
        Database.open(path)

    # then
    (path / "CURRENT").write_bytes(kept)
    database = Database.open(path)
    assert database.get(b"a") == b"1"
    database.close()


@pytest.mark.parametrize("pattern", ["*.sst", "MANIFEST-*"])
def test_missing_file_is_refused(tmp_path: Path, pattern: str) -> None:
    path = with_damaged_table(tmp_path / "db")
    only(path, pattern).unlink()

    with pytest.raises(CorruptStoreError):
        Database.open(path)


@pytest.mark.parametrize("content", [b"", b"{", None])
def test_damaged_file_of_the_binding_itself_does_not_matter(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "db"
    database = Database.open(path)
    database.write([(b"a", b"1")])
    database.close()
    settings = path / "rocksdict-config.json"
    if content is None:
        settings.unlink()
    else:
        settings.write_bytes(content)

    database = Database.open(path)

    assert database.get(b"a") == b"1"
    database.close()


# Trap: a reversed range goes into the write-ahead log, then fails, at every later start too.


def test_bare_reversed_range_makes_a_database_that_can_never_be_opened_again(tmp_path: Path) -> None:
    path = str(tmp_path / "db")
    rdict = Rdict(path, options(strict_wal=True))
    with pytest.raises(Exception, match="end key comes before start key"):
        rdict.delete_range(b"b", b"a")
    with pytest.raises(Exception, match="end key comes before start key"):
        rdict.close()
    del rdict

    with pytest.raises(Exception, match="end key comes before start key"):
        Rdict(path, options(strict_wal=True))


@pytest.mark.parametrize(("start", "end"), [(b"b", b"a"), (b"a", b"a")])
def test_empty_and_reversed_ranges_delete_nothing(tmp_path: Path, start: bytes, end: bytes) -> None:
    # given
    database = Database.open(tmp_path / "db")
    database.write([(b"a", b"1"), (b"b", b"2")])

    # when
    database.delete_range(start, end)
    database.close()

    # then
    database = Database.open(tmp_path / "db")
    assert list(database.scan(b"", b"\xff")) == [(b"a", b"1"), (b"b", b"2")]
    database.close()


# Trap: what is still held keeps the files locked after `close`.


def test_bare_iterator_keeps_the_database_locked_after_close(tmp_path: Path) -> None:
    rdict = Rdict(str(tmp_path / "db"), options())
    steps = rdict.iter()
    rdict.close()

    with pytest.raises(Exception, match="lock hold by current process"):
        Rdict(str(tmp_path / "db"), options())

    del steps
    gc.collect()


def test_closing_frees_the_files_though_a_scan_is_half_consumed(tmp_path: Path) -> None:
    # given
    database = Database.open(tmp_path / "db")
    database.write([(key(number), b"") for number in range(10)])
    scan = database.scan(b"", b"\xff")
    next(scan)

    # when
    database.close()

    # then
    again = Database.open(tmp_path / "db")
    assert again.get(key(9)) == b""
    with pytest.raises(FailedError, match="closed or replaced during a scan"):
        next(scan)
    again.close()


def test_second_open_is_refused_here_and_from_another_process(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "db")

    with pytest.raises(StoreBusyError):
        Database.open(tmp_path / "db")
    program = f"""
from pathlib import Path
from mcr.errors import StoreBusyError
from mcr_node.storage.database import Database
try:
    Database.open(Path({str(tmp_path / "db")!r}))
except StoreBusyError:
    print("busy")
"""
    answer = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)

    assert answer.stdout == "busy\n"
    database.close()


# Trap: after a full disk all writes fail for ever, and a sync may succeed.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(path)], check=True)
    yield path
    subprocess.run(["umount", str(path)], check=True)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                continue
        except OSError:
            return


@needs_root
@pytest.mark.root
def test_bare_database_refuses_all_writes_after_a_full_disk_was_emptied(small_disk: Path) -> None:
    rdict = Rdict(str(small_disk / "db"), options())
    fill(small_disk / "filler")
    with pytest.raises(Exception, match="No space left"):
        rdict.put(b"large", os.urandom(MIB))

    (small_disk / "filler").unlink()

    with pytest.raises(Exception, match="No space left"):
        rdict.put(b"a", b"1")
    with pytest.raises(Exception, match="previous error"):
        rdict.close()
    del rdict
    gc.collect()


@needs_root
@pytest.mark.root
def test_full_disk_loses_nothing_acknowledged_and_reopening_recovers(small_disk: Path) -> None:
    # given
    path = small_disk / "db"
    database = Database.open(path)
    acknowledged: list[bytes] = []

    def write_and_sync_until_it_fails() -> None:
        for first in range(0, 10_000, 10):
            keys = [key(number) for number in range(first, first + 10)]
            database.write([(row_key, os.urandom(10_000)) for row_key in keys])
            database.sync()
            acknowledged.extend(keys)

    # when
    with pytest.raises(OutOfSpaceError):
        write_and_sync_until_it_fails()

    # then: the failed batch is invisible, nothing more is taken, and no sync vouches for anything
    assert acknowledged
    assert [row_key for row_key, _ in database.scan(b"", b"\xff")] == acknowledged
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    with pytest.raises(OutOfSpaceError, match="open the store again"):
        database.write([(b"small", b"")])
    with pytest.raises(OutOfSpaceError, match="open the store again"):
        database.delete_range(b"a", b"b")
    with pytest.raises(OutOfSpaceError, match="open the store again"):
        database.sync()
    database.close()

    # and: with space again, all that was acknowledged is there
    database = Database.open(path)
    assert [row_key for row_key, _ in database.scan(b"", b"\xff")] == acknowledged
    database.write([(b"small", b"")])
    database.sync()
    database.close()


@needs_root
@pytest.mark.root
def test_opening_and_creating_on_a_full_disk_say_so_and_leave_nothing_half_made(small_disk: Path) -> None:
    # given
    database = Database.open(small_disk / "db")
    database.write([(b"a", b"1" * MIB)])
    database.close()
    fill(small_disk / "filler")

    # when
    with pytest.raises(OutOfSpaceError):
        Database.open(small_disk / "db")
    with pytest.raises(OutOfSpaceError):
        Database.open(small_disk / "folder" / "new")

    # then
    assert not (small_disk / "folder" / "new").exists()
    (small_disk / "filler").unlink()
    for path in (small_disk / "db", small_disk / "folder" / "new"):
        Database.open(path).close()
