"""Messages that carry chunks, written and taken apart by hand: what protobuf would copy twice is joined once.

The bytes are those of `PutChunksRequest` and `GetChunksResponse` (protos/mcr/v1/chunks.proto), which have the
same one field, so other languages use their ordinary stubs. Measured here: protobuf's own serialiser costs a
third of the throughput of an upload from an event loop.
"""

from collections.abc import Iterable, Iterator, Sequence

from google.protobuf.message import DecodeError

from mcr.errors import InvalidArgumentError
from mcr.model import CHUNK_BYTES_MAX, DIGEST_BYTES, KIB, MIB, Buffer, Chunk, ChunkId
from mcr.v1 import chunks_pb2 as pb
from mcr.values import dataclass

# Measured: 64 KiB messages halve the rate of 1 MiB ones, and from 4 MiB on it falls again.
FRAME_BYTES = 1 * MIB
FRAME_CHUNKS_MAX = 4096
# A frame that is nearly full and one more chunk, of which a reader learns only then that it is of the
# greatest size; with the ids and lengths of all. Also what any other message may take.
MESSAGE_BYTES_MAX = FRAME_BYTES + CHUNK_BYTES_MAX + 256 * KIB
# Metadata of PutChunks, there when the chunks come from where they are made: what another node sends is not
# forwarded.
FORWARD_KEY = "mcr-forward"
ELEMENT_BYTES = (0, 1, 2, 4, 8)

# Field 1 of a message, then fields 1, 2 and 3 of a chunk (protobuf's encoding: number << 3 | wire type).
_CHUNKS, _ID, _ELEMENT, _DATA = 0x0A, 0x0A, 0x10, 0x1A
_ID_HEAD = bytes((_ID, DIGEST_BYTES))
_VARINT_MORE = 0x80


class _OtherShapeError(Exception):
    """A valid message perhaps, but not as `encode` writes it."""


@dataclass(frozen=True, slots=True)
class Received:
    """A chunk as it came over the border: nothing is proven about it yet; see `mcr.transfer.verified`."""

    id: ChunkId
    element_bytes: int
    data: Buffer


def group(chunks: Sequence[Chunk]) -> Iterator[list[Chunk]]:
    """Split chunks into what one frame carries each."""
    frame: list[Chunk] = []
    length_bytes = 0
    for chunk in chunks:
        if frame and (length_bytes + len(chunk.data) > FRAME_BYTES or len(frame) == FRAME_CHUNKS_MAX):
            yield frame
            frame, length_bytes = [], 0
        frame.append(chunk)
        length_bytes += len(chunk.data)
    if frame:
        yield frame


def encode(chunks: Iterable[Chunk]) -> bytes:
    """Return one frame. Copies the data once; the buffers are free again."""
    return b"".join(parts(chunks)[0])


def parts(chunks: Iterable[Chunk]) -> tuple[list[Buffer], int]:
    """Return the buffers that make one frame, the chunks' own among them, and their length together."""
    buffers: list[Buffer] = []
    frame_bytes = 0
    for chunk in chunks:
        element = bytes((_ELEMENT, chunk.element_bytes)) if chunk.element_bytes else b""
        head = b"".join((_ID_HEAD, chunk.id, element, bytes((_DATA,)), _varint(len(chunk.data))))
        length_bytes = len(head) + len(chunk.data)
        front = bytes((_CHUNKS,)) + _varint(length_bytes) + head
        buffers += (front, chunk.data)
        frame_bytes += len(front) + len(chunk.data)
    return buffers, frame_bytes


def decode(frame: Buffer) -> list[Received]:
    """Take a frame apart; the data are views of it.

    Raises:
        InvalidArgumentError: it is no frame, or a chunk breaks the limits.
    """
    try:
        found = list(_fast(memoryview(frame)))
    except _OtherShapeError:
        found = _general(bytes(frame))
    for chunk in found:
        if len(chunk.id) != DIGEST_BYTES:
            raise InvalidArgumentError("id", f"it has {len(chunk.id)} bytes, not {DIGEST_BYTES}")
        if len(chunk.data) > CHUNK_BYTES_MAX:
            raise InvalidArgumentError("data", f"a chunk has more than {CHUNK_BYTES_MAX} bytes")
        if chunk.element_bytes not in ELEMENT_BYTES:
            raise InvalidArgumentError("element_bytes", f"{chunk.element_bytes} is none of {ELEMENT_BYTES}")
    return found


def _fast(frame: memoryview) -> Iterator[Received]:
    at = 0
    try:
        while at < len(frame):
            _expect(frame[at] == _CHUNKS)
            length_bytes, at = _read_varint(frame, at + 1)
            end = at + length_bytes
            _expect(end <= len(frame) and frame[at : at + 2] == _ID_HEAD)
            at += 2
            chunk_id = ChunkId(bytes(frame[at : at + DIGEST_BYTES]))
            at += DIGEST_BYTES
            element_bytes = 0
            if frame[at] == _ELEMENT:
                element_bytes, at = frame[at + 1], at + 2
            _expect(frame[at] == _DATA)
            data_bytes, at = _read_varint(frame, at + 1)
            _expect(at + data_bytes == end)
            yield Received(chunk_id, element_bytes, frame[at:end])
            at = end
    except IndexError as error:
        raise _OtherShapeError from error


def _general(frame: bytes) -> list[Received]:
    try:
        message = pb.PutChunksRequest.FromString(frame)
    except DecodeError as error:
        raise InvalidArgumentError("frame", "it is no message of chunks") from error
    return [Received(ChunkId(chunk.id), chunk.element_bytes, chunk.data) for chunk in message.chunks]


def _expect(as_written: bool) -> None:
    if not as_written:
        raise _OtherShapeError


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= _VARINT_MORE:
        out.append(number & 0x7F | _VARINT_MORE)
        number >>= 7
    out.append(number)
    return bytes(out)


def _read_varint(frame: memoryview, at: int) -> tuple[int, int]:
    """Return a number of up to 28 bits, which no length here exceeds, and the position after it."""
    number = shift = 0
    while True:
        byte = frame[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < _VARINT_MORE:
            return number, at
        shift += 7
        _expect(shift < 28)
