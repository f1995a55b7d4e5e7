"""The chunk store of a node: pack segments for the bytes, an index for where they are.

    path/segments/00000001.pack …   frames, the truth (`storage.frames`)
    path/index/                     RocksDB, made from them (`storage.chunk_index`)
    path/index.damaged-1 …          an index that could not be read, kept for whoever wants to know why

A chunk passes four states: *claimed* by the thread that encodes and writes it, *pending* once its frame is
written (readable, held, not durable), *indexed* once `sync` made the frame and then the index entry durable,
and gone. The order within `sync` is the safety case: fdatasync of the segments, fsync of their folder, index
batch, index sync, answer. An index entry therefore never points at bytes that power loss can take.

What must hold between locks: changes of the index go through `ChunkIndex.changing`, one at a time; `_lock`
guards claims and pending chunks, is held for microseconds and may be taken inside `changing`, never the other
way round.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import field
from pathlib import Path
from typing import Literal, TypeVar

from mcr.errors import CorruptChunkError, CorruptStoreError, InvalidArgumentError, MissingChunkError
from mcr.model import CHUNK_BYTES_MAX, MIB, Buffer, Chunk, ChunkId
from mcr.values import dataclass
from mcr_node.ports import ChunkStoreStats, Compacted, HeldChunk, PutReceipt, Scrubbed
from mcr_node.storage.chunk_index import (
    Changes,
    ChunkIndex,
    KeyValues,
    Location,
    SegmentAccount,
    SegmentState,
)
from mcr_node.storage.database import Database
from mcr_node.storage.disk import Disk, StorageFailure, UnreadableError
from mcr_node.storage.encodings import Encoding, encode
from mcr_node.storage.frame_reading import FrameReader
from mcr_node.storage.frames import FrameError, FrameHeader, header_of
from mcr_node.storage.group_commit import GroupCommit
from mcr_node.storage.recovery import RecoveryReport, open_index
from mcr_node.storage.segment_scan import Found, scan
from mcr_node.storage.segments import SEGMENT_BYTES_MAX, Region, SegmentFiles, SegmentWriter

_Read = TypeVar("_Read")

# Log and state live on the same disk; with this much left they go on, and a rollback is still possible.
RESERVE_BYTES = 64 * MIB
# With less in it, the segment that is written to is not ended for what of it is dead.
END_BYTES_MIN = MIB


@dataclass(frozen=True, slots=True)
class _Frame:
    """A chunk encoded, on its way to disk."""

    header: FrameHeader
    packed_header: bytes
    payload: Buffer


@dataclass(slots=True, eq=False)
class _Claim:
    """The right of one `put` to store certain chunks; others who bring them wait until it is over."""

    done: threading.Event = field(default_factory=threading.Event)


class PackChunkStore:
    """`ports.ChunkStore` on pack segments. One per folder and process; the index holds a lock file.

    After a StorageFailure reads go on, everything else refuses; the process is to end and start again. Who
    removes makes sure that nobody relies on a `put` that answered "held" before (`services.promises`).
    """

    def __init__(
        self,
        disk: Disk,
        files: SegmentFiles,
        index: ChunkIndex,
        writer: SegmentWriter,
        encoding: Literal["raw", "auto"],
        recovered: RecoveryReport,
    ) -> None:
        self.recovered = recovered
        self._disk = disk
        self._files = files
        self._frames = FrameReader(disk, files)
        self._index = index
        self._writer = writer
        self._encoding = encoding
        self._lock = threading.Lock()
        self._claims: dict[ChunkId, _Claim] = {}
        self._pending: dict[ChunkId, Location] = {}
        # Regions whose frames are all written, until they are in the index.
        self._written: list[Region] = []
        self._commits = GroupCommit(self._commit)
        self._compacting = threading.Lock()
        # Sealed segments do not change, so their lengths are asked for once.
        self._sealed_bytes = {number: files.size_bytes(number) for number in files.numbers()}

    @staticmethod
    def open(
        path: Path,
        *,
        encoding: Literal["raw", "auto"],
        disk: Disk,
        segment_bytes_max: int = SEGMENT_BYTES_MAX,
        reserve_bytes: int = RESERVE_BYTES,
        open_database: Callable[[Path], KeyValues] = Database.open,
    ) -> "PackChunkStore":
        """Open the store in a folder, or make one; `recovered` tells what had to be repaired.

        An index that is gone or damaged is made again from the segments, which takes as long as reading them.

        Args:
            path: the store's own folder.
            encoding: `auto` stores each chunk in its smallest encoding, `raw` as it is. Either reads both.
            disk: how segments are written.
            segment_bytes_max: size at which a segment is sealed.
            reserve_bytes: `put` refuses before the file system has less than this left.
            open_database: opens the ordered store below the index.

        Raises:
            StoreFormatError: a newer release wrote the store; nothing was changed.
            OutOfSpaceError: it cannot be opened without some space.
            StorageFailure: the disk fails.
        """
        files = SegmentFiles(disk, path / "segments")
        disk.make_directory(files.directory)
        index, recovery = open_index(
            path / "index", files, disk, open_database=open_database, segment_bytes_max=segment_bytes_max
        )
        try:
            # The names of the folders, before anything is acknowledged that lies in them.
            disk.sync_directory(path)
            disk.sync_directory(path.parent)
            writer = SegmentWriter(
                disk,
                files,
                active=recovery.active,
                next_number=recovery.next_number,
                segment_bytes_max=segment_bytes_max,
                reserve_bytes=reserve_bytes,
            )
        except BaseException:
            index.close()
            raise
        return PackChunkStore(disk, files, index, writer, encoding, recovery.report)

    def missing(self, ids: Sequence[ChunkId]) -> set[ChunkId]:
        """See `ports.ChunkStore`."""
        with self._lock:
            unknown = [chunk_id for chunk_id in dict.fromkeys(ids) if chunk_id not in self._pending]
        located = zip(unknown, self._index.get_many(unknown), strict=True)
        return {chunk_id for chunk_id, location in located if location is None}

    def put(self, chunks: Sequence[Chunk]) -> PutReceipt:
        """See `ports.ChunkStore`.

        Raises:
            InvalidArgumentError: a chunk is above CHUNK_BYTES_MAX; nothing was written.
            OutOfSpaceError: some may have been written; repeat all after space was freed.
            StorageFailure: now or before; this store is of no more use.
        """
        self._writer.check()
        wanted: dict[ChunkId, Chunk] = {}
        for chunk in chunks:
            if memoryview(chunk.data).nbytes > CHUNK_BYTES_MAX:
                raise InvalidArgumentError("chunks", f"{chunk.id.hex()} is above {CHUNK_BYTES_MAX} bytes")
            wanted.setdefault(chunk.id, chunk)
        frames: list[FrameHeader] = []
        while wanted:
            claim = _Claim()
            mine, awaited = self._claim(wanted, claim)
            try:
                frames += self._write_missing(mine)
            finally:
                self._release(mine, claim)
            # Own claims are settled before waiting for others', so two calls never wait for each other.
            # Whether the other one succeeded, the next turn finds out; if not, the chunk is ours to write.
            for other in dict.fromkeys(awaited.values()):
                other.done.wait()
            wanted = {chunk_id: wanted[chunk_id] for chunk_id in awaited}
        return PutReceipt(
            len(frames),
            sum(frame.plain_bytes for frame in frames),
            sum(frame.frame_bytes for frame in frames),
        )

    def _claim(
        self, wanted: dict[ChunkId, Chunk], claim: _Claim
    ) -> tuple[list[Chunk], dict[ChunkId, _Claim]]:
        mine: list[Chunk] = []
        awaited: dict[ChunkId, _Claim] = {}
        with self._lock:
            for chunk_id, chunk in wanted.items():
                if chunk_id in self._pending:
                    continue
                other = self._claims.setdefault(chunk_id, claim)
                if other is claim:
                    mine.append(chunk)
                else:
                    awaited[chunk_id] = other
        return mine, awaited

    def _release(self, chunks: Sequence[Chunk], claim: _Claim) -> None:
        with self._lock:
            for chunk in chunks:
                del self._claims[chunk.id]
        claim.done.set()

    def _write_missing(self, chunks: Sequence[Chunk]) -> list[FrameHeader]:
        """Write those of the claimed chunks that the index lacks; return the headers of their frames."""
        written: list[FrameHeader] = []
        batch: list[_Frame] = []
        batch_bytes = 0
        # Asked after the claim: what was pending until just now is in the index, never in neither.
        for chunk, location in zip(chunks, self._index.get_many([c.id for c in chunks]), strict=True):
            if location is not None:
                continue
            frame = self._frame_of(chunk)
            if batch and batch_bytes + frame.header.frame_bytes > self._writer.append_bytes_max:
                written += self._write(batch, batch_bytes)
                batch, batch_bytes = [], 0
            batch.append(frame)
            batch_bytes += frame.header.frame_bytes
        return written + (self._write(batch, batch_bytes) if batch else [])

    def _frame_of(self, chunk: Chunk) -> _Frame:
        encoding, payload = Encoding.RAW, chunk.data
        if self._encoding == "auto":
            encoding, payload = encode(chunk.data, chunk.element_bytes)
        header = header_of(chunk.id, encoding, payload, memoryview(chunk.data).nbytes)
        return _Frame(header, header.pack(), payload)

    def _write(self, batch: Sequence[_Frame], batch_bytes: int) -> list[FrameHeader]:
        buffers = [part for frame in batch for part in (frame.packed_header, frame.payload)]
        region = self._writer.append(buffers, batch_bytes)
        offset = region.offset
        with self._lock:
            self._written.append(region)
            for frame in batch:
                self._pending[frame.header.chunk_id] = Location.of(region.segment, offset, frame.header)
                offset += frame.header.frame_bytes
        return [frame.header for frame in batch]

    def sync(self) -> None:
        """See `ports.ChunkStore`.

        Raises:
            OutOfSpaceError: not durable; free space and repeat put and sync.
            StorageFailure: now or before; what was put since the last success may be lost.
        """
        self._commits.run()

    def _commit(self) -> None:
        """Do one round of `sync`; one thread at a time."""
        self._writer.check()
        with self._lock:
            taken, regions = dict(self._pending), list(self._written)
        self._writer.sync()
        with self._poisoning(), self._index.changing() as changes:
            with self._lock:
                # Without those removed or quarantined meanwhile.
                taken = {i: location for i, location in taken.items() if self._pending.get(i) is location}
            changes.put(taken)
            self._cover(changes, regions)
        with self._lock:
            for chunk_id, location in taken.items():
                if self._pending.get(chunk_id) is location:
                    del self._pending[chunk_id]
            del self._written[: len(regions)]
        self._settle(regions)

    def _cover(self, changes: Changes, regions: Sequence[Region]) -> None:
        for coverage in self._writer.coverage(regions):
            known = changes.accounts.get(coverage.segment, SegmentAccount())
            state = SegmentState.SEALED if coverage.sealed else SegmentState.OPEN
            # What was once covered stays so; the writer may know less while another thread is about to
            # settle.
            changes.cover(
                coverage.segment, max(known.covered_bytes, coverage.covered_bytes), max(known.state, state)
            )

    def _settle(self, regions: Sequence[Region]) -> None:
        with self._lock:
            self._sealed_bytes |= self._writer.lengths()
        self._writer.settle(regions)

    @contextmanager
    def _poisoning(self) -> Iterator[None]:
        """Stop all writing for ever when the index turns out to be unwritable."""
        try:
            yield
        except (StorageFailure, CorruptStoreError) as error:
            self._writer.fail(StorageFailure(str(error)))
            raise

    def get(self, chunk_id: ChunkId) -> bytes:
        """See `ports.ChunkStore`.

        Raises:
            MissingChunkError: not held.
            CorruptChunkError: the frame is damaged; it is quarantined.
            FailedError: the frame cannot be read for a reason that lies elsewhere; nothing was changed.
        """
        return self._proven(chunk_id, self._frames.read)

    def get_into(self, chunk_id: ChunkId, place: memoryview) -> int:
        """See `ports.ChunkStore`; raises as `get`."""
        return self._proven(chunk_id, lambda one, location: self._frames.read_into(one, location, place))

    def _proven(self, chunk_id: ChunkId, read: Callable[[ChunkId, Location], _Read]) -> _Read:
        while (location := self._locate(chunk_id)) is not None:
            try:
                return read(chunk_id, location)
            except (FrameError, UnreadableError) as error:
                reason = str(error)
            # Else it moved while it was read (compaction), or was stored anew: look again.
            if self._quarantine(chunk_id, location, reason):
                raise CorruptChunkError(chunk_id.hex(), reason)
        raise MissingChunkError(chunk_id.hex())

    def expect(self, ids: Sequence[ChunkId]) -> None:
        """See `ports.ChunkStore`."""
        self._frames.expect(self._index.expect(ids))

    def _locate(self, chunk_id: ChunkId) -> Location | None:
        with self._lock:
            location = self._pending.get(chunk_id)
        # In this order: a chunk leaves `_pending` only after it is in the index.
        return location if location is not None else self._index.locate(chunk_id)

    def _quarantine(self, chunk_id: ChunkId, location: Location, reason: str) -> bool:
        """Set a damaged frame aside, durably; False when the chunk is no longer there."""
        if self._writer.failed:
            return True
        with self._poisoning(), self._index.changing() as changes:
            with self._lock:
                pending = self._pending.get(chunk_id) == location
                if pending:
                    del self._pending[chunk_id]
            if pending:
                changes.set_aside(location.segment, location.offset, location.frame_bytes, chunk_id, reason)
            return changes.quarantine(chunk_id, location, reason) or pending

    def remove(self, ids: Sequence[ChunkId]) -> int:
        """See `ports.ChunkStore`; durable when it returns.

        Raises:
            OutOfSpaceError: none or all of them may be forgotten; repeat it.
            StorageFailure: now or before; this store is of no more use.
        """
        self._writer.check()
        with self._poisoning(), self._index.changing() as changes:
            with self._lock:
                removed = {i for i in dict.fromkeys(ids) if self._pending.pop(i, None) is not None}
            # In both places for a moment, while a round of `sync` ends.
            return len(removed | changes.delete(list(dict.fromkeys(ids))))

    def held(self, after: ChunkId | None) -> list[HeldChunk]:
        """See `ports.ChunkStore`."""
        return [HeldChunk(chunk_id, location.frame_bytes) for chunk_id, location in self._index.page(after)]

    def compact(self, *, live_share_min: float) -> int:
        """See `ports.ChunkStore`; as `compact_one`."""
        turns = range(len(self._sealed_bytes) + 1)
        done = (self.compact_one(live_share_min=live_share_min) for _ in turns)
        return sum(each.bytes_freed for each in done if each is not None)

    def compact_one(self, *, live_share_min: float) -> Compacted | None:
        """See `ports.ChunkStore`. Uses the reserve if it must, since it gives space back.

        Raises:
            OutOfSpaceError: the segment is as it was.
            StorageFailure: now or before; this store is of no more use.
        """
        with self._compacting:
            self._writer.check()
            self._end_active(live_share_min)
            written = self._writer.lengths()
            shares = [
                (account.live_bytes / size, number, size)
                for number, account in self._index.accounts().items()
                if account.state is SegmentState.SEALED and number not in written
                if (size := self._sealed_bytes.get(number, 0))
            ]
            share, number, size = min(shares, default=(live_share_min, 0, 0))
            if share >= live_share_min:
                return None
            copied_bytes = self._evacuate(number, size)
            return Compacted(size - copied_bytes, copied_bytes)

    def _end_active(self, live_share_min: float) -> None:
        """Begin a new segment if much of the one that is written to is dead, so that it is rewritten too."""
        number, length_bytes = self._writer.active()
        if length_bytes < END_BYTES_MIN:
            return
        account = self._index.accounts().get(number, SegmentAccount())
        with self._lock:
            pending_bytes = sum(at.frame_bytes for at in self._pending.values() if at.segment == number)
        if account.live_bytes + pending_bytes < live_share_min * length_bytes and self._writer.end(number):
            self.sync()

    def _evacuate(self, number: int, size: int) -> int:
        """Copy what lives in a segment and unlink it; return the bytes copied."""
        moves: dict[ChunkId, tuple[Location, Location]] = {}
        regions: list[Region] = []
        try:
            with self._files.reading(number) as handle:
                for item in scan(self._disk, handle, 0, size):
                    if isinstance(item, Found):
                        old = Location.of(number, item.offset, item.header)
                        if self._index.get_many([item.header.chunk_id]) == [old]:
                            buffers = [item.header.pack(), item.payload]
                            region = self._writer.append(buffers, old.frame_bytes, use_reserve=True)
                            regions.append(region)
                            moves[item.header.chunk_id] = (
                                old,
                                Location.of(region.segment, region.offset, item.header),
                            )
            self._writer.sync()
            with self._poisoning(), self._index.changing() as changes:
                current = changes.locate(list(moves))
                changes.put({i: new for i, (old, new) in moves.items() if current.get(i) == old})
                if changes.accounts[number].live_chunks:
                    # The index knows frames that the scan did not find whole.
                    for chunk_id, location in self._index.entries():
                        if location.segment == number:
                            changes.quarantine(
                                chunk_id, location, "its frame was damaged when it was to be moved"
                            )
                changes.cover(number, size, SegmentState.DOOMED)
                self._cover(changes, regions)
        finally:
            # Whatever happened: the copies are in the index, or dead.
            self._settle(regions)
        # Only now, that nothing points into it, even after power loss. Its descriptor is dropped after its
        # name: a reader that still has the old location could open it in between, and keep the space in use.
        with self._poisoning():
            self._disk.unlink(self._files.path(number))
            self._files.forget(number)
            self._disk.sync_directory(self._files.directory)
            with self._index.changing() as changes:
                changes.forget(number)
        with self._lock:
            del self._sealed_bytes[number]
        return sum(region.length_bytes for region in regions)

    def scrub(self, after: ChunkId | None = None) -> Iterator[Scrubbed]:
        """See `ports.ChunkStore`. One frame a step, mostly in the disk's order; the caller sets the rate."""
        with self._lock:
            pending = list(self._pending)
        yield from self._verify(pending, after)
        while page := self._index.page(after):
            last = page[-1][0]
            page.sort(key=lambda entry: (entry[1].segment, entry[1].offset))
            yield from self._verify([chunk_id for chunk_id, _ in page], after)
            after = last

    def _verify(self, ids: Sequence[ChunkId], after: ChunkId | None) -> Iterator[Scrubbed]:
        for chunk_id in ids:
            try:
                yield Scrubbed(chunk_id, len(self.get(chunk_id)), is_damaged=False, after=after)
            except CorruptChunkError:
                yield Scrubbed(chunk_id, 0, is_damaged=True, after=after)
            except MissingChunkError:
                # Removed since the page was read.
                continue

    def stats(self) -> ChunkStoreStats:
        """See `ports.ChunkStore`. From counters, without touching the disk."""
        with self._lock:
            pending = list(self._pending.values())
            lengths = self._sealed_bytes | self._writer.lengths()
        accounts = self._index.accounts().values()
        return ChunkStoreStats(
            chunk_count=sum(account.live_chunks for account in accounts) + len(pending),
            bytes_plain=sum(a.live_plain_bytes for a in accounts) + sum(p.plain_bytes for p in pending),
            bytes_live=sum(a.live_bytes for a in accounts) + sum(p.frame_bytes for p in pending),
            bytes_used=sum(lengths.values()),
            segment_count=len(lengths),
            quarantined=self._index.quarantined,
        )

    def close(self) -> None:
        """See `ports.ChunkStore`; after a StorageFailure it only releases the files."""
        try:
            if not self._writer.failed:
                self.sync()
        finally:
            self._writer.close()
            self._files.close()
            self._index.close()
