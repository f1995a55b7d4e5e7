"""The replicated log on RocksDB.

    key                 value
    "entry" u64 index   u8 format, u32 crc32 over index, term and data, u64 term, data
    "floor"             u8 format, u32 crc32, u64 index, u64 term: the last entry that was compacted away
    "identity"          id of the store, so that a log that was lost or swapped is noticed
    "last"              as "floor": the last entry that was appended

Numbers are big-endian, so that keys sort as indexes do. "identity" is there from the moment the folder is;
"last" is written together with the entries it speaks of. It sorts behind them, so that tables which hold
newer entries always overlap the one before and are merged with it; else every short command would leave a
small table behind for ever.

An entry is checked whenever it is read. At open only the ends are checked, and what the state has yet to
apply: a command that runs for milliseconds must not read twenty thousand entries first. Nothing is repaired
here: a log with a hole is refused, because whoever acknowledged an entry must not come back without it.
"""

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from mcr.errors import CorruptStoreError, StoreFormatError
from mcr.model import LogIndex
from mcr_node.ports import LOG_ENTRY_BYTES_MAX, LogEntry
from mcr_node.storage.database import Changes, Database

LOG_FORMAT: Final = 1

_ENTRY: Final = b"entry"
_ENTRY_END: Final = b"entrz"
_FLOOR: Final = b"floor"
_IDENTITY: Final = b"identity"
_LAST: Final = b"last"
_HEAD: Final = struct.Struct(">BIQ")
_PLACE: Final = struct.Struct(">QQ")
_PLACE_RECORD: Final = struct.Struct(">BIQQ")
_INDEX_BYTES: Final = 8


class OpenDatabase(Protocol):
    """How a log opens the database below, as `Database.open` does."""

    def __call__(self, path: Path, *, founding: Changes = ()) -> Database:
        """Open the database, or create it with `founding` in it."""


class RocksLogStore:
    """`ports.LogStore` on one database."""

    def __init__(self, database: Database, floor: tuple[LogIndex, int], last: tuple[LogIndex, int]) -> None:
        self._database = database
        self._floor = floor
        self._last = last

    @staticmethod
    def open(
        path: Path,
        identity: bytes,
        *,
        last_at_least: int = 0,
        open_database: OpenDatabase = Database.open,
    ) -> "RocksLogStore":
        """Open the log in a folder, or make it.

        Args:
            path: the log's own folder.
            identity: id of the store it belongs to, not empty.
            last_at_least: index that the state has applied; a log that ends before it lost entries.
            open_database: opens the database below.

        Raises:
            CorruptStoreError: it is another store's log, lacks files or entries, or holds damaged ones.
            StoreFormatError: it was written by a newer release.
            OutOfSpaceError, StoreBusyError, FailedError: as `Database.open`.
        """
        database = open_database(path, founding=[(_IDENTITY, identity)])
        try:
            known, floor_record, last_record = database.get_many([_IDENTITY, _FLOOR, _LAST])
            if known is None:
                raise CorruptStoreError(str(path), "the log has no identity; files of it are gone")
            if known != identity:
                raise CorruptStoreError(str(path), "the log belongs to another store")
            floor = _unpack_place(_FLOOR, floor_record, path)
            last = _unpack_place(_LAST, last_record, path)
            if last < floor:
                raise CorruptStoreError(str(path), f"the log ends at {last[0]}, below its floor {floor[0]}")
            if last[0] < last_at_least:
                raise CorruptStoreError(
                    str(path), f"the log ends at {last[0]}, but the state has applied {last_at_least}"
                )
            log = RocksLogStore(database, floor, last)
            log._check_ends()
            log._check(LogIndex(max(floor[0], min(last_at_least, last[0] - 1)) + 1))
        except BaseException:
            database.close()
            raise
        return log

    def append(self, entries: Sequence[LogEntry]) -> None:
        """See `ports.LogStore`.

        Raises:
            OutOfSpaceError: nothing of the batch is in the log; the store must be reopened first.
            StorageFailure: it may or may not be in the log; the process must end.
        """
        if not entries:
            return
        changes: list[tuple[bytes, bytes | None]] = []
        last, last_term = self._last
        for entry in entries:
            assert entry.index == last + 1, "entries follow each other"
            assert entry.term >= last_term, "terms never go back"
            assert len(entry.data) <= LOG_ENTRY_BYTES_MAX, "a command is bounded where it is made"
            head = _HEAD.pack(LOG_FORMAT, _checksum(entry.index, entry.term, entry.data), entry.term)
            changes.append((_key(entry.index), head + entry.data))
            last, last_term = entry.index, entry.term
        changes.append((_LAST, _pack_place(_LAST, last, last_term)))
        self._database.write(changes)
        self._database.sync()
        self._last = (last, last_term)

    def read(self, first: LogIndex, last: LogIndex) -> list[LogEntry]:
        """See `ports.LogStore`."""
        assert self._floor[0] < first, "compacted away"
        assert last <= self._last[0], "beyond the end"
        entries = [
            _decode(key, value, self._database.path)
            for key, value in self._database.scan(_key(first), _key(last + 1))
        ]
        if [entry.index for entry in entries] != list(range(first, last + 1)):
            raise CorruptStoreError(str(self._database.path), f"entries {first} to {last} are not all held")
        return entries

    def bounds(self) -> tuple[LogIndex, LogIndex]:
        """See `ports.LogStore`."""
        return LogIndex(self._floor[0] + 1), self._last[0]

    def last_term(self) -> int:
        """Return the term of the last entry, compacted or not; 0 for a new log."""
        return self._last[1]

    def compact(self, through: LogIndex) -> None:
        """See `ports.LogStore`; what was compacted before, or nothing yet, is not an error."""
        if through <= self._floor[0]:
            return
        assert through <= self._last[0], "beyond the end"
        floor = (through, self.read(through, through)[0].term)
        # The floor first: entries below it are not looked at, whether or not they are gone yet.
        self._database.write([(_FLOOR, _pack_place(_FLOOR, *floor))])
        self._database.sync()
        self._floor = floor
        # From the first possible entry: an earlier deletion may have been lost with the power.
        self._database.delete_range(_ENTRY, _key(through + 1))

    def verify(self) -> int:
        """Read and check every entry, and return how many there are.

        Raises:
            CorruptStoreError: one is damaged or missing.
        """
        return self._check(LogIndex(self._floor[0] + 1))

    def close(self) -> None:
        """See `ports.LogStore`."""
        self._database.close()

    def _check_ends(self) -> None:
        """Check that the first and the last entry are there, and none beyond."""
        first = self._floor[0] + 1
        if first <= self._last[0]:
            self.read(LogIndex(first), LogIndex(first))
        beyond = next(self._database.scan(_key(self._last[0] + 1), _ENTRY_END), None)
        if beyond is not None:
            raise CorruptStoreError(str(self._database.path), f"entries follow the last, {self._last[0]}")

    def _check(self, first: LogIndex) -> int:
        """Check entries `first` to the last, each against the one before."""
        index, term = first - 1, self._floor[1]
        for key, value in self._database.scan(_key(first), _ENTRY_END):
            entry = _decode(key, value, self._database.path)
            if entry.index != index + 1 or entry.term < term:
                raise CorruptStoreError(
                    str(self._database.path),
                    f"entry {entry.index} of term {entry.term} follows {index} of {term}",
                )
            index, term = entry.index, entry.term
        if first <= self._last[0] and (index, term) != self._last:
            raise CorruptStoreError(
                str(self._database.path),
                f"the log ends at {index} of term {term}, not at {self._last[0]} of {self._last[1]}",
            )
        return index + 1 - first


def _key(index: int) -> bytes:
    return _ENTRY + index.to_bytes(_INDEX_BYTES, "big")


def _checksum(index: int, term: int, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(_PLACE.pack(index, term)))


def _pack_place(key: bytes, index: int, term: int) -> bytes:
    return _PLACE_RECORD.pack(LOG_FORMAT, _checksum(index, term, key), index, term)


def _unpack_place(key: bytes, record: bytes | None, path: Path) -> tuple[LogIndex, int]:
    if record is None:
        return LogIndex(0), 0
    _require_format(record, path)
    if len(record) != _PLACE_RECORD.size:
        raise CorruptStoreError(str(path), f"record {key.decode()!r} has the wrong length")
    _, checksum, index, term = _PLACE_RECORD.unpack(record)
    if checksum != _checksum(index, term, key):
        raise CorruptStoreError(str(path), f"record {key.decode()!r} does not match its checksum")
    return LogIndex(index), term


def _decode(key: bytes, value: bytes, path: Path) -> LogEntry:
    index = int.from_bytes(key[len(_ENTRY) :], "big")
    if len(key) != len(_ENTRY) + _INDEX_BYTES or len(value) < _HEAD.size:
        raise CorruptStoreError(str(path), f"entry {index} is cut off")
    _require_format(value, path)
    _, checksum, term = _HEAD.unpack_from(value)
    data = value[_HEAD.size :]
    if checksum != _checksum(index, term, data):
        raise CorruptStoreError(str(path), f"entry {index} does not match its checksum")
    return LogEntry(LogIndex(index), term, data)


def _require_format(value: bytes, path: Path) -> None:
    found = value[0] if value else 0
    if found > LOG_FORMAT:
        raise StoreFormatError(str(path), found, LOG_FORMAT)
    if found != LOG_FORMAT:
        raise CorruptStoreError(str(path), f"a record has format {found}, which never was")
