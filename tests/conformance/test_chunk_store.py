"""What every `ports.ChunkStore` promises, run on the real one and on the one in memory."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, Protocol

import pytest

from mcr.errors import CorruptChunkError, MissingChunkError
from mcr.model import CHUNK_BYTES_MAX, Chunk, ChunkId
from mcr_node.ports import ChunkStore, PutReceipt
from mcr_node.storage.chunk_store import PackChunkStore
from mcr_node.storage.disk import Disk
from tests.conformance.memory_chunk_store import MemoryChunkStore


class Setting(Protocol):
    """A store, and what a test may do behind its back."""

    store: ChunkStore

    def damage(self, chunk_id: ChunkId) -> None: ...

    def reopen(self) -> None: ...


class InMemory:
    def __init__(self) -> None:
        self.memory = MemoryChunkStore()
        self.store: ChunkStore = self.memory

    def damage(self, chunk_id: ChunkId) -> None:
        self.memory.damage(chunk_id)

    def reopen(self) -> None:
        self.store.close()


class OnDisk:
    def __init__(self, path: Path, encoding: Literal["raw", "auto"]) -> None:
        self.path = path
        self.encoding = encoding
        self.store: ChunkStore = self._open()

    def _open(self) -> ChunkStore:
        return PackChunkStore.open(
            self.path, encoding=self.encoding, disk=Disk(), segment_bytes_max=64 * 1024, reserve_bytes=0
        )

    def damage(self, chunk_id: ChunkId) -> None:
        for segment in (self.path / "segments").iterdir():
            data = bytearray(segment.read_bytes())
            # The id stands in the frame's header, 16 bytes after its start and 40 before its payload.
            at = data.find(chunk_id)
            if at >= 0:
                data[at + 40] ^= 1
                segment.write_bytes(data)

    def reopen(self) -> None:
        self.store.close()
        self.store = self._open()


@pytest.fixture(params=["memory", "disk", "disk-raw"])
def setting(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Setting]:
    makers: dict[str, Callable[[], Setting]] = {
        "memory": InMemory,
        "disk": lambda: OnDisk(tmp_path / "store", "auto"),
        "disk-raw": lambda: OnDisk(tmp_path / "store", "raw"),
    }
    made = makers[request.param]()
    yield made
    made.store.close()


def numbered(count: int, *, start: int = 0) -> list[Chunk]:
    return [Chunk.of(b"chunk %d " % number * 20) for number in range(start, start + count)]


def test_what_was_put_is_read_back_at_once(setting: Setting) -> None:
    chunks = [*numbered(5), Chunk.of(b""), Chunk.of(bytes(CHUNK_BYTES_MAX)), Chunk.of(memoryview(b"view"))]

    receipt = setting.store.put(chunks)

    assert receipt.chunks_new == len(chunks)
    assert receipt.bytes_new == sum(len(chunk.data) for chunk in chunks)
    assert all(setting.store.get(chunk.id) == chunk.data for chunk in chunks)


def test_what_is_read_into_a_place_is_what_was_put(setting: Setting) -> None:
    chunks = [*numbered(5), Chunk.of(b""), Chunk.of(bytes(CHUNK_BYTES_MAX)), Chunk.of(memoryview(b"view"))]
    setting.store.put(chunks)
    setting.store.sync()
    for chunk in chunks:
        around = bytearray(b"#" * (len(chunk.data) + 2))

        length_bytes = setting.store.get_into(chunk.id, memoryview(around)[1:-1])

        assert length_bytes == len(chunk.data)
        assert around == b"#" + bytes(chunk.data) + b"#"


@pytest.mark.parametrize("surplus", [-1, 1, 1000])
def test_a_place_of_another_length_is_left_alone(setting: Setting, surplus: int) -> None:
    chunk = numbered(1)[0]
    setting.store.put([chunk])
    place = bytearray(b"#" * (len(chunk.data) + surplus))

    assert setting.store.get_into(chunk.id, memoryview(place)) == len(chunk.data)

    assert set(place) == set(b"#")


def test_missing_names_exactly_what_is_not_held(setting: Setting) -> None:
    held, unknown = numbered(3), numbered(3, start=10)
    setting.store.put(held)

    asked = [chunk.id for chunk in [*held, *unknown, *unknown]]

    assert setting.store.missing(asked) == {chunk.id for chunk in unknown}
    assert setting.store.missing([]) == set()


def test_a_chunk_is_stored_once_however_often_it_is_put(setting: Setting) -> None:
    chunk, other = numbered(2)

    first = setting.store.put([chunk, chunk])
    setting.store.sync()
    second = setting.store.put([chunk, other])

    assert (first.chunks_new, second.chunks_new) == (1, 1)
    assert setting.store.put([chunk, other]) == PutReceipt(0, 0, 0)
    assert setting.store.stats().chunk_count == 2


def test_synced_chunks_survive_a_reopening(setting: Setting) -> None:
    chunks = numbered(50)
    setting.store.put(chunks)
    setting.store.sync()
    before = setting.store.stats()

    setting.reopen()

    assert setting.store.stats() == before
    assert [setting.store.get(chunk.id) for chunk in chunks] == [chunk.data for chunk in chunks]


def test_closing_syncs(setting: Setting) -> None:
    chunks = numbered(3)
    setting.store.put(chunks)

    setting.reopen()

    assert setting.store.missing([chunk.id for chunk in chunks]) == set()


def test_a_chunk_never_put_is_missing(setting: Setting) -> None:
    with pytest.raises(MissingChunkError) as raised:
        setting.store.get(ChunkId(bytes(32)))

    assert raised.value.chunk_id == bytes(32).hex()


def get(store: ChunkStore, chunk: Chunk) -> object:
    return store.get(chunk.id)


def get_into(store: ChunkStore, chunk: Chunk) -> object:
    return store.get_into(chunk.id, memoryview(bytearray(len(chunk.data))))


@pytest.mark.parametrize("read", [get, get_into])
@pytest.mark.parametrize("synced", [True, False])
def test_a_damaged_chunk_is_never_served_and_healed_by_put(
    setting: Setting, synced: bool, read: Callable[[ChunkStore, Chunk], object]
) -> None:
    chunk, other = numbered(2)
    setting.store.put([chunk, other])
    if synced:
        setting.store.sync()
    setting.damage(chunk.id)

    with pytest.raises(CorruptChunkError) as raised:
        read(setting.store, chunk)

    assert raised.value.chunk_id == chunk.id.hex()
    assert setting.store.missing([chunk.id, other.id]) == {chunk.id}
    assert setting.store.stats().quarantined == 1
    with pytest.raises(MissingChunkError):
        read(setting.store, chunk)
    assert setting.store.put([chunk]).chunks_new == 1
    assert setting.store.get(chunk.id) == chunk.data


def test_scrub_finds_each_damaged_chunk_once(setting: Setting) -> None:
    chunks = numbered(20)
    setting.store.put(chunks[:15])
    setting.store.sync()
    setting.store.put(chunks[15:])
    damaged = {chunks[3].id, chunks[17].id}
    for chunk_id in damaged:
        setting.damage(chunk_id)

    found = list(setting.store.scrub())
    assert sorted(one.chunk_id for one in found) == sorted(chunk.id for chunk in chunks)
    assert sorted(one.chunk_id for one in found if one.is_damaged) == sorted(damaged)
    assert not any(one.is_damaged for one in setting.store.scrub())
    assert setting.store.missing([chunk.id for chunk in chunks]) == damaged


def test_a_scrub_that_begins_again_leaves_nothing_out(setting: Setting) -> None:
    setting.store.put(numbered(20))
    setting.store.sync()
    ids = sorted(one.chunk_id for one in setting.store.scrub())

    after = ids[4]

    assert sorted(one.chunk_id for one in setting.store.scrub(after)) == ids[5:]
    assert {one.after for one in setting.store.scrub(after)} == {after}


@pytest.mark.parametrize("synced", [True, False])
def test_removed_chunks_are_forgotten_and_counted_once(setting: Setting, synced: bool) -> None:
    chunks = numbered(10)
    setting.store.put(chunks)
    if synced:
        setting.store.sync()
    gone = [chunk.id for chunk in chunks[:4]]

    assert setting.store.remove([*gone, *gone, ChunkId(bytes(32))]) == 4

    assert setting.store.missing([chunk.id for chunk in chunks]) == set(gone)
    assert setting.store.stats().chunk_count == 6
    setting.reopen()
    assert setting.store.missing([chunk.id for chunk in chunks]) == set(gone)


def test_what_was_expected_is_read_as_it_is_by_then(setting: Setting) -> None:
    kept, removed, again, unsynced = numbered(4)
    setting.store.put([kept, removed, again])
    setting.store.sync()
    setting.store.put([unsynced])
    setting.store.expect([chunk.id for chunk in (kept, removed, again, unsynced, *numbered(1, start=9))])
    setting.store.remove([removed.id, again.id])
    setting.store.compact(live_share_min=1.0)
    setting.store.put([again])

    assert [setting.store.get(chunk.id) for chunk in (kept, again, unsynced)] == [
        chunk.data for chunk in (kept, again, unsynced)
    ]
    with pytest.raises(MissingChunkError):
        setting.store.get(removed.id)


def test_compaction_keeps_every_live_chunk(setting: Setting) -> None:
    chunks = [Chunk.of(number.to_bytes(2, "big") * 4000) for number in range(100)]
    setting.store.put(chunks)
    setting.store.sync()
    setting.store.remove([chunk.id for chunk in chunks[::3]])

    setting.store.compact(live_share_min=1.0)

    kept = [chunk for chunk in chunks if chunk not in chunks[::3]]
    assert [setting.store.get(chunk.id) for chunk in kept] == [chunk.data for chunk in kept]
    assert setting.store.stats().chunk_count == len(kept)


def test_threads_that_put_the_same_chunks_store_each_once(setting: Setting) -> None:
    chunks = numbered(40)

    def put_all(turn: int) -> PutReceipt:
        order = chunks[turn:] + chunks[:turn]
        receipts = [setting.store.put(order[at : at + 5]) for at in range(0, len(order), 5)]
        setting.store.sync()
        assert [setting.store.get(chunk.id) for chunk in order] == [chunk.data for chunk in order]
        return PutReceipt(
            sum(r.chunks_new for r in receipts),
            sum(r.bytes_new for r in receipts),
            sum(r.bytes_stored for r in receipts),
        )

    with ThreadPoolExecutor(4) as pool:
        receipts = list(pool.map(put_all, range(0, 40, 7)))

    stats = setting.store.stats()
    assert sum(receipt.chunks_new for receipt in receipts) == len(chunks) == stats.chunk_count
    assert sum(receipt.bytes_new for receipt in receipts) == stats.bytes_plain
    assert sum(receipt.bytes_stored for receipt in receipts) == stats.bytes_live
