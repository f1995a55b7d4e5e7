"""The chunk index: its bytes, its accounts, and what it survives."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr.errors import CorruptStoreError, OutOfSpaceError, StoreFormatError
from mcr.model import ChunkId
from mcr_node.storage import chunk_index
from mcr_node.storage.chunk_index import ChunkIndex, KeyValues, Location, SegmentAccount, SegmentState
from mcr_node.storage.database import Database
from mcr_node.storage.disk import Disk, StorageFailure
from mcr_node.storage.encodings import Encoding
from tests.faults import FaultyDatabase, FaultyDisk, Rows


def chunk_id(number: int) -> ChunkId:
    return ChunkId(number.to_bytes(32, "big"))


def location(number: int, *, segment: int = 1) -> Location:
    return Location(segment, number * 1000, 100 + number, 200 + number, Encoding.ZSTD)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[ChunkIndex]:
    opened = ChunkIndex.open(tmp_path / "index", Disk(), Database.open)
    yield opened
    opened.close()


def in_memory(path: Path, rows: Rows) -> ChunkIndex:
    disk = FaultyDisk(path, rows=rows)
    return ChunkIndex.open(path / "index", disk, disk.open_database)


@given(
    st.builds(
        Location,
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**64 - 1),
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**32 - 1),
        st.sampled_from(Encoding),
        st.none() | st.binary(min_size=32, max_size=32).map(ChunkId),
    )
)
def test_locations_read_back_as_they_were_written(written: Location) -> None:
    assert Location.parse(written.pack()) == written


def test_the_bytes_of_an_entry_are_those_of_the_document() -> None:
    packed = Location(1, 2, 3, 4, Encoding.ZSTD).pack()
    account = SegmentAccount(1, 2, 3, 4, 5, SegmentState.SEALED).pack()

    assert packed.hex() == "000000010000000000000002000000030000000401"
    assert account.hex() == "".join(f"{number:016x}" for number in range(1, 6)) + "01"
    assert SegmentAccount.parse(account) == SegmentAccount(1, 2, 3, 4, 5, SegmentState.SEALED)


def test_what_was_changed_is_found_again_after_reopening(tmp_path: Path) -> None:
    index = ChunkIndex.open(tmp_path / "index", Disk(), Database.open)
    with index.changing() as changes:
        changes.put({chunk_id(number): location(number) for number in range(10)})
        changes.cover(1, 500, SegmentState.OPEN)
        changes.set_aside(3, 40, 60, None, "no header")
    with index.changing() as changes:
        assert changes.delete([chunk_id(0), chunk_id(99)]) == {chunk_id(0)}
    accounts = index.accounts()
    index.close()

    index = ChunkIndex.open(tmp_path / "index", Disk(), Database.open)

    assert index.get_many([chunk_id(0), chunk_id(9)]) == [None, location(9)]
    assert index.accounts() == accounts
    assert accounts[1].covered_bytes == 500
    assert accounts[1].end_bytes == location(9).end
    assert index.quarantined == 1
    index.close()


@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "delete", "quarantine"]), st.integers(0, 5), st.integers(1, 3)),
        max_size=30,
    ),
    st.integers(1, 4),
)
def test_accounts_are_always_the_sum_of_the_entries(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]], batch: int
) -> None:
    index = in_memory(tmp_path_factory.mktemp("index"), {})
    for start in range(0, len(steps), batch):
        with index.changing() as changes:
            for verb, number, segment in steps[start : start + batch]:
                if verb == "put":
                    changes.put({chunk_id(number): location(number, segment=segment)})
                elif verb == "delete":
                    changes.delete([chunk_id(number)])
                else:
                    changes.quarantine(chunk_id(number), location(number, segment=segment), "damaged")

    entries = [where for _, where in index.entries()]
    for segment, account in index.accounts().items():
        here = [where for where in entries if where.segment == segment]
        assert account.live_chunks == len(here)
        assert account.live_bytes == sum(where.frame_bytes for where in here)
        assert account.live_plain_bytes == sum(where.plain_bytes for where in here)
        assert account.end_bytes >= max((where.end for where in here), default=0)


def test_entries_are_all_found_across_pages(index: ChunkIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk_index, "PAGE_ENTRIES", 7)
    expected = {chunk_id(number): location(number) for number in range(50)}
    with index.changing() as changes:
        changes.put(expected)

    assert list(index.entries()) == sorted(expected.items())
    assert index.page(chunk_id(48)) == [(chunk_id(49), location(49))]
    assert index.page(chunk_id(49)) == []


def test_an_error_inside_the_block_changes_nothing(index: ChunkIndex) -> None:
    def fail() -> None:
        with index.changing() as changes:
            changes.put({chunk_id(1): location(1)})
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        fail()

    assert index.get_many([chunk_id(1)]) == [None]
    assert index.accounts() == {}


def test_only_a_chunk_that_is_where_it_was_seen_is_quarantined(index: ChunkIndex) -> None:
    with index.changing() as changes:
        changes.put({chunk_id(1): location(1)})

    with index.changing() as changes:
        assert not changes.quarantine(chunk_id(1), location(2), "damaged")
        assert changes.quarantine(chunk_id(1), location(1), "damaged")
        assert not changes.quarantine(chunk_id(1), location(1), "damaged")

    assert index.quarantined == 1
    assert index.get_many([chunk_id(1)]) == [None]


def test_a_place_found_damaged_twice_counts_once(index: ChunkIndex) -> None:
    for _ in range(2):
        with index.changing() as changes:
            changes.set_aside(1, 0, 10, chunk_id(1), "damaged")
            changes.set_aside(1, 0, 10, chunk_id(1), "damaged")

    assert index.quarantined == 1


def test_an_account_with_live_chunks_cannot_be_forgotten(index: ChunkIndex) -> None:
    with index.changing() as changes:
        changes.put({chunk_id(1): location(1)})
        with pytest.raises(AssertionError):
            changes.forget(1)


def test_an_index_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreFormatError) as raised:
        in_memory(tmp_path, {b"mformat": (2).to_bytes(4, "big")})

    assert (raised.value.found, raised.value.supported) == (2, 1)


@pytest.mark.parametrize("row", [(b"s\0\0\0\1", b"short"), (b"s?", bytes(41)), (b"s\0\0\0\1", b"\xff" * 41)])
def test_a_damaged_account_is_not_believed(tmp_path: Path, row: tuple[bytes, bytes]) -> None:
    with pytest.raises(CorruptStoreError):
        in_memory(tmp_path, dict([row]))


@pytest.mark.parametrize("value", [b"", bytes(20), bytes(20) + b"\x09"])
def test_a_damaged_entry_is_not_believed(tmp_path: Path, value: bytes) -> None:
    index = in_memory(tmp_path, {b"c" + chunk_id(1): value})

    with pytest.raises(CorruptStoreError):
        index.get_many([chunk_id(1)])
    with pytest.raises(CorruptStoreError):
        list(index.entries())


class FullDatabase(FaultyDatabase):
    """Without space, and as RocksDB then is: it refuses all writes until it is opened again."""

    def __init__(self, disk: FaultyDisk, rows: Rows) -> None:
        super().__init__(disk, rows)
        self.write_fails = False
        self.sync_fails = False
        self.syncs = 0

    def write(self, changes: Sequence[tuple[bytes, bytes | None]]) -> None:
        if self.write_fails:
            raise OutOfSpaceError("index", "full")
        super().write(changes)

    def sync(self) -> None:
        if self.sync_fails:
            raise OutOfSpaceError("index", "full")
        self.syncs += 1
        super().sync()


class FullDisk(FaultyDisk):
    """Opens `FullDatabase`s, and has as much space as it is told."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.opened: list[FullDatabase] = []
        self.free = 0
        self.reopening_fails = False

    def open_database(self, path: Path) -> FaultyDatabase:
        if self.opened and self.reopening_fails:
            raise CorruptStoreError("index", "bad luck")
        rows = self.opened[-1].rows if self.opened else {}
        self.opened.append(FullDatabase(self, rows))
        return self.opened[-1]

    def free_bytes(self, path: Path) -> int:
        return self.free


def put_one(index: ChunkIndex, number: int) -> Callable[[], None]:
    def put() -> None:
        with index.changing() as changes:
            changes.put({chunk_id(number): location(number)})

    return put


def test_after_a_full_disk_the_index_is_opened_again_once_there_is_space(tmp_path: Path) -> None:
    disk = FullDisk(tmp_path)
    index = ChunkIndex.open(tmp_path / "index", disk, disk.open_database)
    put_one(index, 1)()
    disk.opened[0].write_fails = True

    for _ in range(2):
        with pytest.raises(OutOfSpaceError):
            put_one(index, 2)()
    assert index.get_many([chunk_id(1), chunk_id(2)]) == [location(1), None]
    assert len(disk.opened) == 1
    disk.free = 1 << 30
    put_one(index, 2)()

    assert len(disk.opened) == 2
    assert index.get_many([chunk_id(1), chunk_id(2)]) == [location(1), location(2)]
    assert index.accounts()[1].live_chunks == 2


def test_an_index_that_cannot_be_opened_again_is_a_storage_failure(tmp_path: Path) -> None:
    disk = FullDisk(tmp_path)
    index = ChunkIndex.open(tmp_path / "index", disk, disk.open_database)
    disk.opened[0].write_fails = True
    with pytest.raises(OutOfSpaceError):
        put_one(index, 1)()
    disk.free = 1 << 30
    disk.reopening_fails = True

    with pytest.raises(StorageFailure):
        put_one(index, 1)()


def test_changes_whose_sync_failed_are_synced_by_the_next_that_says_so(tmp_path: Path) -> None:
    disk = FullDisk(tmp_path)
    index = ChunkIndex.open(tmp_path / "index", disk, disk.open_database)
    database = disk.opened[0]
    database.sync_fails = True
    with pytest.raises(OutOfSpaceError):
        put_one(index, 1)()
    disk.free = 1 << 30

    put_one(index, 1)()

    assert [opened.syncs for opened in disk.opened] == [0, 1]
    assert index.accounts()[1].live_chunks == 1
    put_one(index, 1)()
    assert disk.opened[-1].syncs == 1


class Counted:
    """The database of an index, counting the looks at it."""

    def __init__(self, database: KeyValues) -> None:
        self._database = database
        self.looks = 0

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self.looks += 1
        return self._database.get_many(keys)

    def __getattr__(self, name: str) -> object:
        return getattr(self._database, name)


@pytest.fixture
def counted(tmp_path: Path) -> Iterator[tuple[ChunkIndex, Counted]]:
    """Yield an index of chunks 0 to 9, and what counts its looks, from none."""
    opened: list[Counted] = []

    def open_database(path: Path) -> KeyValues:
        opened.append(Counted(Database.open(path)))
        return cast("KeyValues", opened[-1])

    index = ChunkIndex.open(tmp_path / "index", Disk(), open_database)
    with index.changing() as changes:
        changes.put({chunk_id(number): location(number) for number in range(10)})
    opened[-1].looks = 0
    yield index, opened[-1]
    index.close()


def test_what_is_expected_is_located_by_one_look_at_the_database(counted: tuple[ChunkIndex, Counted]) -> None:
    index, database = counted

    assert index.expect([chunk_id(3), chunk_id(99), chunk_id(4)]) == [location(3), location(4)]
    assert (index.locate(chunk_id(4)), index.locate(chunk_id(3))) == (location(4), location(3))
    assert database.looks == 1
    # Known for one reading, so that what nobody reads again is not kept.
    assert index.locate(chunk_id(3)) == location(3)
    assert index.locate(chunk_id(99)) is None
    assert database.looks == 3


def test_what_changes_after_it_was_expected_is_located_anew(counted: tuple[ChunkIndex, Counted]) -> None:
    index, database = counted
    index.expect([chunk_id(number) for number in range(4)])
    moved = location(1, segment=7)
    with index.changing() as changes:
        changes.delete([chunk_id(0)])
        changes.put({chunk_id(1): moved})
        changes.quarantine(chunk_id(2), location(2), "damaged")
    database.looks = 0

    assert [index.locate(chunk_id(number)) for number in range(4)] == [None, moved, None, location(3)]
    assert database.looks == 3


def test_what_is_expected_and_never_read_is_not_kept_without_limit(
    counted: tuple[ChunkIndex, Counted], monkeypatch: pytest.MonkeyPatch
) -> None:
    index, database = counted
    monkeypatch.setattr(chunk_index, "EXPECTED_CHUNKS_MAX", 5)
    index.expect([chunk_id(number) for number in range(5)])
    index.expect([chunk_id(5)])
    database.looks = 0

    assert [index.locate(chunk_id(number)) for number in range(6)] == [
        location(number) for number in range(6)
    ]
    assert database.looks == 5
