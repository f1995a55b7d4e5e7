"""Pack segments: append-only files of frames. Here are reading, finding frames again, and appending.

A writer reserves a region under a short lock and writes it outside, so several threads fill one segment at
once. The price is that a crash may leave holes: a region whose write never happened before one whose write
did. Hence `segment_scan.scan` looks for the next frame after a damaged stretch, and hence `Coverage`: the
offset below which all frames are in the index, from where the next start has to look.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import field
from pathlib import Path

from mcr.errors import FailedError, OutOfSpaceError
from mcr.model import MIB, Buffer
from mcr.values import dataclass
from mcr_node.storage.disk import Disk, Handle, StorageFailure, UnreadableError

SEGMENT_BYTES_MAX = 256 * MIB
# A sync that comes after so much finds little left to do. While a disk syncs it takes no writes, some 100 ms
# for 64 MiB, and then all buffers fill up and all work stands still; with 32 a commit took 0.9 of the time.
BACKGROUND_SYNC_BYTES = 32 * MIB
# A statvfs costs a few microseconds, so the free space is asked for once in so many bytes.
SPACE_CHECK_BYTES = 8 * MIB
# Frames that go to disk in one call: many small chunks cost one system call, large ones are not held back.
APPEND_BYTES = 4 * MIB
OPEN_FILES_MAX = 64
_SUFFIX = ".pack"


@dataclass(slots=True)
class _Cached:
    handle: Handle
    users: int = 0
    forgotten: bool = False


class SegmentFiles:
    """The segment files of a store, for reading: names, and a bounded set of open descriptors.

    Any number of threads may read; a descriptor is closed only when nobody uses it.
    """

    def __init__(self, disk: Disk, directory: Path) -> None:
        self.directory = directory
        self._disk = disk
        self._lock = threading.Lock()
        self._cached: OrderedDict[int, _Cached] = OrderedDict()

    def path(self, number: int) -> Path:
        """Return where segment `number` is."""
        return self.directory / f"{number:08d}{_SUFFIX}"

    def numbers(self) -> list[int]:
        """Return the numbers of the segments on disk, ascending; other files in the folder are left alone."""
        stems = (name.removesuffix(_SUFFIX) for name in self._disk.list_names(self.directory))
        return sorted(int(stem) for stem in stems if stem.isascii() and stem.isdigit())

    @contextmanager
    def reading(self, number: int) -> Iterator[Handle]:
        """Lend the descriptor of a segment.

        Raises:
            UnreadableError: the segment is gone.
            FailedError: it cannot be opened for a reason that lies elsewhere.
        """
        with self._lock:
            cached = self._cached.get(number)
            if cached is None:
                cached = self._cached[number] = _Cached(self._disk.open_readable(self.path(number)))
            cached.users += 1
            self._cached.move_to_end(number)
        try:
            yield cached.handle
        finally:
            with self._lock:
                cached.users -= 1
                if cached.forgotten and not cached.users:
                    self._disk.close(cached.handle)
                self._evict()

    def _evict(self) -> None:
        surplus = len(self._cached) - OPEN_FILES_MAX
        if surplus > 0:
            idle = [number for number, cached in self._cached.items() if not cached.users]
            for number in idle[:surplus]:
                self._disk.close(self._cached.pop(number).handle)

    def forget(self, number: int) -> None:
        """Close a segment's descriptor, as soon as nobody uses it."""
        with self._lock:
            cached = self._cached.pop(number, None)
            if cached is not None:
                cached.forgotten = True
                if not cached.users:
                    self._disk.close(cached.handle)

    def read_ahead(self, number: int, length_bytes: int, offset: int) -> None:
        """Let the disk begin to read a stretch that is wanted soon; what fails is told by the read itself."""
        with suppress(UnreadableError, FailedError), self.reading(number) as handle:
            self._disk.read_ahead(handle, length_bytes, offset)

    def size_bytes(self, number: int) -> int:
        """Return the length of a segment on disk."""
        with self.reading(number) as handle:
            return self._disk.size_bytes(handle)

    def close(self) -> None:
        """Close every descriptor, those in use when their users are done."""
        for number in list(self._cached):
            self.forget(number)


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """Consecutive bytes of a segment that one append wrote; two regions are never equal."""

    segment: int
    offset: int
    length_bytes: int


@dataclass(frozen=True, slots=True)
class Coverage:
    """How far the index covers a segment that is or was written to.

    Attributes:
        covered_bytes: all frames before this offset are in the index, or dead.
        sealed: nothing will be added, and all is covered.
    """

    segment: int
    covered_bytes: int
    sealed: bool


@dataclass(slots=True)
class _Segment:
    """A segment that is being filled, or has unsynced or uncovered bytes. Guarded by the writer's lock."""

    number: int
    handle: Handle
    reserved_bytes: int
    uncovered: set[Region] = field(default_factory=set)
    # Counts rather than a flag: a write that ends during an fdatasync must not look synced afterwards.
    writes_done: int = 0
    writes_synced: int = 0
    write_lock: threading.Lock = field(default_factory=threading.Lock)
    sync_lock: threading.Lock = field(default_factory=threading.Lock)


class SegmentWriter:
    """Appends to the last segment and makes it durable; starts a new one at the size limit.

    Any number of threads may call it at once. The first StorageFailure, or `fail`, ends all writing for ever.
    """

    def __init__(
        self,
        disk: Disk,
        files: SegmentFiles,
        *,
        active: tuple[int, int] | None,
        next_number: int,
        segment_bytes_max: int,
        reserve_bytes: int,
    ) -> None:
        """Take over a segment or none.

        Args:
            disk: what to write with.
            files: where segments are.
            active: number and length of the segment to go on with; None starts with a new one.
            next_number: for the next new segment; no higher number was ever used.
            segment_bytes_max: a segment grows beyond only to hold a single larger append.
            reserve_bytes: appends stop before the file system has less than this left.
        """
        self._disk = disk
        self._files = files
        self._next_number = next_number
        self._segment_bytes_max = segment_bytes_max
        self._reserve_bytes = reserve_bytes
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._directory_lock = threading.Lock()
        self._segments: dict[int, _Segment] = {}
        self._active: _Segment | None = None
        self._failure: StorageFailure | None = None
        self._allowance_bytes = 0
        self._writing_bytes = 0
        self._created = 0
        self._created_synced = 0
        self._unsynced_bytes = 0
        self._thread: threading.Thread | None = None
        self._closing = False
        if active is not None:
            number, length_bytes = active
            handle = disk.open_writable(files.path(number))
            self._active = self._segments[number] = _Segment(number, handle, length_bytes)

    @property
    def append_bytes_max(self) -> int:
        """How much one append should hold, unless a single frame is longer."""
        return min(APPEND_BYTES, self._segment_bytes_max)

    @property
    def failed(self) -> bool:
        """Whether there was a StorageFailure."""
        return self._failure is not None

    def check(self) -> None:
        """Raise StorageFailure if there was one before."""
        if self._failure is not None:
            raise StorageFailure(f"the store stopped after: {self._failure}") from self._failure

    def fail(self, failure: StorageFailure) -> None:
        """Refuse all further appends and syncs."""
        self._failure = self._failure or failure

    def append(self, buffers: Sequence[Buffer], length_bytes: int, *, use_reserve: bool = False) -> Region:
        """Write buffers one after the other; readable when this returns, durable after `sync`.

        The region stays uncovered until `settle`.

        Raises:
            OutOfSpaceError: nothing counts as written.
            StorageFailure: now or before; the store is of no more use.
        """
        with self._lock:
            self.check()
            if not use_reserve:
                self._check_space(length_bytes)
            segment = self._segment_for(length_bytes)
            region = Region(segment.number, segment.reserved_bytes, length_bytes)
            segment.reserved_bytes += length_bytes
            self._writing_bytes += length_bytes
            segment.uncovered.add(region)
        try:
            # The kernel takes one buffered write per file at a time anyway, but spins for its turn; waiting
            # here instead saved a third of the processor time of two threads that write.
            with segment.write_lock:
                self._disk.pwritev(segment.handle, buffers, region.offset)
        except (OutOfSpaceError, StorageFailure) as error:
            self._abandon(segment, region)
            if isinstance(error, StorageFailure):
                self.fail(error)
            raise
        with self._lock:
            segment.writes_done += 1
            self._writing_bytes -= length_bytes
            self._unsynced_bytes += length_bytes
            if self._unsynced_bytes >= BACKGROUND_SYNC_BYTES:
                self._wake_background()
        return region

    def _abandon(self, segment: _Segment, region: Region) -> None:
        with self._lock:
            segment.uncovered.discard(region)
            self._writing_bytes -= region.length_bytes
            # At the end the space can be used again; elsewhere it stays a hole, dead until compaction.
            if segment.reserved_bytes == region.offset + region.length_bytes:
                segment.reserved_bytes = region.offset
            self._allowance_bytes = 0

    def _check_space(self, length_bytes: int) -> None:
        if self._allowance_bytes < length_bytes:
            # What others are about to write is promised, though the file system does not know of it yet.
            spare = self._disk.free_bytes(self._files.directory) - self._reserve_bytes - self._writing_bytes
            if spare < length_bytes:
                raise OutOfSpaceError(
                    str(self._files.directory),
                    f"less than the reserve of {self._reserve_bytes} bytes would be left",
                )
            self._allowance_bytes = max(length_bytes, min(spare, SPACE_CHECK_BYTES))
        self._allowance_bytes -= length_bytes

    def _segment_for(self, length_bytes: int) -> _Segment:
        active = self._active
        if active is None or 0 < active.reserved_bytes > self._segment_bytes_max - length_bytes:
            handle = self._disk.create(self._files.path(self._next_number))
            active = self._active = self._segments[self._next_number] = _Segment(self._next_number, handle, 0)
            self._next_number += 1
            self._created += 1
        return active

    def sync(self) -> None:
        """Make every completed append durable, and the names of new segments.

        Raises:
            StorageFailure: now or before; the store is of no more use.
        """
        self.check()
        try:
            self._sync_segments()
            with self._directory_lock:
                created = self._created
                if created != self._created_synced:
                    self._disk.sync_directory(self._files.directory)
                    self._created_synced = created
        except StorageFailure as failure:
            self.fail(failure)
            raise
        # The background thread may have met one meanwhile, which this thread's fdatasync would not see again.
        self.check()

    def _sync_segments(self) -> None:
        with self._lock:
            self._unsynced_bytes = 0
            segments = list(self._segments.values())
        for segment in segments:
            with segment.sync_lock:
                done = segment.writes_done
                if done != segment.writes_synced:
                    self._disk.fdatasync(segment.handle)
                    segment.writes_synced = done

    def _wake_background(self) -> None:
        # Lazily, because most openings of a store write little; daemonic, because it owns nothing to finish.
        if self._thread is None:
            self._thread = threading.Thread(target=self._run_background, name="segment-sync", daemon=True)
            self._thread.start()
        self._wake.notify()

    def _run_background(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closing or self._unsynced_bytes >= BACKGROUND_SYNC_BYTES)
                if self._closing:
                    return
            try:
                self._sync_segments()
            except StorageFailure as failure:
                self.fail(failure)
                return

    def coverage(self, regions: Iterable[Region]) -> list[Coverage]:
        """Return the coverage of each segment as it is once the frames in `regions` are in the index."""
        settled = set(regions)
        found = []
        with self._lock:
            for segment in self._segments.values():
                starts = [region.offset for region in segment.uncovered if region not in settled]
                covered_bytes = min(starts, default=segment.reserved_bytes)
                found.append(
                    Coverage(segment.number, covered_bytes, segment is not self._active and not starts)
                )
        return found

    def settle(self, regions: Iterable[Region]) -> None:
        """Note that regions are in the index, or need not be; close segments that are full and covered."""
        with self._lock:
            for region in regions:
                self._segments[region.segment].uncovered.discard(region)
            full = [s for s in self._segments.values() if s is not self._active and not s.uncovered]
            for segment in full:
                del self._segments[segment.number]
        for segment in full:
            with segment.sync_lock:
                self._disk.close(segment.handle)

    def active(self) -> tuple[int, int]:
        """Return number and length of the segment that the next append goes to; zeros where it is new."""
        with self._lock:
            return (0, 0) if self._active is None else (self._active.number, self._active.reserved_bytes)

    def end(self, number: int) -> bool:
        """Let the next append begin a new segment, if it would go to this one; say whether it does."""
        with self._lock:
            is_active = self._active is not None and self._active.number == number
            if is_active:
                self._active = None
            return is_active

    def lengths(self) -> dict[int, int]:
        """Return number and length of the segments that are being written."""
        with self._lock:
            return {segment.number: segment.reserved_bytes for segment in self._segments.values()}

    def close(self) -> None:
        """Stop the background thread and release the files; what was not synced may be lost."""
        with self._lock:
            self._closing = True
            self._wake.notify_all()
        if self._thread is not None:
            self._thread.join()
        for segment in self._segments.values():
            self._disk.close(segment.handle)
        self._segments.clear()
