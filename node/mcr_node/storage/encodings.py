"""How a chunk's bytes lie on disk: as they are, by zstd, or as byte planes.

Floating-point weights look like noise to a general compressor because each exponent byte stands between
random mantissa bits. `planes` rotates each element left by one bit, so that all exponent bits share a byte,
puts equal bytes of all elements together, and codes each plane by zstd tuned to act as a Huffman coder (long
matches only, a tiny hash table), which beats its ordinary levels here in size and speed.

Stored form of `planes`, numbers little-endian:

    u8   element_bytes, 2, 4 or 8
    then for each plane, least significant first: u32 length_bytes, where bit 31 set means stored raw
    then the planes, then the bytes behind the last whole element
"""

import struct
import threading
from enum import IntEnum
from typing import Final

import zstandard

from mcr.model import KIB, Buffer


class Encoding(IntEnum):
    """Written in every frame; numbers are never used again. 3 is kept for deltas against a base chunk."""

    RAW = 0
    ZSTD = 1
    PLANES = 2


# Below this, a frame's own head outweighs what could be saved.
ENCODE_BYTES_MIN: Final = 256
# Storing raw is faster both ways: anything else must save at least this share.
GAIN_SHARE_MIN: Final = 0.03
# What decides between the encodings: pieces from all over the chunk, since its ends often differ from its
# middle. A multiple of every element's width, so that pieces stay whole elements.
SAMPLE_PIECES: Final = 4
SAMPLE_PIECE_BYTES: Final = 8 * KIB
_RAW_PLANE: Final = 1 << 31
# Widths of elements that have planes.
PLANE_WIDTHS: Final = (2, 4, 8)
# Ours are below 2 MiB; a frame that asks for more memory than this is not one of ours.
_WINDOW_BYTES_MAX: Final = 8 * KIB * KIB

_local = threading.local()


class _Coders:
    """What one thread uses again and again: coders are not thread-safe, and dear to make."""

    def __init__(self) -> None:
        self.general = zstandard.ZstdCompressor(level=1)
        huffman = zstandard.ZstdCompressionParameters.from_level(
            1, strategy=zstandard.STRATEGY_FAST, min_match=7, hash_log=6, window_log=17
        )
        self.huffman = zstandard.ZstdCompressor(compression_params=huffman)
        self.decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES_MAX)


def _coders() -> _Coders:
    coders = getattr(_local, "coders", None)
    if coders is None:
        coders = _local.coders = _Coders()
    assert isinstance(coders, _Coders)
    return coders


def encode(data: Buffer, element_bytes: int) -> tuple[Encoding, Buffer]:
    """Return the smallest encoding of a chunk, and its bytes.

    A sample decides first what to try, so that noise costs little; the size of the whole decides in the end.

    Args:
        data: the plain bytes.
        element_bytes: width of an array element, or 0 for bytes of another kind.

    Returns:
        (RAW, data itself) when nothing saves at least GAIN_SHARE_MIN.
    """
    view = memoryview(data).cast("B")
    if len(view) < ENCODE_BYTES_MIN:
        return Encoding.RAW, data
    encoding = _promising(_sample(view), element_bytes)
    if encoding is Encoding.RAW:
        return Encoding.RAW, data
    stored = (
        _to_planes(view, element_bytes) if encoding is Encoding.PLANES else _coders().general.compress(view)
    )
    if len(stored) > (1 - GAIN_SHARE_MIN) * len(view):
        return Encoding.RAW, data
    return encoding, stored


def _sample(view: memoryview) -> Buffer:
    """Return what is representative of a chunk: all of it, if it is short."""
    if len(view) <= 2 * SAMPLE_PIECES * SAMPLE_PIECE_BYTES:
        return view
    stride = len(view) // SAMPLE_PIECES
    # From the middle of each part, at a border between elements.
    starts = (
        (number * stride + (stride - SAMPLE_PIECE_BYTES) // 2) // 8 * 8 for number in range(SAMPLE_PIECES)
    )
    return b"".join(view[start : start + SAMPLE_PIECE_BYTES] for start in starts)


def _promising(sample: Buffer, element_bytes: int) -> Encoding:
    """Return the encoding that makes a sample smallest."""
    sizes = {Encoding.ZSTD: len(_coders().general.compress(sample))}
    if element_bytes in PLANE_WIDTHS:
        sizes[Encoding.PLANES] = len(_to_planes(memoryview(sample), element_bytes))
    best = min(sizes, key=lambda encoding: sizes[encoding])
    return best if sizes[best] <= (1 - GAIN_SHARE_MIN) * len(sample) else Encoding.RAW


def decode(encoding: Encoding, stored: Buffer, length_bytes: int) -> bytes:
    """Return the plain bytes of a stored chunk; never takes more memory than a few times `length_bytes`.

    Raises:
        ValueError: the stored bytes are not what `encode` writes.
    """
    match encoding:
        case Encoding.RAW:
            plain = bytes(stored)
        case Encoding.ZSTD:
            plain = _decompress(stored, length_bytes)
        case Encoding.PLANES:
            plain = _from_planes(memoryview(stored).cast("B"), length_bytes)
    if len(plain) != length_bytes:
        raise ValueError(f"decoded to {len(plain)} bytes, not {length_bytes}")
    return plain


def decode_into(encoding: Encoding, stored: Buffer, place: memoryview) -> None:
    """Write the plain bytes of a stored chunk to `place`, which is as long; planes without a copy.

    Raises:
        ValueError: as `decode`; anything may be in `place` then.
    """
    if encoding is Encoding.PLANES:
        _planes_into(memoryview(stored).cast("B"), place)
    else:
        place[:] = decode(encoding, stored, place.nbytes)


def _decompress(stored: Buffer, length_bytes: int) -> bytes:
    try:
        # The frame names its content's size, and that much is allocated: not on a hostile frame's word.
        if zstandard.frame_content_size(stored) != length_bytes:
            raise ValueError("the zstd frame is of another size")
        return _coders().decompressor.decompress(stored, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ValueError(f"not a zstd frame: {error}") from error


def _to_planes(view: memoryview, element_bytes: int) -> bytes:
    # NumPy takes longer to import than most commands run, and only planes need it.
    from mcr_node.storage import planes

    count = len(view) // element_bytes
    heads = [bytes((element_bytes,))]
    bodies: list[Buffer] = []
    for plane in planes.split(view, element_bytes, count):
        coded = None if planes.is_noise(plane) else _coders().huffman.compress(plane)
        if coded is None or len(coded) >= count:
            heads.append(struct.pack("<I", _RAW_PLANE | count))
            bodies.append(plane.data)
        else:
            heads.append(struct.pack("<I", len(coded)))
            bodies.append(coded)
    return b"".join((*heads, *bodies, view[count * element_bytes :]))


def _from_planes(view: memoryview, length_bytes: int) -> bytes:
    from mcr_node.storage import planes

    place = planes.joined_memory(length_bytes)
    _planes_into(view, place)
    return bytes(place)


def _planes_into(view: memoryview, place: memoryview) -> None:
    from mcr_node.storage import planes

    length_bytes = place.nbytes
    element_bytes = view[0] if len(view) else 0
    if element_bytes not in PLANE_WIDTHS:
        raise ValueError("the element width is unknown")
    count = length_bytes // element_bytes
    at = 1 + 4 * element_bytes
    if len(view) < at:
        raise ValueError("the plane lengths are cut off")
    rows: list[Buffer] = []
    for (mark,) in struct.iter_unpack("<I", view[1:at]):
        stored_bytes = mark & ~_RAW_PLANE
        body = view[at : at + stored_bytes]
        at += stored_bytes
        plain = body if mark & _RAW_PLANE else _decompress(body, count)
        if len(body) != stored_bytes or len(plain) != count:
            raise ValueError("a plane is cut off or has the wrong length")
        rows.append(plain)
    if len(view) - at != length_bytes - count * element_bytes:
        raise ValueError("the bytes behind the planes are too few or too many")
    if count:
        planes.join(rows, place[: count * element_bytes])
    place[count * element_bytes :] = view[at:]
