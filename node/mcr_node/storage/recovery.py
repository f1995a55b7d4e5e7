"""What a chunk store does when it opens: makes index and segments agree, and says what it found.

A process may have ended, or the power may have gone, anywhere. Then segments hold frames that the index does
not know (written, their index batch not), or half of them, or holes. And a disk may have lost what it once
had.

1. A segment that compaction had emptied is unlinked.
2. Segments are read from where the index stops covering them. Whole frames enter the index, a torn tail is
   cut, a damaged stretch before whole frames stays where it is, dead.
3. Chunks whose frames are gone, or damaged in what was read, are quarantined: they count as missing, so that
   the next `put` or a peer heals them.

With an empty index the second step reads everything, and that is how an index is rebuilt.
"""

from collections.abc import Callable
from dataclasses import field
from pathlib import Path

from mcr.errors import CorruptStoreError
from mcr.model import ChunkId
from mcr.values import dataclass
from mcr_node.storage.chunk_index import ChunkIndex, KeyValues, Location, SegmentAccount, SegmentState
from mcr_node.storage.disk import Disk, Handle
from mcr_node.storage.segment_scan import Found, Stretch, scan
from mcr_node.storage.segments import SegmentFiles

DAMAGED_INDEXES_MAX = 1000


@dataclass(frozen=True, slots=True)
class RecoveryReport:
    """What opening a chunk store had to do; all zero after a clean close.

    Attributes:
        index_rebuilt: the index was gone or damaged, and was made again from the segments.
        segments_read: segments of which something was not covered by the index.
        frames_reindexed: whole frames that the index did not know.
        bytes_cut: torn tails, cut off.
        bytes_skipped: damaged stretches before whole frames, left as they are.
        chunks_quarantined: chunks that the index knew and that are damaged or gone.
    """

    index_rebuilt: bool = False
    segments_read: int = 0
    frames_reindexed: int = 0
    bytes_cut: int = 0
    bytes_skipped: int = 0
    chunks_quarantined: int = 0


@dataclass(slots=True)
class Recovery:
    """One run; `run` once, then read the results.

    Attributes:
        active: number and length of the segment to go on with; None when there is none with room.
        next_number: for the next new segment.
        report: what was done.
    """

    disk: Disk
    files: SegmentFiles
    index: ChunkIndex
    segment_bytes_max: int
    active: tuple[int, int] | None = None
    next_number: int = 1
    report: RecoveryReport = field(default_factory=RecoveryReport)
    _rebuilding: bool = False
    _sizes: dict[int, int] = field(default_factory=dict)
    # By segment: ranges (start, end, reason) in which no frame that the index knows can be whole.
    _lost: dict[int, list[tuple[int, int, str]]] = field(default_factory=dict)
    _segments_read: int = 0
    _frames_reindexed: int = 0
    _bytes_cut: int = 0
    _bytes_skipped: int = 0

    def run(self) -> None:
        """Make index and segments agree, durably.

        Raises:
            CorruptStoreError: the index is damaged.
            StoreFormatError: a newer release wrote a segment.
            OutOfSpaceError, StorageFailure: it could not be written.
        """
        self._rebuilding = self.index.rebuilding
        self._unlink_doomed()
        numbers = self.files.numbers()
        last = max(numbers, default=0)
        self._sizes = {number: self.files.size_bytes(number) for number in numbers}
        self._find_lost()
        for number in numbers:
            account = self.index.accounts().get(number, SegmentAccount())
            if account.state is SegmentState.OPEN:
                self._recover_segment(number, account, is_last=number == last)
        quarantined = self._quarantine_lost()
        self.next_number = max(last, *self.index.accounts(), 0) + 1
        if self._rebuilding:
            self.index.set_rebuilding(False)
        self.report = RecoveryReport(
            self._rebuilding,
            self._segments_read,
            self._frames_reindexed,
            self._bytes_cut,
            self._bytes_skipped,
            quarantined,
        )

    def _unlink_doomed(self) -> None:
        accounts = self.index.accounts()
        doomed = [number for number, account in accounts.items() if account.state is SegmentState.DOOMED]
        for number in doomed:
            self.disk.unlink(self.files.path(number))
        if doomed:
            # Durable before the accounts go: a segment that came back without one would be read as a new one.
            self.disk.sync_directory(self.files.directory)
            with self.index.changing() as changes:
                for number in doomed:
                    changes.forget(number)

    def _find_lost(self) -> None:
        for number, account in self.index.accounts().items():
            size = self._sizes.get(number)
            if account.live_chunks and size is None:
                self._lost[number] = [(0, account.end_bytes, "its segment is gone")]
            elif account.live_chunks and size is not None and size < account.end_bytes:
                self._lost[number] = [(size, account.end_bytes, "its segment was cut")]

    def _why_lost(self, location: Location) -> str | None:
        for start, end, reason in self._lost.get(location.segment, ()):
            if location.offset < end and location.end > start:
                return reason
        return None

    def _recover_segment(self, number: int, account: SegmentAccount, *, is_last: bool) -> None:
        size = self._sizes[number]
        if account.covered_bytes < size:
            self._segments_read += 1
            handle = self.disk.open_writable(self.files.path(number))
            try:
                size = self._read_tail(handle, number, account, is_last=is_last)
            finally:
                self.disk.close(handle)
        goes_on = is_last and size < self.segment_bytes_max
        if goes_on:
            self.active = (number, size)
        with self.index.changing() as changes:
            changes.cover(number, size, SegmentState.OPEN if goes_on else SegmentState.SEALED)

    def _read_tail(self, handle: Handle, number: int, account: SegmentAccount, *, is_last: bool) -> int:
        """Enter the frames beyond what is covered, cut a torn tail, and return the length that is left."""
        size = self._sizes[number]
        entries: dict[ChunkId, Location] = {}
        damaged: list[Stretch] = []
        for item in scan(self.disk, handle, account.covered_bytes, size):
            match item:
                case Stretch():
                    damaged.append(item)
                case Found() if self._is_new(item.header.chunk_id) and item.header.chunk_id not in entries:
                    entries[item.header.chunk_id] = Location.of(number, item.offset, item.header)
                    if not self._rebuilding:
                        # After a failed fdatasync the cache may hold bytes as clean that are not on disk.
                        # Written again, they are dirty, and the fdatasync below means what it says.
                        self.disk.pwritev(handle, [item.header.pack(), item.payload], item.offset)
                case Found():
                    pass
        torn = damaged[-1] if damaged and damaged[-1].end == size else None
        if torn is not None and (is_last or not self._rebuilding):
            # Never below what the index points at, where bytes are evidence: those chunks are quarantined.
            kept = max(torn.offset, min(account.end_bytes, size))
            self._bytes_cut += size - kept
            size = kept
            self.disk.truncate(handle, size)
        self.disk.fdatasync(handle)
        self.disk.sync_directory(self.files.directory)
        self._enter(number, entries, [stretch for stretch in damaged if stretch.offset < size])
        return size

    def _is_new(self, chunk_id: ChunkId) -> bool:
        (known,) = self.index.get_many([chunk_id])
        return known is None or self._why_lost(known) is not None

    def _enter(self, number: int, entries: dict[ChunkId, Location], damaged: list[Stretch]) -> None:
        self._frames_reindexed += len(entries)
        self._bytes_skipped += sum(stretch.length_bytes for stretch in damaged)
        with self.index.changing() as changes:
            changes.put(entries)
            for stretch in damaged:
                if self._rebuilding:
                    # Nobody can tell any more whether this was acknowledged, so it counts as a loss.
                    chunk_id = stretch.header.chunk_id if stretch.header else None
                    changes.set_aside(number, stretch.offset, stretch.length_bytes, chunk_id, stretch.reason)
                self._lost.setdefault(number, []).append((stretch.offset, stretch.end, stretch.reason))

    def _quarantine_lost(self) -> int:
        lost: list[tuple[ChunkId, Location, str]] = []
        pointed_at = {number for number, account in self.index.accounts().items() if account.live_chunks}
        if not pointed_at.isdisjoint(self._lost):
            for chunk_id, location in self.index.entries():
                if reason := self._why_lost(location):
                    lost.append((chunk_id, location, reason))
        gone = self.index.accounts().keys() - self._sizes.keys()
        with self.index.changing() as changes:
            count = sum(changes.quarantine(*entry) for entry in lost)
            for number in gone:
                if not changes.accounts[number].live_chunks:
                    changes.forget(number)
        return count


def open_index(
    path: Path,
    files: SegmentFiles,
    disk: Disk,
    *,
    open_database: Callable[[Path], KeyValues],
    segment_bytes_max: int,
) -> tuple[ChunkIndex, Recovery]:
    """Open the index at `path` and make it agree with the segments; one that is gone or damaged is made anew.

    Raises:
        StoreFormatError: a newer release wrote the store; nothing was changed.
        OutOfSpaceError, StorageFailure: it could not be opened or written.
    """
    missing = not disk.exists(path)
    try:
        return _open_and_recover(path, files, disk, open_database, segment_bytes_max, rebuild=missing)
    except CorruptStoreError:
        move_aside(path, disk)
        return _open_and_recover(path, files, disk, open_database, segment_bytes_max, rebuild=True)


def _open_and_recover(
    path: Path,
    files: SegmentFiles,
    disk: Disk,
    open_database: Callable[[Path], KeyValues],
    segment_bytes_max: int,
    *,
    rebuild: bool,
) -> tuple[ChunkIndex, Recovery]:
    index = ChunkIndex.open(path, disk, open_database)
    try:
        if rebuild and files.numbers():
            # Durable first: a rebuild that is interrupted goes on as one.
            index.set_rebuilding(True)
        recovery = Recovery(disk, files, index, segment_bytes_max)
        recovery.run()
    except BaseException:
        index.close()
        raise
    return index, recovery


def move_aside(index_path: Path, disk: Disk) -> None:
    """Rename an index, so that a new one can be made and the old one studied.

    Raises:
        CorruptStoreError: that happened DAMAGED_INDEXES_MAX times before.
        StorageFailure: it could not be renamed.
    """
    for number in range(1, DAMAGED_INDEXES_MAX + 1):
        target = index_path.with_name(f"{index_path.name}.damaged-{number}")
        if not disk.exists(target):
            disk.rename(index_path, target)
            disk.sync_directory(index_path.parent)
            return
    raise CorruptStoreError(str(index_path), f"it was moved aside {DAMAGED_INDEXES_MAX} times before")
