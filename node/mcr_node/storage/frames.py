"""Frames: how one chunk stands in a pack segment. A segment is frames one after the other, and nothing else.

All integers are big-endian.

    offset  bytes  field
         0      4  magic, 8F 4D 43 46 (0x8F, "MCF"); such bytes start no UTF-8 character
         4      1  format of the frame, 1
         5      1  encoding of the payload: 0 raw, 1 zstd, 2 planes, 3 delta (reserved)
         6      1  flags; bit 0: a base id follows; the others are 0
         7      1  reserved, 0
         8      4  length of the payload, 0 to 4 MiB
        12      4  length of the plain bytes, 0 to 4 MiB
        16     32  chunk id: BLAKE3-256 of the plain bytes
        48      4  CRC-32 (zlib) of the payload; of no meaning for raw, whose payload the chunk id proves
        52     32  base id, present only with flag bit 0: the chunk that a delta is against
     52/84      4  CRC-32 (zlib) of all header bytes before this field
     56/88         payload

The header has a checksum of its own so that lengths can be trusted before the payload is read, and so that a
reader that lost its place finds the next frame by magic and checksum. The payload's checksum shows a torn or
damaged frame without decoding it, which is enough for whoever looks through a segment; the chunk id is the
proof, made on every read, which therefore leaves the checksum out: decoders refuse what does not decode, and
never take more memory than the header allows. Of a raw payload the id is the checksum as well: it is computed
over the very same bytes, and is faster than CRC-32. The frame alone is enough to enter it in an index again.

Later formats keep the magic, the format byte and the rule that bit 0 of byte 6 alone decides where the
header's checksum stands, so that this release can tell a newer frame from a damaged one. A new encoding needs
a new format.
"""

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from mcr.errors import StoreFormatError
from mcr.model import CHUNK_BYTES_MAX, DIGEST_BYTES, Buffer, ChunkId, digest
from mcr.values import dataclass
from mcr_node.storage.encodings import Encoding, decode, decode_into

MAGIC = b"\x8fMCF"
FRAME_FORMAT = 1
_FIXED = struct.Struct(">4sBBBBII32sI")
_CHECKSUM = struct.Struct(">I")
_FLAG_BASE = 1
HEADER_BYTES_MIN = _FIXED.size + _CHECKSUM.size
HEADER_BYTES_MAX = HEADER_BYTES_MIN + DIGEST_BYTES


class FrameError(Exception):
    """The bytes are not a whole frame, or not the one that was looked for; says what is wrong with them."""


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """What stands before a payload.

    Attributes:
        payload_bytes: length as stored; plain_bytes: length of the chunk itself.
        payload_crc: CRC-32 of the payload as stored; 0 (earlier: the same) and not looked at where it is raw.
        base: the chunk a delta is against; None for the other encodings.
    """

    chunk_id: ChunkId
    encoding: Encoding
    payload_bytes: int
    plain_bytes: int
    payload_crc: int
    base: ChunkId | None = None

    @property
    def header_bytes(self) -> int:
        """Length of the header itself."""
        return HEADER_BYTES_MIN if self.base is None else HEADER_BYTES_MAX

    @property
    def frame_bytes(self) -> int:
        """Length of header and payload."""
        return self.header_bytes + self.payload_bytes

    def pack(self) -> bytes:
        """Return the header's bytes."""
        fixed = _FIXED.pack(
            MAGIC,
            FRAME_FORMAT,
            self.encoding,
            0 if self.base is None else _FLAG_BASE,
            0,
            self.payload_bytes,
            self.plain_bytes,
            self.chunk_id,
            self.payload_crc,
        )
        checked = fixed if self.base is None else fixed + self.base
        return checked + _CHECKSUM.pack(zlib.crc32(checked))


def header_of(chunk_id: ChunkId, encoding: Encoding, payload: Buffer, plain_bytes: int) -> FrameHeader:
    """Return the header that belongs before `payload`."""
    payload_crc = 0 if encoding is Encoding.RAW else zlib.crc32(payload)
    return FrameHeader(chunk_id, encoding, memoryview(payload).nbytes, plain_bytes, payload_crc)


def parse_header(data: Buffer) -> FrameHeader:
    """Read the header at the start of `data`, which may hold more (HEADER_BYTES_MAX is always enough).

    Raises:
        FrameError: there is no valid header.
        StoreFormatError: there is one, of a newer format.
    """
    if len(data) < HEADER_BYTES_MIN:
        raise FrameError("it ends within its header")
    magic, frame_format, encoding, flags, reserved, payload_bytes, plain_bytes, chunk_id, crc = (
        _FIXED.unpack_from(data)
    )
    if magic != MAGIC:
        raise FrameError("there is no frame")
    checked_bytes = _FIXED.size + (DIGEST_BYTES if flags & _FLAG_BASE else 0)
    if len(data) < checked_bytes + _CHECKSUM.size:
        raise FrameError("it ends within its header")
    checked = bytes(data[:checked_bytes])
    if zlib.crc32(checked) != _CHECKSUM.unpack_from(data, checked_bytes)[0]:
        raise FrameError("its header fails the checksum")
    if frame_format != FRAME_FORMAT:
        raise StoreFormatError("a segment", frame_format, FRAME_FORMAT)
    if flags & ~_FLAG_BASE or reserved:
        raise FrameError("its header has unknown flags")
    if max(payload_bytes, plain_bytes) > CHUNK_BYTES_MAX:
        raise FrameError("its header gives a length above the limit")
    try:
        known = Encoding(encoding)
    except ValueError as error:
        raise FrameError(f"its encoding {encoding} is unknown") from error
    base = ChunkId(checked[_FIXED.size :]) if flags & _FLAG_BASE else None
    return FrameHeader(ChunkId(chunk_id), known, payload_bytes, plain_bytes, crc, base)


def check_payload(header: FrameHeader, payload: Buffer) -> None:
    """Raise FrameError unless `payload` is what was written after `header`, as far as a checksum can tell."""
    _check_length(header, payload)
    if header.encoding is Encoding.RAW:
        _check_id(header, payload)
    elif zlib.crc32(payload) != header.payload_crc:
        raise FrameError("its payload fails the checksum")


def _check_length(header: FrameHeader, payload: Buffer) -> None:
    if len(payload) != header.payload_bytes:
        raise FrameError(f"it ends after {len(payload)} of {header.payload_bytes} bytes")


def _check_id(header: FrameHeader, plain: Buffer) -> None:
    if len(plain) != header.plain_bytes:
        raise FrameError(f"it holds {len(plain)} of {header.plain_bytes} bytes")
    actual = digest(plain)
    if actual != header.chunk_id:
        raise FrameError(f"its bytes hash to {actual.hex()}")


def plain_of(header: FrameHeader, payload: bytes) -> bytes:
    """Return the plain bytes of a frame, proved by the chunk id.

    Raises:
        FrameError: the payload is damaged, or was never the chunk its header names.
    """
    _check_length(header, payload)
    plain = payload
    if header.encoding is not Encoding.RAW:
        with _decoding():
            plain = decode(header.encoding, payload, header.plain_bytes)
    _check_id(header, plain)
    return plain


def plain_into(header: FrameHeader, payload: bytes, place: memoryview) -> None:
    """Write the plain bytes of a frame to `place`, which is as long, and prove them there.

    Raises:
        FrameError: as `plain_of`; anything may be in `place` then.
    """
    _check_length(header, payload)
    with _decoding():
        decode_into(header.encoding, payload, place)
    _check_id(header, place)


@contextmanager
def _decoding() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise FrameError(f"its payload does not decode: {error}") from error
