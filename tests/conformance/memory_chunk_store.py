"""`ports.ChunkStore` in memory, for worlds that have no disk. `test_chunk_store` keeps it honest."""

import threading
from collections.abc import Iterator, Sequence

from mcr.errors import CorruptChunkError, MissingChunkError
from mcr.model import Chunk, ChunkId, digest
from mcr.transfer import put_in_place
from mcr_node.ports import ChunkStoreStats, Compacted, HeldChunk, PutReceipt, Scrubbed


class MemoryChunkStore:
    """Chunks in a dict. `durable` is what a crash leaves: the chunks as of the last `sync`."""

    def __init__(self) -> None:
        self.durable: dict[ChunkId, bytes] = {}
        self._chunks: dict[ChunkId, bytes] = {}
        self._quarantined = 0
        self._lock = threading.RLock()

    def missing(self, ids: Sequence[ChunkId]) -> set[ChunkId]:
        with self._lock:
            return set(ids) - self._chunks.keys()

    def put(self, chunks: Sequence[Chunk]) -> PutReceipt:
        with self._lock:
            new = {c.id: bytes(c.data) for c in chunks if c.id not in self._chunks}
            self._chunks |= new
        size = sum(map(len, new.values()))
        return PutReceipt(len(new), size, size)

    def sync(self) -> None:
        with self._lock:
            self.durable = dict(self._chunks)

    def get(self, chunk_id: ChunkId) -> bytes:
        with self._lock:
            if chunk_id not in self._chunks:
                raise MissingChunkError(chunk_id.hex())
            data = self._chunks[chunk_id]
            if digest(data) != chunk_id:
                del self._chunks[chunk_id]
                self._quarantined += 1
                raise CorruptChunkError(chunk_id.hex(), f"its bytes hash to {digest(data).hex()}")
            return data

    def damage(self, chunk_id: ChunkId) -> None:
        """Change a byte of a chunk, as a bad disk would."""
        data = self._chunks[chunk_id]
        self._chunks[chunk_id] = bytes((data[0] ^ 1,)) + data[1:]

    def get_into(self, chunk_id: ChunkId, place: memoryview) -> int:
        return put_in_place(self.get(chunk_id), place)

    def expect(self, ids: Sequence[ChunkId]) -> None:
        """Memory needs no warning."""

    def remove(self, ids: Sequence[ChunkId]) -> int:
        with self._lock:
            held = set(ids) & self._chunks.keys()
            for chunk_id in held:
                del self._chunks[chunk_id]
                self.durable.pop(chunk_id, None)
            return len(held)

    def held(self, after: ChunkId | None) -> list[HeldChunk]:
        with self._lock:
            return [
                HeldChunk(one, len(self._chunks[one]))
                for one in sorted(self.durable)
                if one in self._chunks and (after is None or one > after)
            ]

    def compact_one(self, *, live_share_min: float) -> Compacted | None:
        return None

    def compact(self, *, live_share_min: float) -> int:
        return 0

    def scrub(self, after: ChunkId | None = None) -> Iterator[Scrubbed]:
        for chunk_id in sorted(self._chunks):
            if after is not None and chunk_id <= after:
                continue
            try:
                yield Scrubbed(chunk_id, len(self.get(chunk_id)), is_damaged=False, after=after)
            except CorruptChunkError:
                yield Scrubbed(chunk_id, 0, is_damaged=True, after=after)

    def stats(self) -> ChunkStoreStats:
        with self._lock:
            size = sum(map(len, self._chunks.values()))
            return ChunkStoreStats(len(self._chunks), size, size, size, 1, self._quarantined)

    def close(self) -> None:
        self.sync()
