"""The cache of chunks that a node fetched for readers: a port of its own, since nothing may rely on it."""

from collections.abc import Sequence
from typing import Protocol

from mcr.model import Chunk, ChunkId
from mcr.values import dataclass


@dataclass(frozen=True, slots=True)
class ChunkCacheStats:
    """Totals of a cache.

    Attributes:
        bytes_used: of its files; bytes_max: what they may take now.
    """

    chunk_count: int
    bytes_used: int
    bytes_max: int


class ChunkCache(Protocol):
    """Chunks that may be gone at any moment. All methods may be called from several threads at once."""

    def held(self, ids: Sequence[ChunkId]) -> set[ChunkId]:
        """Return those of `ids` that are in it."""

    def get(self, chunk_id: ChunkId) -> bytes | None:
        """Return the plain bytes, verified against the id; None when it is not there, or was damaged."""

    def put(self, chunks: Sequence[Chunk]) -> None:
        """Keep chunks, in place of the oldest ones. Where there is no room they are not kept."""

    def stats(self) -> ChunkCacheStats:
        """Return the totals."""

    def close(self) -> None:
        """Release the files, which stay."""
