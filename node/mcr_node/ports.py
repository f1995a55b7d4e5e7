"""What the deciding and doing halves need from the world. Each port has a suite in tests/conformance.

All methods block and are called from worker threads, never from the event loop.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from mcr.model import Chunk, ChunkId, LogIndex
from mcr_node.core.replica import LOG_ENTRY_BYTES_MAX as LOG_ENTRY_BYTES_MAX
from mcr_node.core.replica import LogEntry as LogEntry
from mcr_node.core.state.view import View


class StorageFailure(Exception):  # noqa: N818 - an end, not an error that somebody handles
    """The disk did not keep a promise; whoever meets this must stop writing and end the process.

    A failed fsync is never retried: Linux reports it once, marks the pages clean and drops what they held, so
    a second fsync would succeed and mean nothing (Rebello et al., "Can applications recover from fsync
    failures?", USENIX ATC 2020). After a restart, what is really on disk decides.
    """


class Clock(Protocol):
    """Where time comes from. The only source of it in a node."""

    def now_ms(self) -> int:
        """Return milliseconds since 1970, UTC. May jump either way."""

    def monotonic_ns(self) -> int:
        """Return nanoseconds since some start; never goes back."""


class LogStore(Protocol):
    """The log on disk. One writer."""

    def append(self, entries: Sequence[LogEntry]) -> None:
        """Write entries after the last one; durable when this returns.

        Raises:
            OutOfSpaceError: nothing of the batch is in the log; reopen the store before the next append.
        """

    def read(self, first: LogIndex, last: LogIndex) -> list[LogEntry]:
        """Return entries first..last (both included); all must be held.

        Raises:
            CorruptStoreError: an entry fails its checksum or is missing.
        """

    def bounds(self) -> tuple[LogIndex, LogIndex]:
        """Return (index of the first entry held, of the last); an empty log is (last + 1, last)."""

    def last_term(self) -> int:
        """Return the term of the last entry, compacted or not; 0 for a new log."""

    def compact(self, through: LogIndex) -> None:
        """Forget entries up to and including `through`, which the state store holds durably."""

    def close(self) -> None:
        """Release the files."""


class StateStore(Protocol):
    """The ordered view on disk: what `apply` reads and writes. One writer, many readers."""

    def view(self) -> View:
        """Return the view as of the last `write`; reads see whole batches only."""

    def applied(self) -> LogIndex:
        """Return the index of the last entry whose effects are in the view; 0 at the start."""

    def state_digest(self) -> bytes:
        """Return the running digest at `applied()`, 32 bytes; 32 zero bytes at the start."""

    def write(
        self, changes: Sequence[tuple[bytes, bytes | None]], applied: LogIndex, state_digest: bytes
    ) -> None:
        """Put (or, with None, delete) keys, atomic with the applied index and digest; visible at return.

        Not yet durable: after a crash the log replays what is missing.

        Raises:
            OutOfSpaceError: nothing of it is visible; the store must be reopened before the next write.
        """

    def sync(self) -> None:
        """Make all writes durable, so that the log may be compacted up to `applied()`."""

    def close(self) -> None:
        """Release the files."""


@dataclass(frozen=True, slots=True)
class PutReceipt:
    """What one `ChunkStore.put` did.

    Attributes:
        chunks_new: chunks that were not held before (a chunk repeated within the call counts once).
        bytes_new: their plain bytes; bytes_stored: what their frames take on disk.
    """

    chunks_new: int
    bytes_new: int
    bytes_stored: int


@dataclass(frozen=True, slots=True)
class ChunkStoreStats:
    """Totals of a chunk store.

    Attributes:
        bytes_live: frame bytes that the index points at; bytes_used: size of all segment files.
        quarantined: frames found damaged and set aside.
    """

    chunk_count: int
    bytes_plain: int
    bytes_live: int
    bytes_used: int
    segment_count: int
    quarantined: int


class ChunkStore(Protocol):
    """Content-addressed bytes on disk. All methods may be called from several threads at once."""

    def missing(self, ids: Sequence[ChunkId]) -> set[ChunkId]:
        """Return those of `ids` that are not held (put but not yet synced counts as held)."""

    def put(self, chunks: Sequence[Chunk]) -> PutReceipt:
        """Append the chunks not held yet; readable at once, durable after the next `sync`.

        Raises:
            OutOfSpaceError: some may have been written; repeat all after space was freed.
        """

    def sync(self) -> None:
        """Make everything put before, by any thread, durable; one disk sync serves all who wait.

        Raises:
            OutOfSpaceError: not durable; free space and repeat put and sync.
        """

    def get(self, chunk_id: ChunkId) -> bytes:
        """Return the plain bytes, verified against the id.

        Raises:
            MissingChunkError: not held.
            CorruptChunkError: the frame is damaged; it is quarantined and no longer counts as held, so a
                later `put` of the same chunk heals it.
        """

    def expect(self, ids: Sequence[ChunkId]) -> None:
        """Start to read chunks that `get` is about to be asked for; returns at once, promises nothing."""

    def remove(self, ids: Sequence[ChunkId]) -> int:
        """Forget chunks and return how many were held; the space comes back by `compact`."""

    def compact(self, *, live_share_min: float) -> int:
        """Rewrite sealed segments whose live share is below the limit; return the bytes given back."""

    def scrub(self) -> Iterator[ChunkId]:
        """Read and verify every frame; yield the ids of those found damaged (and quarantined)."""

    def stats(self) -> ChunkStoreStats:
        """Return the totals."""

    def close(self) -> None:
        """Sync, then release the files."""
