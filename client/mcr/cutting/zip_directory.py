"""The central directory of a zip file, read by ranges: where each stored member's bytes lie.

Only the container is read, never a member's compressed bytes. Section numbers are those of PKWARE's APPNOTE
6.3.10.
"""

from collections.abc import Iterator
from struct import Struct

from mcr.cutting.ranges import Reader
from mcr.cutting.spans import TENSORS_MAX, MalformedError
from mcr.model import KIB, MIB
from mcr.values import dataclass

MAGICS = (b"PK\x03\x04", b"PK\x05\x06")
# A million members with names of 60 bytes; a longer directory is no model's.
DIRECTORY_BYTES_MAX = 256 * MIB
COMMENT_BYTES_MAX = 64 * KIB - 1
_STORED = 0
_FLAG_ENCRYPTED = 1
_ZIP64_EXTRA = 0x0001
_SATURATED_32 = 0xFFFFFFFF
_SATURATED_16 = 0xFFFF

# §4.3.7, up to the name: signature, versions, flags, method, time, CRC, sizes, then the two lengths.
_LOCAL = Struct("<4s22xHH")
# §4.3.12: signature, flags, method, sizes, lengths of name, extra and comment, offset of the local header.
_CENTRAL = Struct("<4s4xHH8xIIHHH8xI")
# §4.3.16: signature, entries in all, size and offset of the directory.
_END = Struct("<4s6xHII2x")
# §4.3.14 and §4.3.15.
_END_64 = Struct("<4s28xQQQ")
_LOCATOR_64 = Struct("<4s4xQ4x")


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a zip file.

    Attributes:
        header_offset_bytes: where its local header starts.
        length_bytes: of its plain bytes.
        is_stored: its bytes stand in the file as they are: not compressed, not encrypted.
    """

    name: str
    header_offset_bytes: int
    length_bytes: int
    is_stored: bool


def members(reader: Reader) -> Iterator[Member]:
    """Yield the members in the directory's order.

    Raises:
        MalformedError: there is no sound directory.
    """
    count, length_bytes, offset_bytes = _end(reader)
    if count > TENSORS_MAX or length_bytes > DIRECTORY_BYTES_MAX:
        raise MalformedError(f"a zip directory of {count} members in {length_bytes} bytes")
    directory = reader.at(offset_bytes, length_bytes)
    at = 0
    for _ in range(count):
        if at + _CENTRAL.size > len(directory):
            raise MalformedError("the zip directory ends too early")
        fields = _CENTRAL.unpack_from(directory, at)
        (
            signature,
            flags,
            method,
            packed_bytes,
            plain_bytes,
            name_bytes,
            extra_bytes,
            comment_bytes,
            header,
        ) = fields
        name_at = at + _CENTRAL.size
        extra_at = name_at + name_bytes
        at = extra_at + extra_bytes + comment_bytes
        if signature != b"PK\x01\x02" or at > len(directory):
            raise MalformedError("the zip directory is damaged")
        plain_bytes, packed_bytes, header = _widen(
            directory[extra_at : extra_at + extra_bytes], (plain_bytes, packed_bytes, header)
        )
        is_stored = method == _STORED and not flags & _FLAG_ENCRYPTED and packed_bytes == plain_bytes
        name = directory[name_at:extra_at].decode("utf-8", "replace")
        yield Member(name, header, plain_bytes, is_stored)


def data_offset(reader: Reader, member: Member) -> int:
    """Return where the plain bytes of a stored member start.

    The local header has lengths of its own: writers pad it to align the data, the directory does not tell.

    Raises:
        MalformedError: there is no local header, or the bytes do not fit in the file.
    """
    signature, name_bytes, extra_bytes = _LOCAL.unpack(reader.at(member.header_offset_bytes, _LOCAL.size))
    offset_bytes = member.header_offset_bytes + _LOCAL.size + int(name_bytes) + int(extra_bytes)
    if signature != b"PK\x03\x04" or offset_bytes + member.length_bytes > reader.size_bytes:
        raise MalformedError(f"zip member {member.name[:80]!r} is not where the directory says")
    return offset_bytes


def _end(reader: Reader) -> tuple[int, int, int]:
    tail_bytes = min(reader.size_bytes, _END.size + COMMENT_BYTES_MAX)
    tail_offset = reader.size_bytes - tail_bytes
    tail = reader.at(tail_offset, tail_bytes)
    at = tail.rfind(b"PK\x05\x06", 0, max(0, tail_bytes - _END.size + len(MAGICS[1])))
    if at < 0:
        raise MalformedError("no end of a zip directory")
    _, count, length_bytes, offset_bytes = _END.unpack_from(tail, at)
    if count == _SATURATED_16 or _SATURATED_32 in (length_bytes, offset_bytes):
        return _end_64(reader, tail_offset + at) or (count, length_bytes, offset_bytes)
    return count, length_bytes, offset_bytes


def _end_64(reader: Reader, end_offset_bytes: int) -> tuple[int, int, int] | None:
    if end_offset_bytes < _LOCATOR_64.size:
        return None
    locator = reader.at(end_offset_bytes - _LOCATOR_64.size, _LOCATOR_64.size)
    signature, record_offset_bytes = _LOCATOR_64.unpack(locator)
    if signature != b"PK\x06\x07":
        return None  # A plain zip may hold exactly 65,535 members.
    record = reader.at(record_offset_bytes, _END_64.size)
    signature, count, length_bytes, offset_bytes = _END_64.unpack(record)
    if signature != b"PK\x06\x06":
        raise MalformedError("the zip64 directory is not where its locator says")
    return count, length_bytes, offset_bytes


def _widen(extra: bytes, fields: tuple[int, int, int]) -> tuple[int, int, int]:
    """Replace saturated 32-bit fields by their 64-bit values, which stand in the fields' order (§4.5.3)."""
    if _SATURATED_32 not in fields:
        return fields
    wide = _zip64_values(extra)
    plain_bytes, packed_bytes, header = (
        next(wide, field) if field == _SATURATED_32 else field for field in fields
    )
    return plain_bytes, packed_bytes, header


def _zip64_values(extra: bytes) -> Iterator[int]:
    at = 0
    while at + 4 <= len(extra):
        kind = int.from_bytes(extra[at : at + 2], "little")
        length_bytes = int.from_bytes(extra[at + 2 : at + 4], "little")
        block = extra[at + 4 : at + 4 + length_bytes]
        if kind == _ZIP64_EXTRA:
            for start in range(0, len(block) - 7, 8):
                yield int.from_bytes(block[start : start + 8], "little")
            return
        at += 4 + length_bytes
