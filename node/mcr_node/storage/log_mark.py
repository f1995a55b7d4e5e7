r"""The mark of a log: a small file beside its database that says how far the log reached at least.

RocksDB opens without a word when its write-ahead log was cut, and then lacks what was synced: entries that
were acknowledged, or a vote, so that the voter votes twice. The mark is what it cannot forget: it is replaced
whole (written aside, synced, renamed) whenever a term or a vote was synced, once in a while for entries, and
at close. At open the log must reach as far as the mark.

    8 bytes "mcr log\n"; u8 format, 1; u32 crc32 of what follows
    u64 index, u64 term     an entry that was synced; entries up to it are there, or compacted away
    u64 term, u64 vote      a hard state that was synced
    identity                of the store, to the end of the file

The mark may lag behind the log, never lead it: an entry it names is lowered before it is truncated.
"""

import struct
import zlib
from pathlib import Path
from typing import Final

from mcr.errors import CorruptStoreError, StoreFormatError
from mcr.model import LogIndex
from mcr.values import dataclass
from mcr_node.storage.disk import Disk, UnreadableError

MARK_FORMAT: Final = 1
MARK_BYTES_MAX: Final = 4096
_MAGIC: Final = b"mcr log\n"
_HEAD: Final = struct.Struct(f">{len(_MAGIC)}sBI")
_NUMBERS: Final = struct.Struct(">QQQQ")
_SUFFIX: Final = ".mark"
_START: Final = LogIndex(0)


@dataclass(frozen=True, slots=True)
class LogMark:
    """What a log reached at least: an entry by index and term, and a term with the vote in it."""

    index: LogIndex = _START
    entry_term: int = 0
    term: int = 0
    vote: int = 0


def mark_path(log_path: Path) -> Path:
    """Return where the mark of the log in a folder is: outside of it, lest both go at once."""
    return log_path.with_name(log_path.name + _SUFFIX)


def write_mark(disk: Disk, log_path: Path, identity: bytes, mark: LogMark) -> None:
    """Put the mark in place; durable when this returns.

    Raises:
        OutOfSpaceError: the mark is as it was.
        StorageFailure: it may be either.
    """
    body = _NUMBERS.pack(mark.index, mark.entry_term, mark.term, mark.vote) + identity
    disk.replace(mark_path(log_path), _HEAD.pack(_MAGIC, MARK_FORMAT, zlib.crc32(body)) + body)


def read_mark(disk: Disk, log_path: Path, identity: bytes) -> LogMark | None:
    """Return the mark, None where there is no file.

    Raises:
        CorruptStoreError: it is damaged, or another store's.
        StoreFormatError: a newer release wrote it.
    """
    path = mark_path(log_path)
    if not disk.exists(path):
        return None
    try:
        handle = disk.open_readable(path)
        try:
            data = disk.pread(handle, MARK_BYTES_MAX, 0)
        finally:
            disk.close(handle)
    except UnreadableError as error:
        raise CorruptStoreError(str(path), str(error)) from error
    if len(data) < _HEAD.size + _NUMBERS.size or not data.startswith(_MAGIC):
        raise CorruptStoreError(str(path), "it is not the mark of a log")
    _, found, checksum = _HEAD.unpack_from(data)
    if found > MARK_FORMAT:
        raise StoreFormatError(str(path), found, MARK_FORMAT)
    body = data[_HEAD.size :]
    if found != MARK_FORMAT or checksum != zlib.crc32(body):
        raise CorruptStoreError(str(path), "it does not match its checksum")
    if body[_NUMBERS.size :] != identity:
        raise CorruptStoreError(str(path), "it belongs to another store")
    index, entry_term, term, vote = _NUMBERS.unpack_from(body)
    return LogMark(LogIndex(index), entry_term, term, vote)
