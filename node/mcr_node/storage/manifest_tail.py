"""What RocksDB does not notice in a damaged MANIFEST, looked for before it is opened.

A last record that reaches beyond the end of the file is taken for one that was being written when the power
went: it and all after it are left out. One flipped bit in a record's length looks alike, and tables are
forgotten without a word. But of a record that was torn some bytes are missing; where they are all there, its
checksum says so. And a type of record that stands in no MANIFEST can keep RocksDB from ever returning (9.8.4,
seen).

The file is a log in blocks (RocksDB, "Write Ahead Log File Format"): crc32c, length, type, payload.
"""

import struct
from pathlib import Path
from typing import Final

from mcr.errors import CorruptStoreError

_BLOCK_BYTES: Final = 32 * 1024
_HEAD: Final = struct.Struct("<IHB")
# Whole, first, middle, last. The others are for logs whose files are used again.
_KINDS: Final = (1, 2, 3, 4)
# crc32c, reversed Castagnoli polynomial; stored turned and shifted, so that a checksum of checksums is none.
_POLYNOMIAL: Final = 0x82F63B78
_MASK: Final = 0xA282EAD8
_WORD: Final = 0xFFFFFFFF


def _table_entry(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
    return value


_TABLE: Final[tuple[int, ...]] = tuple(_table_entry(value) for value in range(256))


def check_manifest(path: Path) -> None:
    """Look at the MANIFEST in use of a database that is about to be opened.

    Raises:
        CorruptStoreError: a record at its end is whole, but for its length; or one is of no known type.
    """
    name = (path / "CURRENT").read_text(errors="replace").strip()
    manifest = path / name
    if not name.startswith("MANIFEST-") or "/" in name or not manifest.is_file():
        # RocksDB refuses it by itself.
        return
    data = manifest.read_bytes()
    place = _last_record(data, manifest)
    if place is not None and _is_whole(data, place):
        raise CorruptStoreError(str(manifest), f"the length of the record at {place} is damaged")


def _last_record(data: bytes, manifest: Path) -> int | None:
    """Return where a record begins that reaches beyond the end; None where there is none.

    Raises:
        CorruptStoreError: a record is of no type that stands in a MANIFEST.
    """
    place = 0
    while place + _HEAD.size <= len(data):
        left = _BLOCK_BYTES - place % _BLOCK_BYTES
        if left < _HEAD.size:
            place += left
            continue
        _, length, kind = _HEAD.unpack_from(data, place)
        if not kind and not length:
            # Room that was set aside for more.
            return None
        if kind not in _KINDS:
            raise CorruptStoreError(str(manifest), f"the record at {place} is of type {kind}")
        if place + _HEAD.size + length > len(data):
            return place
        place += _HEAD.size + length
    return None


def _is_whole(data: bytes, place: int) -> bool:
    """Say whether some part of what follows is the payload that the checksum is of."""
    stored = int.from_bytes(data[place : place + 4], "little")
    kind = data[place + _HEAD.size - 1]
    crc = _TABLE[(_WORD ^ kind) & 0xFF] ^ _WORD >> 8
    start = place + _HEAD.size
    for byte in data[start : start + _BLOCK_BYTES]:
        if _masked(crc) == stored:
            return True
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return _masked(crc) == stored


def _masked(crc: int) -> int:
    crc ^= _WORD
    return ((crc >> 15 | crc << 17) + _MASK) & _WORD
