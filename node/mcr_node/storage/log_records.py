"""The bytes of the log: rows of its database, each with its format and its checksum.

    key                 value
    "entry" u64 index   u8 format, u32 crc32, u64 term, u8 kind, data
    "floor"             u8 format, u32 crc32, u64 index, u64 term: the last entry that was compacted away
    "guarded"           empty: the log has a mark (`log_mark`), without which it is not opened
    "hard"              u8 format, u32 crc32, u64 term, u64 vote, u64 commit: `HardState`
    "identity"          id of the store, so that a log that was lost or swapped is noticed
    "last"              as "floor": the last entry that was appended

Numbers are big-endian, so that keys sort as indexes do. The checksum of an entry is over index, term and
kind (8, 8 and 1 bytes) and data; of the others, over the numbers and then the key. "last" and "hard" are
written together with the entries they speak of, which also keeps tables few: they sort behind the entries,
so that a table with newer ones always overlaps the one before and is merged with it.

Format 1, which is still read: entries have no kind, neither in the value nor in the checksum, and there is
neither "hard" nor "guarded": it was the log of a single voter.
"""

import struct
import zlib
from pathlib import Path
from typing import Final

from mcr.errors import CorruptStoreError, StoreFormatError
from mcr.model import LogIndex
from mcr_node.core.entry import KIND_MAX, KIND_NORMAL, HardState, LogEntry

LOG_FORMAT: Final = 2
_FORMAT_OF_ONE_VOTER: Final = 1

ENTRY: Final = b"entry"
ENTRY_END: Final = b"entrz"
FLOOR: Final = b"floor"
GUARDED: Final = b"guarded"
HARD: Final = b"hard"
IDENTITY: Final = b"identity"
LAST: Final = b"last"

_INDEX_BYTES: Final = 8
_HEAD_OF_ONE_VOTER: Final = struct.Struct(">BIQ")
_HEAD: Final = struct.Struct(">BIQB")
_KIND: Final = struct.Struct(">QQB")
_PLACE: Final = struct.Struct(">QQ")
_HARD: Final = struct.Struct(">QQQ")
_SEAL: Final = struct.Struct(">BI")

Place = tuple[LogIndex, int]


def entry_key(index: int) -> bytes:
    """Return the key of an entry."""
    return ENTRY + index.to_bytes(_INDEX_BYTES, "big")


def encode_entry(entry: LogEntry) -> bytes:
    """Return the value of an entry."""
    checksum = _checksum(_KIND.pack(entry.index, entry.term, entry.kind), entry.data)
    return _HEAD.pack(LOG_FORMAT, checksum, entry.term, entry.kind) + entry.data


def decode_entry(key: bytes, value: bytes, path: Path) -> LogEntry:
    """Return the entry of a row.

    Raises:
        CorruptStoreError: it is damaged, or another entry's.
        StoreFormatError: a newer release wrote it.
    """
    index = int.from_bytes(key[len(ENTRY) :], "big")
    found = _require_format(value, path)
    head = _HEAD if found == LOG_FORMAT else _HEAD_OF_ONE_VOTER
    if len(key) != len(ENTRY) + _INDEX_BYTES or len(value) < head.size:
        raise CorruptStoreError(str(path), f"entry {index} is cut off")
    data = value[head.size :]
    if found == LOG_FORMAT:
        _, checksum, term, kind = _HEAD.unpack_from(value)
        place = _KIND.pack(index, term, kind)
    else:
        _, checksum, term = _HEAD_OF_ONE_VOTER.unpack_from(value)
        kind, place = KIND_NORMAL, _PLACE.pack(index, term)
    if checksum != _checksum(place, data):
        raise CorruptStoreError(str(path), f"entry {index} does not match its checksum")
    if kind > KIND_MAX:
        raise CorruptStoreError(str(path), f"entry {index} has the kind {kind}, which never was")
    return LogEntry(LogIndex(index), term, data, kind)


def encode_place(key: bytes, place: Place) -> bytes:
    """Return the value of "floor" or "last"."""
    return _seal(key, _PLACE.pack(*place))


def decode_place(key: bytes, record: bytes | None, path: Path) -> Place:
    """Return what "floor" or "last" says; (0, 0) where there is none.

    Raises:
        CorruptStoreError, StoreFormatError: as `decode_entry`.
    """
    if record is None:
        return LogIndex(0), 0
    index, term = _PLACE.unpack(_unseal(key, record, _PLACE.size, path))
    return LogIndex(index), term


def encode_hard(hard_state: HardState) -> bytes:
    """Return the value of "hard"."""
    return _seal(HARD, _HARD.pack(hard_state.term, hard_state.vote, hard_state.commit))


def decode_hard(record: bytes | None, path: Path) -> HardState | None:
    """Return what "hard" says, None where there is none.

    Raises:
        CorruptStoreError, StoreFormatError: as `decode_entry`.
    """
    if record is None:
        return None
    term, vote, commit = _HARD.unpack(_unseal(HARD, record, _HARD.size, path))
    return HardState(term, vote, LogIndex(commit))


def _checksum(numbers: bytes, rest: bytes) -> int:
    return zlib.crc32(rest, zlib.crc32(numbers))


def _seal(key: bytes, numbers: bytes) -> bytes:
    return _SEAL.pack(LOG_FORMAT, _checksum(numbers, key)) + numbers


def _unseal(key: bytes, record: bytes, numbers_bytes: int, path: Path) -> bytes:
    _require_format(record, path)
    if len(record) != _SEAL.size + numbers_bytes:
        raise CorruptStoreError(str(path), f"record {key.decode()!r} has the wrong length")
    numbers = record[_SEAL.size :]
    if _SEAL.unpack_from(record)[1] != _checksum(numbers, key):
        raise CorruptStoreError(str(path), f"record {key.decode()!r} does not match its checksum")
    return numbers


def _require_format(value: bytes, path: Path) -> int:
    found = value[0] if value else 0
    if found > LOG_FORMAT:
        raise StoreFormatError(str(path), found, LOG_FORMAT)
    if found not in (_FORMAT_OF_ONE_VOTER, LOG_FORMAT):
        raise CorruptStoreError(str(path), f"a record has format {found}, which never was")
    return found
