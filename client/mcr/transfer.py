"""Chunks to and from a store: the one seam that bulk bytes cross, and what must be checked there."""

from collections.abc import Sequence
from typing import Protocol

from mcr.errors import CorruptChunkError
from mcr.model import Buffer, Chunk, ChunkId, digest
from mcr.values import dataclass

# What one call may carry: large enough to hide the cost of a call, small enough to bound memory.
BATCH_BYTES_MAX = 16 * 1024 * 1024
BATCH_CHUNKS_MAX = 4096


@dataclass(frozen=True, slots=True)
class Stored:
    """What the store did with chunks that were put.

    Attributes:
        chunks_new: chunks it did not hold; bytes_new: their plain bytes; bytes_stored: as encoded on disk.
    """

    chunks_new: int = 0
    bytes_new: int = 0
    bytes_stored: int = 0

    def __add__(self, other: "Stored") -> "Stored":
        return Stored(
            self.chunks_new + other.chunks_new,
            self.bytes_new + other.bytes_new,
            self.bytes_stored + other.bytes_stored,
        )


class ChunkTransport(Protocol):
    """How a client reaches chunks. In the embedded store these are calls; to a node, messages."""

    async def put(self, chunks: Sequence[Chunk]) -> Stored:
        """Hand over chunks; those already held cost nothing. Durable only after `sync`.

        Args:
            chunks: up to BATCH_BYTES_MAX; their buffers are free again when this returns.

        Raises:
            OutOfSpaceError: free space and repeat; what was put before need not be sent again.
        """

    async def sync(self) -> None:
        """Make all that was put durable."""

    async def get(self, ids: Sequence[ChunkId]) -> list[bytes]:
        """Return the plain bytes of each id, verified, in the order asked for.

        Raises:
            MissingChunkError, CorruptChunkError: names the chunk; nothing wrong is returned.
        """

    async def get_into(self, ids: Sequence[ChunkId], places: Sequence[memoryview]) -> list[int]:
        """Write the plain bytes of each id, verified, to where they are wanted.

        Args:
            ids: as for `get`.
            places: writable bytes for each; what they are after a failure has no meaning.

        Returns:
            The lengths of the chunks in bytes. Only to a place that is as long was anything written.

        Raises:
            MissingChunkError, CorruptChunkError: as `get`.
        """

    async def missing(self, ids: Sequence[ChunkId]) -> set[ChunkId]:
        """Return those ids that are not held."""


def verified(chunk_id: ChunkId, data: Buffer, *, element_bytes: int = 0) -> Chunk:
    """Make a chunk of bytes that crossed a border.

    Raises:
        CorruptChunkError: `data` does not hash to `chunk_id`.
    """
    actual = digest(data)
    if actual != chunk_id:
        raise CorruptChunkError(chunk_id.hex(), f"its bytes hash to {actual.hex()}")
    return Chunk(chunk_id, data, element_bytes)


def put_in_places(found: Sequence[Buffer], places: Sequence[memoryview]) -> list[int]:
    """Copy several chunks, as `put_in_place` does."""
    return [put_in_place(data, place) for data, place in zip(found, places, strict=True)]


def put_in_place(data: Buffer, place: memoryview) -> int:
    """Copy the bytes of a chunk to where they are wanted, if they are as long; return how long they are."""
    view = memoryview(data).cast("B")
    if view.nbytes == place.nbytes:
        place[:] = view
    return view.nbytes
