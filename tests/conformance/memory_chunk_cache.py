"""`ports_cache.ChunkCache` in memory: a bound in bytes, the oldest goes first."""

from collections.abc import Sequence

from mcr.model import Chunk, ChunkId
from mcr_node.ports_cache import ChunkCacheStats


class MemoryChunkCache:
    """A fake; its users run on it in tests."""

    def __init__(self, bytes_max: int = 1 << 40) -> None:
        self.bytes_max = bytes_max
        self.chunks: dict[ChunkId, bytes] = {}

    def held(self, ids: Sequence[ChunkId]) -> set[ChunkId]:
        return {one for one in ids if one in self.chunks}

    def get(self, chunk_id: ChunkId) -> bytes | None:
        return self.chunks.get(chunk_id)

    def put(self, chunks: Sequence[Chunk]) -> None:
        for chunk in chunks:
            self.chunks.setdefault(chunk.id, bytes(chunk.data))
            while sum(map(len, self.chunks.values())) > self.bytes_max:
                self.chunks.pop(next(iter(self.chunks)))

    def stats(self) -> ChunkCacheStats:
        return ChunkCacheStats(len(self.chunks), sum(map(len, self.chunks.values())), self.bytes_max)

    def close(self) -> None:
        self.chunks.clear()
