"""Frames: their bytes, and that none but whole ones are accepted."""

import os
import struct
import zlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr.errors import StoreFormatError
from mcr.model import CHUNK_BYTES_MAX, ChunkId, digest
from mcr_node.storage.encodings import Encoding, decode
from mcr_node.storage.frames import (
    HEADER_BYTES_MAX,
    HEADER_BYTES_MIN,
    MAGIC,
    FrameError,
    FrameHeader,
    check_payload,
    header_of,
    parse_header,
    plain_of,
)

# Written once by release 0.1 and never edited; each holds one chunk of 4096 bytes, 2048 times the 16-bit
# integers from 0 up, little-endian, that is `b"".join(i.to_bytes(2, "little") for i in range(2048))`. The
# compressed payloads are zstd frames of libzstd 1.5.7; another encoder may choose other bytes, all must
# decode to the same.
GOLDEN = Path(__file__).parents[3] / "conformance" / "golden"
GOLDEN_PLAIN = b"".join(number.to_bytes(2, "little") for number in range(2048))


def raw_frame(plain: bytes) -> tuple[FrameHeader, bytes]:
    return header_of(ChunkId(digest(plain)), Encoding.RAW, plain, len(plain)), plain


@pytest.mark.parametrize("encoding", list(Encoding))
def test_golden_frames_are_read_and_written_byte_for_byte(encoding: Encoding) -> None:
    golden = (GOLDEN / f"frame_{encoding.name.lower()}_1.bin").read_bytes()

    header = parse_header(golden)
    payload = golden[header.header_bytes :]

    assert (header.encoding, header.plain_bytes, header.base) == (encoding, 4096, None)
    assert header.chunk_id == digest(GOLDEN_PLAIN)
    assert plain_of(header, payload) == GOLDEN_PLAIN
    again = header_of(header.chunk_id, encoding, payload, 4096)
    if encoding is Encoding.RAW:
        # Written before the id took over as the checksum of raw payloads; read all the same.
        assert (header.payload_crc, again.payload_crc) == (zlib.crc32(payload), 0)
        again = replace(again, payload_crc=header.payload_crc)
    assert again.pack() + payload == golden


@given(plain=st.binary(max_size=200), base=st.none() | st.binary(min_size=32, max_size=32), rest=st.binary())
def test_a_header_reads_back_as_it_was_written(plain: bytes, base: bytes | None, rest: bytes) -> None:
    base_id = None if base is None else ChunkId(base)
    header = FrameHeader(
        ChunkId(digest(plain)), Encoding.ZSTD, len(plain), len(plain), zlib.crc32(plain), base_id
    )

    packed = header.pack()

    assert parse_header(packed + rest) == header
    assert len(packed) == header.header_bytes == (HEADER_BYTES_MIN if base is None else HEADER_BYTES_MAX)
    assert header.frame_bytes == len(packed) + len(plain)


@given(plain=st.binary(max_size=100), bit=st.integers(min_value=0), with_base=st.booleans())
def test_a_flipped_bit_anywhere_in_a_header_is_seen(plain: bytes, bit: int, with_base: bool) -> None:
    base = ChunkId(bytes(range(32))) if with_base else None
    packed = bytearray(
        FrameHeader(ChunkId(digest(plain)), Encoding.RAW, len(plain), len(plain), 1, base).pack()
    )
    bit %= len(packed) * 8
    packed[bit // 8] ^= 1 << bit % 8

    with pytest.raises(FrameError):
        parse_header(packed)


@pytest.mark.parametrize("encoding", list(Encoding))
def test_a_flipped_bit_anywhere_in_a_payload_is_seen(encoding: Encoding) -> None:
    golden = (GOLDEN / f"frame_{encoding.name.lower()}_1.bin").read_bytes()
    header = parse_header(golden)
    payload = golden[header.header_bytes :]
    plain = plain_of(header, payload)

    for bit in range(len(payload) * 8):
        damaged = bytearray(payload)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FrameError):
            check_payload(header, damaged)
        # A compressor has bits that say nothing; then the bytes are the right ones, which their name proves.
        with suppress(FrameError):
            assert plain_of(header, bytes(damaged)) == plain
            assert encoding is not Encoding.RAW, "every bit of a raw frame is one of the chunk"


@given(length=st.integers(min_value=0, max_value=HEADER_BYTES_MIN - 1))
def test_a_header_that_ends_early_is_refused(length: int) -> None:
    header, _ = raw_frame(b"abc")

    with pytest.raises(FrameError, match="ends within its header"):
        parse_header(header.pack()[:length])


def test_a_header_that_ends_within_its_base_is_refused() -> None:
    packed = FrameHeader(ChunkId(bytes(32)), Encoding.RAW, 0, 0, 0, ChunkId(bytes(32))).pack()

    with pytest.raises(FrameError, match="ends within its header"):
        parse_header(packed[:-1])


@pytest.mark.parametrize("encoding", list(Encoding))
def test_a_payload_that_ends_early_is_refused(encoding: Encoding) -> None:
    golden = (GOLDEN / f"frame_{encoding.name.lower()}_1.bin").read_bytes()
    header = parse_header(golden)

    with pytest.raises(FrameError):
        check_payload(header, golden[header.header_bytes : -1])
    with pytest.raises(FrameError):
        plain_of(header, golden[header.header_bytes : -1])


def packed_by_hand(*, frame_format: int = 1, encoding: int = 0, flags: int = 0, length: int = 0) -> bytes:
    fixed = struct.pack(
        ">4sBBBBII32sI", MAGIC, frame_format, encoding, flags, 0, length, length, bytes(32), 0
    )
    return fixed + struct.pack(">I", zlib.crc32(fixed))


def test_a_frame_of_a_newer_release_is_told_from_a_damaged_one() -> None:
    newer = packed_by_hand(frame_format=2, encoding=9, flags=6)

    with pytest.raises(StoreFormatError) as raised:
        parse_header(newer)
    with pytest.raises(FrameError):
        parse_header(newer[:-1] + bytes((newer[-1] ^ 1,)))

    assert (raised.value.found, raised.value.supported) == (2, 1)


@pytest.mark.parametrize(
    ("packed", "reason"),
    [
        (packed_by_hand(encoding=3), "encoding 3 is unknown"),
        (packed_by_hand(flags=2), "unknown flags"),
        (packed_by_hand(length=CHUNK_BYTES_MAX + 1), "above the limit"),
    ],
)
def test_fields_out_of_range_are_refused_although_the_checksum_holds(packed: bytes, reason: str) -> None:
    with pytest.raises(FrameError, match=reason):
        parse_header(packed)


def test_a_frame_that_names_another_chunk_is_never_accepted() -> None:
    plain = os.urandom(100)
    wrong = ChunkId(digest(b"another"))

    for encoding in (Encoding.RAW, Encoding.ZSTD):
        header = header_of(wrong, encoding, plain, len(plain))
        with pytest.raises(FrameError):
            plain_of(header, plain)


def test_the_golden_payloads_are_what_their_names_say() -> None:
    raw = (GOLDEN / "frame_raw_1.bin").read_bytes()
    zstd = (GOLDEN / "frame_zstd_1.bin").read_bytes()

    assert raw[HEADER_BYTES_MIN:] == GOLDEN_PLAIN
    assert decode(Encoding.ZSTD, zstd[HEADER_BYTES_MIN:], 4096) == GOLDEN_PLAIN
