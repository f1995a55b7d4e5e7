"""What the deciding and doing halves need from the world. Each port has a suite in tests/conformance.

All methods block and are called from worker threads, never from the event loop.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

from mcr.model import Chunk, ChunkId, LogIndex
from mcr.values import dataclass
from mcr_node.core.entry import LOG_ENTRY_BYTES_MAX as LOG_ENTRY_BYTES_MAX
from mcr_node.core.entry import HardState as HardState
from mcr_node.core.entry import LogEntry as LogEntry
from mcr_node.core.members import Member
from mcr_node.core.raft.messages import Message
from mcr_node.core.state.digest import Divergence
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
    """The log on disk, and the hard state beside it.

    One thread writes (`write`, `append`, `compact`, `reset`). Any thread may `sync` and read.
    """

    def write(self, entries: Sequence[LogEntry], hard_state: HardState | None = None) -> None:
        """Put entries in place of everything from the index of the first on, and the hard state, atomically.

        Readable at return, durable after the next `sync`. After a crash before it, a prefix of the writes is
        there, each whole or not at all (Raft §5.3: truncation and append are one).

        Args:
            entries: follow each other and what is held; the first is beyond the commit index. May be empty.
            hard_state: None leaves it as it is. A commit index below the known one is taken for the known
                one: it only arrives late.

        Raises:
            OutOfSpaceError: nothing of it is in the log; reopen the store before the next write.
        """

    def sync(self) -> None:
        """Make every write before this call durable; one disk sync serves all who wait.

        Raises:
            StorageFailure: it may or may not be durable; so answers every later write and sync.
        """

    def append(self, entries: Sequence[LogEntry]) -> None:
        """Append to the log of a single voter: durable, and therefore committed, when this returns.

        Raises:
            OutOfSpaceError: nothing of the batch is in the log; reopen the store before the next append.
        """

    def hard_state(self) -> HardState:
        """Return the last hard state written; its commit is at least what the state had applied at open."""

    def read(self, first: LogIndex, last: LogIndex, *, bytes_max: int) -> list[LogEntry]:
        """Return entries from `first` to at most `last` (included), all of which must be held.

        Args:
            first: index of the first entry wanted.
            last: index of the last; below `first` gives nothing.
            bytes_max: of data. Fewer entries are returned when they hold more; the first always is.

        Raises:
            CorruptStoreError: an entry fails its checksum or is missing.
        """

    def term(self, index: LogIndex) -> int:
        """Return the term of an entry that is held, or of the last one before them; 0 for index 0.

        Raises:
            CorruptStoreError: the entry fails its checksum or is missing.
        """

    def bounds(self) -> tuple[LogIndex, LogIndex]:
        """Return (index of the first entry held, of the last); an empty log is (last + 1, last)."""

    def last_term(self) -> int:
        """Return the term of the last entry, compacted or not; 0 for a new log."""

    def compact(self, through: LogIndex) -> None:
        """Forget entries up to and including `through`, which the state store holds durably."""

    def reset(self, index: LogIndex, term: int, hard_state: HardState | None = None) -> None:
        """Forget all entries and begin after one at `index`; durable, with the hard state, when this returns.

        For the moment after `SnapshotSink.install`; `index` is beyond all that was forgotten before, and not
        below the commit index. A crash between the two is made good when the log is
        opened beside the installed state.
        """

    def close(self) -> None:
        """Sync, then release the files."""


@dataclass(frozen=True, slots=True)
class StatePosition:
    """What a state is the state of.

    Attributes:
        applied: index of the last entry whose effects are in it; 0 at the start.
        applied_term: term of that entry; 0 at the start, and where an older release wrote it.
        state_digest: running digest at that entry, 32 bytes.
        configuration: the members as of that entry, in bytes that the store does not look into; may be empty.
    """

    applied: LogIndex
    applied_term: int
    state_digest: bytes
    configuration: bytes


class StateStore(Protocol):
    """The ordered view on disk: what `apply` reads and writes. One writer, many readers."""

    def view(self) -> View:
        """Return the view as of the last `write`; reads see whole batches only."""

    def position(self) -> StatePosition:
        """Return what the state is the state of."""

    def applied(self) -> LogIndex:
        """Return the index of the last entry whose effects are in the view; 0 at the start."""

    def applied_term(self) -> int:
        """Return the term of that entry; 0 at the start, and where an older release wrote it."""

    def state_digest(self) -> bytes:
        """Return the running digest at `applied()`, 32 bytes; 32 zero bytes at the start."""

    def configuration(self) -> bytes:
        """Return the last configuration written, empty at the start."""

    def write(
        self,
        changes: Sequence[tuple[bytes, bytes | None]],
        applied: LogIndex,
        state_digest: bytes,
        *,
        applied_term: int,
        configuration: bytes | None = None,
    ) -> None:
        """Put (or, with None, delete) keys, atomic with the position; visible at return.

        Not yet durable: after a crash the log replays what is missing.

        Args:
            changes: keys and values.
            applied: index of the entry that made them.
            state_digest: running digest at it.
            applied_term: its term.
            configuration: the members from here on; None leaves them as they are.

        Raises:
            OutOfSpaceError: nothing of it is visible; the store must be reopened before the next write.
        """

    def sync(self) -> None:
        """Make all writes durable, so that the log may be compacted up to `applied()`."""

    def close(self) -> None:
        """Release the files."""


class Fence(Protocol):
    """Keeps in mind that a state is wrong, for as long as it is the state, not one that takes its place."""

    def fence(self, divergence: Divergence) -> None:
        """Note it; durable at return.

        Raises:
            OutOfSpaceError: it is known for the life of this process only.
        """

    def divergence(self) -> Divergence | None:
        """Return what was noted."""


@dataclass(frozen=True, slots=True)
class SnapshotFile:
    """One file of a snapshot.

    Attributes:
        name: without a folder.
        size_bytes: its length; may be 0.
        digest: BLAKE3 of its bytes, 32 bytes.
    """

    name: str
    size_bytes: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class SnapshotManifest:
    """What a snapshot consists of, and what it is a snapshot of."""

    position: StatePosition
    files: tuple[SnapshotFile, ...]

    @property
    def bytes_total(self) -> int:
        """Sum of the sizes of the files."""
        return sum(file.size_bytes for file in self.files)


class SnapshotSource(Protocol):
    """A snapshot that can be sent. Any thread may read."""

    @property
    def manifest(self) -> SnapshotManifest:
        """What it consists of."""

    def read(self, name: str, offset: int, length_bytes: int) -> bytes:
        """Return a range of a file, shorter only at its end.

        Raises:
            FailedError: a newer snapshot took its place; begin again with that.
            CorruptStoreError: the file cannot be read.
        """


class SnapshotSink(Protocol):
    """A snapshot that is being received. One thread at a time."""

    def wanted(self) -> tuple[str, int] | None:
        """Return the file and the offset from which it goes on, None when all bytes are here."""

    def write(self, name: str, offset: int, data: bytes) -> None:
        """Take the next range, which begins where `wanted` says.

        Raises:
            CorruptStoreError: it is not the next range, or exceeds the file; go on from `wanted`.
            OutOfSpaceError: free space, then begin again.
        """

    def verify(self) -> None:
        """Find out whether `install` would take what has arrived; nothing is replaced.

        Raises:
            CorruptStoreError, StoreFormatError, FailedError: it would not.
        """

    def install(self) -> StatePosition:
        """Verify every byte and put the snapshot in place of the state, all or nothing; durable at return.

        Scans of the old state that are still under way fail. The log must be `reset` to the position before
        anything else is written to it; but where the state was fenced, and this may then be an older one than
        it: there the log stays, if it holds that position.

        Raises:
            CorruptStoreError: what was received is not what the manifest says; the state is as it was.
        """


class Snapshots(Protocol):
    """Copies of the state on their way to other nodes, and from them: at most one of each."""

    def export(self) -> SnapshotSource:
        """Make a copy as of now, in the place of an earlier one; cheap.

        Raises:
            OutOfSpaceError: free space, then repeat.
        """

    def receive(self, manifest: SnapshotManifest) -> SnapshotSink:
        """Begin to receive, in the place of what was being received.

        Raises:
            CorruptStoreError: the manifest is none of a snapshot: names, numbers or sizes out of bounds.
        """


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


@dataclass(frozen=True, slots=True)
class HeldChunk:
    """A chunk that is held, and what its frame takes on disk."""

    chunk_id: ChunkId
    frame_bytes: int


@dataclass(frozen=True, slots=True)
class Compacted:
    """One segment was rewritten: what was given back, and what had to be copied for it."""

    bytes_freed: int
    bytes_copied: int


@dataclass(frozen=True, slots=True)
class Scrubbed:
    """One frame that `ChunkStore.scrub` read.

    Attributes:
        length_bytes: of the plain chunk; 0 when it is damaged.
        is_damaged: it was, and is quarantined now.
        after: where to begin again so that no frame is left out; None = at the start.
    """

    chunk_id: ChunkId
    length_bytes: int
    is_damaged: bool
    after: ChunkId | None


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

    def get_into(self, chunk_id: ChunkId, place: memoryview) -> int:
        """Write the plain bytes, verified against the id, to where the caller wants them.

        Args:
            chunk_id: whose bytes.
            place: writable; what it holds after a failure has no meaning.

        Returns:
            The chunk's length in bytes. Only where `place` is as long was anything written.

        Raises:
            MissingChunkError, CorruptChunkError: as `get`.
        """

    def expect(self, ids: Sequence[ChunkId]) -> None:
        """Start to read chunks that `get` is about to be asked for; returns at once, promises nothing."""

    def remove(self, ids: Sequence[ChunkId]) -> int:
        """Forget chunks and return how many were held; the space comes back by `compact`."""

    def held(self, after: ChunkId | None) -> list[HeldChunk]:
        """Return some thousand chunks that are durably held, in id order, after an id; nothing = the end."""

    def compact(self, *, live_share_min: float) -> int:
        """Rewrite segments whose live share is below the limit; return the bytes given back."""

    def compact_one(self, *, live_share_min: float) -> Compacted | None:
        """Rewrite the segment with the least live share, if that is below the limit; None = there is none."""

    def scrub(self, after: ChunkId | None = None) -> Iterator[Scrubbed]:
        """Read and verify every frame, one a step; damaged ones are quarantined.

        Args:
            after: an id that an earlier scrub gave as `Scrubbed.after`; None = all frames.
        """

    def stats(self) -> ChunkStoreStats:
        """Return the totals."""

    def close(self) -> None:
        """Sync, then release the files."""


class PeerEvents(Protocol):
    """What the transport tells a node; all on the event loop, none waits."""

    def deliver(self, messages: Sequence[Message]) -> None:
        """Messages of raft have come together; who sent them is proved."""

    def accept_forwarded(self, term: int, commands: Sequence[bytes]) -> None:
        """Commands that another node was given have come, meant for the leader of `term`."""

    def report_unreachable(self, node_id: int) -> None:
        """Something to a peer was lost."""

    def report_snapshot(self, node_id: int, *, failed: bool) -> None:
        """Sending a snapshot to a peer ended."""


class Peers(Protocol):
    """The other nodes. Nothing here waits or promises: what cannot go out now is dropped."""

    def update(self, members: Sequence[Member]) -> None:
        """Know these members, and no others, from now on."""

    def introduce(self, node_id: int, address: str) -> None:
        """Know where a node is that is no member yet, as far as this node knows: it may know nobody yet."""

    def send(self, message: Message) -> None:
        """Send a message of raft to the node that it names, with the next `flush` at the latest."""

    def forward(self, to: int, term: int, commands: Sequence[bytes]) -> None:
        """Hand commands to the leader of `term`, with the next `flush` at the latest."""

    def flush(self) -> None:
        """Let go what was sent since the last time: there is nothing more to say now."""

    def send_snapshot(self, message: Message, source: SnapshotSource) -> None:
        """Send a snapshot, file by file, and its message last; the end is reported to `PeerEvents`."""


class NoPeers:
    """`Peers` of a node that is alone."""

    def update(self, members: Sequence[Member]) -> None:
        """See `Peers`."""

    def introduce(self, node_id: int, address: str) -> None:
        """See `Peers`."""

    def send(self, message: Message) -> None:
        """See `Peers`."""

    def forward(self, to: int, term: int, commands: Sequence[bytes]) -> None:
        """See `Peers`."""

    def flush(self) -> None:
        """See `Peers`."""

    def send_snapshot(self, message: Message, source: SnapshotSource) -> None:
        """See `Peers`."""
