"""The chunk index: where each chunk stands, how much of each segment is alive, and what was set aside.

Keys and values in the ordered store, integers big-endian:

    "c" + chunk id (32)                      segment (4), offset (8), payload length (4), plain length (4),
                                             encoding (1), and for a delta the base id (32)
    "q" + segment (4) + offset (8)           length (8), chunk id (32, zeros when unknown), reason (UTF-8)
    "s" + segment (4)                        live frame bytes (8), live chunks (8), their plain bytes (8),
                                             covered bytes (8), end of the last indexed frame (8), state (1)
    "m" + "format"                           format of the index (4), 1
    "m" + "rebuilding"                       empty; present while segments are being read into a new index

The segments are the truth and the index is made from them, with one exception: a removed chunk is removed
only here. A rebuilt index may bring it back, which costs space until garbage collection finds it again, and
nothing else.
"""

import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from enum import IntEnum
from pathlib import Path
from typing import Protocol

from mcr.errors import CorruptStoreError, OutOfSpaceError, StoreFormatError
from mcr.model import DIGEST_BYTES, MIB, ChunkId
from mcr.values import dataclass
from mcr_node.storage.disk import Disk, StorageFailure
from mcr_node.storage.encodings import Encoding
from mcr_node.storage.frames import HEADER_BYTES_MAX, HEADER_BYTES_MIN, FrameHeader

INDEX_FORMAT = 1
# Entries taken per step of a scan: enough to sort reads by place, some megabytes of memory.
PAGE_ENTRIES = 16384
# Locations kept for reads that were announced: some megabytes. All batches of a few readers at a time.
EXPECTED_CHUNKS_MAX = 16384
# What the ordered store needs to open again after the disk was full: a log, a manifest, and room to work.
REOPEN_BYTES_MIN = 16 * MIB

_LOCATION = struct.Struct(">IQIIB")
_ACCOUNT = struct.Struct(">QQQQQB")
_QUARANTINED = struct.Struct(">Q32s")
_SEGMENT = struct.Struct(">I")
_PLACE = struct.Struct(">IQ")
_FORMAT_KEY = b"mformat"
_REBUILDING_KEY = b"mrebuilding"
_NO_ID = ChunkId(bytes(DIGEST_BYTES))

Change = tuple[bytes, bytes | None]


class KeyValues(Protocol):
    """The ordered store below, as `storage.database.Database` is."""

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the value of each key, or None."""

    def write(self, changes: Sequence[Change]) -> None:
        """Write a batch, all or nothing; not yet durable."""

    def sync(self) -> None:
        """Make every write before durable."""

    def scan(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Yield start <= key < end in order."""

    def close(self) -> None:
        """Release it."""


@dataclass(frozen=True, slots=True)
class Location:
    """Where a chunk's frame stands."""

    segment: int
    offset: int
    payload_bytes: int
    plain_bytes: int
    encoding: Encoding
    base: ChunkId | None = None

    @staticmethod
    def of(segment: int, offset: int, header: FrameHeader) -> "Location":
        """Return the location of a frame with this header."""
        return Location(
            segment, offset, header.payload_bytes, header.plain_bytes, header.encoding, header.base
        )

    @property
    def header_bytes(self) -> int:
        """Length of the frame's header."""
        return HEADER_BYTES_MIN if self.base is None else HEADER_BYTES_MAX

    @property
    def frame_bytes(self) -> int:
        """Length of the frame."""
        return self.header_bytes + self.payload_bytes

    @property
    def end(self) -> int:
        """The offset after its last byte."""
        return self.offset + self.frame_bytes

    def pack(self) -> bytes:
        """Return the value kept in the index."""
        fixed = _LOCATION.pack(self.segment, self.offset, self.payload_bytes, self.plain_bytes, self.encoding)
        return fixed if self.base is None else fixed + self.base

    @staticmethod
    def parse(data: bytes) -> "Location":
        """Read `pack`'s bytes.

        Raises:
            ValueError: they are not.
        """
        if len(data) not in (_LOCATION.size, _LOCATION.size + DIGEST_BYTES):
            raise ValueError(f"a location of {len(data)} bytes")
        segment, offset, payload_bytes, plain_bytes, encoding = _LOCATION.unpack_from(data)
        base = ChunkId(data[_LOCATION.size :]) if len(data) > _LOCATION.size else None
        return Location(segment, offset, payload_bytes, plain_bytes, Encoding(encoding), base)


class SegmentState(IntEnum):
    """What may still happen to a segment."""

    OPEN = 0
    SEALED = 1
    DOOMED = 2
    """All that lived in it lives elsewhere; to be unlinked."""


@dataclass(frozen=True, slots=True)
class SegmentAccount:
    """What the index knows of a segment.

    Attributes:
        live_bytes, live_chunks, live_plain_bytes: of the frames the index points at.
        covered_bytes: frames before this offset are in the index, or dead.
        end_bytes: the end of the last frame that was ever in the index; a shorter file has lost data.
    """

    live_bytes: int = 0
    live_chunks: int = 0
    live_plain_bytes: int = 0
    covered_bytes: int = 0
    end_bytes: int = 0
    state: SegmentState = SegmentState.OPEN

    def pack(self) -> bytes:
        """Return the value kept in the index."""
        return _ACCOUNT.pack(
            self.live_bytes,
            self.live_chunks,
            self.live_plain_bytes,
            self.covered_bytes,
            self.end_bytes,
            self.state,
        )

    @staticmethod
    def parse(data: bytes) -> "SegmentAccount":
        """Read `pack`'s bytes.

        Raises:
            ValueError: they are not.
        """
        if len(data) != _ACCOUNT.size:
            raise ValueError(f"an account of {len(data)} bytes")
        live_bytes, live_chunks, live_plain_bytes, covered_bytes, end_bytes, state = _ACCOUNT.unpack(data)
        return SegmentAccount(
            live_bytes, live_chunks, live_plain_bytes, covered_bytes, end_bytes, SegmentState(state)
        )


class ChunkIndex:
    """The index of one store. Reads from any thread; changes one at a time, through `changing`."""

    def __init__(
        self, path: Path, disk: Disk, open_database: Callable[[Path], KeyValues], database: KeyValues
    ) -> None:
        self._path = path
        self._disk = disk
        self._open_database = open_database
        self._database = database
        self._must_reopen = False
        # Written and visible, but the sync after it failed for lack of space.
        self._unsynced = False
        # Keeps the database open under whoever reads; held for microseconds, but for pages of a scan.
        self._database_lock = threading.Lock()
        self._change_lock = threading.Lock()
        # By key; under the database lock, so that what a change drops does not come back.
        self._expected: dict[bytes, Location] = {}
        self._accounts: dict[int, SegmentAccount] = {}
        self._quarantined = 0

    @staticmethod
    def open(path: Path, disk: Disk, open_database: Callable[[Path], KeyValues]) -> "ChunkIndex":
        """Open an index, or make an empty one.

        Raises:
            CorruptStoreError: it is damaged; `rebuilding.rebuild_index` makes a new one.
            StoreFormatError: a newer release wrote it.
            OutOfSpaceError: it cannot be opened without space.
        """
        index = ChunkIndex(path, disk, open_database, open_database(path))
        try:
            index._load()
        except BaseException:
            index.close()
            raise
        return index

    def _load(self) -> None:
        (packed,) = self._database.get_many([_FORMAT_KEY])
        if packed is None:
            self._database.write([(_FORMAT_KEY, INDEX_FORMAT.to_bytes(4, "big"))])
        elif int.from_bytes(packed, "big") != INDEX_FORMAT:
            raise StoreFormatError(str(self._path), int.from_bytes(packed, "big"), INDEX_FORMAT)
        for key, value in self._database.scan(b"s", b"t"):
            try:
                self._accounts[_SEGMENT.unpack(key[1:])[0]] = SegmentAccount.parse(value)
            except (ValueError, struct.error) as error:
                raise CorruptStoreError(str(self._path), f"the account of a segment: {error}") from error
        self._quarantined = sum(1 for _ in self._database.scan(b"q", b"r"))

    @property
    def quarantined(self) -> int:
        """How many frames were found damaged and set aside, ever."""
        return self._quarantined

    @property
    def rebuilding(self) -> bool:
        """Whether segments are, or were when the process ended, being read into a new index."""
        with self._database_lock:
            return self._database.get_many([_REBUILDING_KEY]) != [None]

    def set_rebuilding(self, rebuilding: bool) -> None:
        """Note durably that a rebuild starts, or is complete."""
        with self._change_lock:
            self._write([(_REBUILDING_KEY, b"" if rebuilding else None)])
            self._sync()

    def accounts(self) -> dict[int, SegmentAccount]:
        """Return what is known of each segment, by number."""
        return dict(self._accounts)

    def get_many(self, ids: Sequence[ChunkId]) -> list[Location | None]:
        """Return where each chunk is, or None.

        Raises:
            CorruptStoreError: the index is damaged.
        """
        with self._database_lock:
            values = self._database.get_many([b"c" + chunk_id for chunk_id in ids])
        return [None if value is None else self._location(value) for value in values]

    def expect(self, ids: Sequence[ChunkId]) -> list[Location]:
        """Return where chunks are, without those not held, and know it until `locate` is asked or it changes.

        A look at the database costs as much as reading a small chunk, and threads wait for each other's; one
        look for many chunks costs hardly more.

        Raises:
            CorruptStoreError: the index is damaged.
        """
        keys = [b"c" + chunk_id for chunk_id in ids]
        with self._database_lock:
            values = self._database.get_many(keys)
            held = {
                key: self._location(value)
                for key, value in zip(keys, values, strict=True)
                if value is not None
            }
            if len(self._expected) + len(held) > EXPECTED_CHUNKS_MAX:
                self._expected.clear()
            self._expected |= held
        return list(held.values())

    def locate(self, chunk_id: ChunkId) -> Location | None:
        """Return where a chunk is, or None.

        Raises:
            CorruptStoreError: the index is damaged.
        """
        expected = self._expected.pop(b"c" + chunk_id, None)
        return expected if expected is not None else self.get_many([chunk_id])[0]

    def _location(self, value: bytes) -> Location:
        try:
            return Location.parse(value)
        except ValueError as error:
            raise CorruptStoreError(str(self._path), str(error)) from error

    def is_set_aside(self, segment: int, offset: int) -> bool:
        """Return whether a damaged frame at this place was recorded."""
        with self._database_lock:
            return self._database.get_many([b"q" + _PLACE.pack(segment, offset)]) != [None]

    def page(self, after: ChunkId | None) -> list[tuple[ChunkId, Location]]:
        """Return up to PAGE_ENTRIES entries in id order, those after an id; an empty list is the end.

        Raises:
            CorruptStoreError: the index is damaged.
        """
        found: list[tuple[ChunkId, Location]] = []
        with self._database_lock:
            entries = self._database.scan(b"c" if after is None else b"c" + after + b"\0", b"d")
            for key, value in entries:
                found.append((ChunkId(key[1:]), self._location(value)))
                if len(found) == PAGE_ENTRIES:
                    break
        return found

    def entries(self) -> Iterator[tuple[ChunkId, Location]]:
        """Yield all entries in id order, those that change meanwhile as they were or as they are."""
        last: ChunkId | None = None
        while page := self.page(last):
            yield from page
            last = page[-1][0]

    @contextmanager
    def changing(self) -> Iterator["Changes"]:
        """Collect changes; they are written in one batch, and durable, when the block ends without an error.

        Raises:
            OutOfSpaceError: the changes may not be durable, and may or may not be visible; make them again.
            StorageFailure: the index can no longer be written.
        """
        with self._change_lock:
            if self._must_reopen:
                self._reopen()
            changes = Changes(self)
            yield changes
            batch = changes.batch()
            if batch:
                self._write(batch)
                self._accounts = changes.accounts
                self._quarantined += changes.quarantined
                self._unsynced = True
            if self._unsynced:
                self._sync()
                self._unsynced = False

    def _write(self, batch: Sequence[Change]) -> None:
        try:
            with self._database_lock:
                for key, _ in batch:
                    self._expected.pop(key, None)
                self._database.write(batch)
        except OutOfSpaceError:
            # RocksDB refuses all writes from here on, even once there is space, until it is opened again.
            self._must_reopen = True
            raise

    def _sync(self) -> None:
        try:
            self._database.sync()
        except OutOfSpaceError:
            self._must_reopen = True
            raise

    def _reopen(self) -> None:
        if self._disk.free_bytes(self._path) < REOPEN_BYTES_MIN:
            raise OutOfSpaceError(str(self._path), f"fewer than {REOPEN_BYTES_MIN} bytes are free")
        with self._database_lock:
            try:
                self._database.close()
                self._database = self._open_database(self._path)
            except Exception as error:
                raise StorageFailure(f"the index could not be opened again: {error}") from error
        self._must_reopen = False

    def close(self) -> None:
        """Release the files."""
        with self._database_lock:
            self._database.close()


class Changes:
    """Changes to an index that become true together; only inside `ChunkIndex.changing`."""

    def __init__(self, index: ChunkIndex) -> None:
        self._index = index
        self.accounts = index.accounts()
        self.quarantined = 0
        self._before = index.accounts()
        self._known: dict[ChunkId, Location | None] = {}
        self._locations: dict[ChunkId, Location | None] = {}
        self._set_aside: dict[bytes, bytes] = {}

    def locate(self, ids: Sequence[ChunkId]) -> dict[ChunkId, Location]:
        """Return where chunks are with these changes, without those not held."""
        unseen = [chunk_id for chunk_id in ids if chunk_id not in self._locations]
        known = dict(zip(unseen, self._index.get_many(unseen), strict=True))
        self._known |= known
        self._locations |= known
        located = ((chunk_id, self._locations[chunk_id]) for chunk_id in ids)
        return {chunk_id: location for chunk_id, location in located if location is not None}

    def put(self, entries: Mapping[ChunkId, Location]) -> None:
        """Enter chunks, in the place of what is known of them."""
        self.delete(
            [chunk_id for chunk_id, old in self.locate(list(entries)).items() if old != entries[chunk_id]]
        )
        for chunk_id, location in entries.items():
            if self._locations[chunk_id] != location:
                self._count(location, 1)
                self._locations[chunk_id] = location

    def delete(self, ids: Sequence[ChunkId]) -> set[ChunkId]:
        """Forget chunks; return those that were held."""
        held = self.locate(ids)
        for chunk_id, location in held.items():
            self._count(location, -1)
            self._locations[chunk_id] = None
        return set(held)

    def _count(self, location: Location, sign: int) -> None:
        account = self.accounts.get(location.segment, SegmentAccount())
        self.accounts[location.segment] = replace(
            account,
            live_bytes=account.live_bytes + sign * location.frame_bytes,
            live_chunks=account.live_chunks + sign,
            live_plain_bytes=account.live_plain_bytes + sign * location.plain_bytes,
            end_bytes=max(account.end_bytes, location.end),
        )

    def set_aside(
        self, segment: int, offset: int, length_bytes: int, chunk_id: ChunkId | None, reason: str
    ) -> None:
        """Record a damaged frame, so that it is counted for ever; the same place counts once."""
        key = b"q" + _PLACE.pack(segment, offset)
        self.quarantined += key not in self._set_aside and not self._index.is_set_aside(segment, offset)
        self._set_aside[key] = _QUARANTINED.pack(length_bytes, chunk_id or _NO_ID) + reason.encode()

    def quarantine(self, chunk_id: ChunkId, location: Location, reason: str) -> bool:
        """Set aside and forget a chunk; False when it is no longer at that location, and nothing is done."""
        if self.locate([chunk_id]).get(chunk_id) != location:
            return False
        self.set_aside(location.segment, location.offset, location.frame_bytes, chunk_id, reason)
        self.delete([chunk_id])
        return True

    def cover(self, segment: int, covered_bytes: int, state: SegmentState) -> None:
        """Note how far a segment is covered, and its state."""
        account = self.accounts.get(segment, SegmentAccount())
        self.accounts[segment] = replace(account, covered_bytes=covered_bytes, state=state)

    def forget(self, segment: int) -> None:
        """Drop the account of a segment that is no longer on disk."""
        assert not self.accounts[segment].live_chunks, "the index points into a segment that is gone"
        del self.accounts[segment]

    def batch(self) -> list[Change]:
        """Return all changes as one batch; empty when nothing changes."""
        changes: list[Change] = []
        for chunk_id, location in self._locations.items():
            if location != self._known[chunk_id]:
                changes.append((b"c" + chunk_id, None if location is None else location.pack()))
        changes += self._set_aside.items()
        for segment in sorted(self.accounts.keys() | self._before.keys()):
            account = self.accounts.get(segment)
            if account != self._before.get(segment):
                changes.append((b"s" + _SEGMENT.pack(segment), None if account is None else account.pack()))
        return changes
