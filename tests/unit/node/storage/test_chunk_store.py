"""The pack chunk store: what its port does not say. Crashes are in `test_chunk_store_faults`."""

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcr.errors import (
    CorruptChunkError,
    InvalidArgumentError,
    MissingChunkError,
    OutOfSpaceError,
)
from mcr.model import CHUNK_BYTES_MAX, Buffer, Chunk, ChunkId
from mcr_node.storage import chunk_index
from mcr_node.storage.chunk_store import PackChunkStore
from mcr_node.storage.disk import Disk, Handle
from mcr_node.storage.rebuilding import rebuild_index
from mcr_node.storage.recovery import RecoveryReport
from tests.faults import FaultyDisk

SEGMENT_BYTES = 4096


def open_store(
    path: Path, *, disk: Disk | None = None, encoding: Literal["raw", "auto"] = "raw", reserve_bytes: int = 0
) -> PackChunkStore:
    return PackChunkStore.open(
        path,
        encoding=encoding,
        disk=disk or Disk(),
        segment_bytes_max=SEGMENT_BYTES,
        reserve_bytes=reserve_bytes,
    )


def numbered(count: int, *, size: int = 500, start: int = 0) -> list[Chunk]:
    return [Chunk.of(number.to_bytes(4, "big") * (size // 4)) for number in range(start, start + count)]


def ids_of(chunks: Sequence[Chunk]) -> list[ChunkId]:
    return [chunk.id for chunk in chunks]


def segment_paths(path: Path) -> list[Path]:
    return sorted((path / "segments").iterdir())


def assert_all_held(store: PackChunkStore, chunks: Sequence[Chunk]) -> None:
    assert [store.get(chunk.id) for chunk in chunks] == [bytes(chunk.data) for chunk in chunks]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PackChunkStore]:
    opened = open_store(tmp_path)
    yield opened
    opened.close()


def test_a_chunk_above_the_limit_is_refused_before_anything_is_written(store: PackChunkStore) -> None:
    with pytest.raises(InvalidArgumentError):
        store.put([Chunk.of(b"small"), Chunk.of(bytes(CHUNK_BYTES_MAX + 1))])

    assert store.stats().chunk_count == 0


def test_segments_are_sealed_at_the_limit_and_numbers_never_come_again(
    store: PackChunkStore, tmp_path: Path
) -> None:
    chunks = numbered(30)
    store.put(chunks)
    store.sync()
    names = [path.name for path in segment_paths(tmp_path)]
    assert len(names) == store.stats().segment_count > 3
    assert all(path.stat().st_size <= SEGMENT_BYTES for path in segment_paths(tmp_path))

    store.remove(ids_of(chunks))
    store.compact(live_share_min=1.0)
    store.put(numbered(30, start=100))

    assert min(path.name for path in segment_paths(tmp_path)) == names[-1]
    assert len(segment_paths(tmp_path)) == store.stats().segment_count


def test_auto_stores_less_and_raw_reads_it(tmp_path: Path) -> None:
    chunks = [Chunk.of(bytes(3000), element_bytes=2), Chunk.of(b"text " * 500), Chunk.of(os.urandom(1000))]
    store = open_store(tmp_path, encoding="auto")
    receipt = store.put(chunks)
    store.close()

    store = open_store(tmp_path, encoding="raw")

    assert receipt.bytes_stored < receipt.bytes_new / 2
    assert store.stats().bytes_live == receipt.bytes_stored
    assert_all_held(store, chunks)
    store.close()


def test_statistics_count_frames_once_and_garbage_until_compaction(
    store: PackChunkStore, tmp_path: Path
) -> None:
    chunks = numbered(20)
    receipt = store.put(chunks)
    before_sync = store.stats()
    store.sync()
    assert store.stats() == before_sync
    assert before_sync.bytes_plain == 20 * 500
    assert before_sync.bytes_live == before_sync.bytes_used == receipt.bytes_stored

    store.remove(ids_of(chunks[:10]))
    removed = store.stats()
    freed = store.compact(live_share_min=0.9)
    compacted = store.stats()

    assert removed.bytes_live == receipt.bytes_stored // 2
    assert removed.bytes_used == receipt.bytes_stored
    assert compacted.bytes_used == removed.bytes_used - freed
    assert compacted.bytes_used == sum(path.stat().st_size for path in segment_paths(tmp_path))
    assert compacted.chunk_count == 10
    assert_all_held(store, chunks[10:])


def test_compaction_leaves_segments_above_the_share_alone(store: PackChunkStore, tmp_path: Path) -> None:
    chunks = numbered(30)
    store.put(chunks)
    store.sync()
    before = segment_paths(tmp_path)
    store.remove(ids_of(chunks[:6]))

    assert store.compact(live_share_min=0.1) == 0
    assert segment_paths(tmp_path) == before
    assert store.compact(live_share_min=0.5) > 0
    assert segment_paths(tmp_path) == before[1:]


def test_compaction_quarantines_what_it_cannot_copy(store: PackChunkStore, tmp_path: Path) -> None:
    chunks = numbered(10)
    store.put(chunks)
    store.sync()
    path = segment_paths(tmp_path)[0]
    data = bytearray(path.read_bytes())
    for at in (10, 556 + 100):
        data[at] ^= 1
    path.write_bytes(data)

    store.compact(live_share_min=1.01)

    assert not path.exists()
    assert store.missing(ids_of(chunks)) == set(ids_of(chunks[:2]))
    assert store.stats().quarantined == 2
    assert_all_held(store, chunks[2:])


def test_a_reader_is_never_disturbed_by_compaction(store: PackChunkStore) -> None:
    chunks = numbered(40)
    store.put(chunks)
    store.sync()
    done = threading.Event()

    def read() -> int:
        turns = 0
        while not done.is_set() or not turns:
            assert_all_held(store, chunks)
            turns += 1
        return turns

    with ThreadPoolExecutor(2) as pool:
        reader = pool.submit(read)
        try:
            for _ in range(5):
                store.compact(live_share_min=1.01)
        finally:
            done.set()
        assert reader.result() > 0

    assert store.stats().quarantined == 0


def test_quarantine_is_remembered_after_reopening(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    chunk = numbered(1)[0]
    store.put([chunk])
    store.sync()
    segment_paths(tmp_path)[0].write_bytes(b"overwritten")
    with pytest.raises(CorruptChunkError):
        store.get(chunk.id)
    store.close()

    store = open_store(tmp_path)

    assert store.stats().quarantined == 1
    assert store.missing([chunk.id]) == {chunk.id}
    with pytest.raises(MissingChunkError):
        store.get(chunk.id)
    store.close()


def test_a_frame_in_the_place_of_another_is_not_served(store: PackChunkStore, tmp_path: Path) -> None:
    chunks = numbered(2)
    store.put(chunks)
    store.sync()
    path = segment_paths(tmp_path)[0]
    data = path.read_bytes()
    path.write_bytes(data[556:] + data[:556])

    for chunk in chunks:
        with pytest.raises(CorruptChunkError, match="another frame"):
            store.get(chunk.id)


def test_a_segment_that_is_gone_makes_its_chunks_missing_not_the_store_unusable(
    store: PackChunkStore, tmp_path: Path
) -> None:
    chunks = numbered(30)
    store.put(chunks)
    store.sync()
    segment_paths(tmp_path)[0].unlink()

    damaged = {one.chunk_id for one in store.scrub() if one.is_damaged}

    assert damaged == set(ids_of(chunks[:7]))
    assert store.put(chunks).chunks_new == 7
    assert_all_held(store, chunks)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PackChunkStore, Path, list[Chunk]]]:
    path = tmp_path_factory.mktemp("prepared")
    store = open_store(path, encoding="auto")
    chunks = [*numbered(3, size=120), Chunk.of(os.urandom(300)), Chunk.of(bytes(900), element_bytes=4)]
    store.put(chunks)
    store.sync()
    yield store, segment_paths(path)[0], chunks
    store.close()


@settings(max_examples=150)
@given(place=st.integers(min_value=0), bit=st.integers(0, 7))
def test_a_flipped_bit_in_any_byte_of_a_segment_is_never_served(
    prepared: tuple[PackChunkStore, Path, list[Chunk]], place: int, bit: int
) -> None:
    store, path, chunks = prepared
    data = path.read_bytes()
    place %= len(data)

    path.write_bytes(data[:place] + bytes((data[place] ^ 1 << bit,)) + data[place + 1 :])
    damaged = {one.chunk_id for one in store.scrub() if one.is_damaged}
    healed = store.put(chunks)
    store.sync()

    # Exactly one frame holds the byte, unless nothing lives there any more since an earlier example.
    assert len(damaged) == healed.chunks_new <= 1
    assert_all_held(store, chunks)


class StoppingDisk(Disk):
    """Holds every write until `go`; then does it, or fails with `error` the first time."""

    def __init__(self) -> None:
        self.began = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.error: Exception | None = None

    def pwritev(self, handle: Handle, buffers: Sequence[Buffer], offset: int) -> None:
        error, self.error = self.error, None
        self.began.release()
        self.go.acquire()
        if error is not None:
            raise error
        super().pwritev(handle, buffers, offset)


@pytest.mark.parametrize("fails", [False, True])
def test_of_two_who_put_a_chunk_at_once_the_second_never_claims_what_the_first_did_not_do(
    tmp_path: Path, fails: bool
) -> None:
    disk = StoppingDisk()
    store = open_store(tmp_path, disk=disk)
    chunk, other = numbered(2)
    disk.error = OutOfSpaceError("segment", "full") if fails else None

    with ThreadPoolExecutor(2) as pool:
        # Given a first call that is writing, and a second that wants the same chunk and another
        first = pool.submit(store.put, [chunk])
        disk.began.acquire()
        second = pool.submit(store.put, [other, chunk])
        # When the second has begun to write its own, which it does before it waits
        disk.go.release(10)
        outcomes = [first.exception(), second.exception()]

    assert [type(outcome) for outcome in outcomes if outcome] == ([OutOfSpaceError] if fails else [])
    if outcomes[1] is None:
        store.sync()
        assert_all_held(store, [chunk, other])
        assert second.result().chunks_new == (2 if fails else 1)
    store.close()


def test_sync_covers_what_another_thread_put_before(tmp_path: Path) -> None:
    disk = FaultyDisk(tmp_path / "store")
    store = PackChunkStore.open(
        tmp_path / "store", encoding="raw", disk=disk, reserve_bytes=0, open_database=disk.open_database
    )
    chunk = numbered(1)[0]
    with ThreadPoolExecutor(1) as pool:
        pool.submit(store.put, [chunk]).result()
    assert store.put([chunk]).chunks_new == 0

    store.sync()

    image = disk.image_after_power_loss(tmp_path / "image", keep="none")
    disk = FaultyDisk(image.path, rows=image.rows)
    store = PackChunkStore.open(image.path, encoding="raw", disk=disk, open_database=disk.open_database)
    assert store.get(chunk.id) == chunk.data


def put_and_sync(store: PackChunkStore, chunks: Sequence[Chunk]) -> None:
    store.put(chunks)
    store.sync()


def test_threads_that_put_sync_get_and_remove_at_once_agree_in_the_end(tmp_path: Path) -> None:
    store = open_store(tmp_path, encoding="auto")
    shared = numbered(60)

    def work(turn: int) -> None:
        own = numbered(20, start=1000 * (turn + 1))
        for at in range(0, 60, 6):
            store.put([*shared[at : at + 6], *own[at // 6 * 2 : at // 6 * 2 + 2]])
            assert_all_held(store, shared[at : at + 6])
            store.sync()
        assert store.remove(ids_of(own[::2])) == 10
        store.compact(live_share_min=0.8)
        assert_all_held(store, own[1::2])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))

    before = store.stats()
    assert before.chunk_count == 60 + 4 * 10
    assert_all_held(store, shared)
    store.close()
    store = open_store(tmp_path)
    assert store.recovered == RecoveryReport()
    assert store.stats() == before
    assert not any(one.is_damaged for one in store.scrub())
    store.close()


def test_scrub_goes_through_all_pages(store: PackChunkStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk_index, "PAGE_ENTRIES", 3)
    read: list[ChunkId] = []
    chunks = numbered(20)
    put_and_sync(store, chunks)
    get = store.get

    def counted(chunk_id: ChunkId) -> bytes:
        read.append(chunk_id)
        if len(read) == 5:
            store.remove(ids_of(chunks))
        return get(chunk_id)

    monkeypatch.setattr(store, "get", counted)

    assert not any(one.is_damaged for one in store.scrub())
    assert len(read) == len(set(read)) >= 6


def test_rebuilding_by_hand_keeps_the_old_index_and_all_chunks(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    chunks = numbered(30)
    put_and_sync(store, chunks)
    removed = chunks[:3]
    store.remove(ids_of(removed))
    store.close()

    report = rebuild_index(tmp_path, disk=Disk())

    assert report == RecoveryReport(index_rebuilt=True, segments_read=5, frames_reindexed=30)
    assert (tmp_path / "index.damaged-1").is_dir()
    store = open_store(tmp_path)
    # Removed chunks are garbage again, harmless and whole.
    assert_all_held(store, chunks)
    assert store.remove(ids_of(removed)) == 3
    store.close()
