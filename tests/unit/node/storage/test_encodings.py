"""Encodings: what goes in comes out, what is written stays readable, and hostile bytes do no harm."""

import re
import struct
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mcr.model import BLOCK_BYTES, KIB, MIB
from mcr_node.storage.encodings import (
    ENCODE_BYTES_MIN,
    Encoding,
    _to_planes,
    decode,
    decode_into,
    encode,
)
from mcr_node.storage.planes import _BLOCK_BYTES

WIDTHS = (2, 4, 8)


def weights(count: int, *, seed: int = 1) -> NDArray[np.float32]:
    """Return what a layer of a model looks like."""
    return np.random.default_rng(seed).normal(0, 0.02, count).astype(np.float32)


def brain_floats(values: NDArray[np.float32]) -> bytes:
    return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()


def noise(length_bytes: int) -> bytes:
    return np.random.default_rng(2).bytes(length_bytes)


def round_trip(data: bytes, element_bytes: int) -> tuple[Encoding, int]:
    encoding, stored = encode(data, element_bytes)
    assert decode(encoding, bytes(stored), len(data)) == data
    assert decoded_in_place(encoding, bytes(stored), len(data)) == data
    return encoding, len(bytes(stored))


def decoded_in_place(encoding: Encoding, stored: bytes, length_bytes: int) -> bytes:
    """Decode to where no element is aligned; what stands around it must be left alone."""
    around = bytearray(b"#" * (length_bytes + 2))
    decode_into(encoding, stored, memoryview(around)[1:-1])
    assert (around[0], around[-1]) == (ord("#"), ord("#"))
    return bytes(around[1:-1])


# What goes in comes out


@pytest.mark.parametrize("element_bytes", [0, 1, *WIDTHS])
def test_every_short_length_comes_back(element_bytes: int) -> None:
    data = weights(400).tobytes()

    for length in (*range(70), *range(ENCODE_BYTES_MIN - 9, ENCODE_BYTES_MIN + 9), *range(1500, 1520)):
        round_trip(data[:length], element_bytes)


@pytest.mark.parametrize("element_bytes", WIDTHS)
def test_planes_of_every_short_length_come_back(element_bytes: int) -> None:
    data = noise(40) + weights(40).tobytes()

    for length in range(len(data)):
        stored = _to_planes(memoryview(data)[:length], element_bytes)
        if length >= element_bytes:
            assert decode(Encoding.PLANES, stored, length) == data[:length]


@pytest.mark.parametrize("element_bytes", WIDTHS)
@pytest.mark.parametrize("extra_bytes", [-9, -1, 0, 1, 9])
def test_lengths_around_the_borders_of_blocks_come_back(element_bytes: int, extra_bytes: int) -> None:
    length = 2 * _BLOCK_BYTES + extra_bytes
    data = (weights(length // 4 + 1).tobytes())[:length]

    stored = _to_planes(memoryview(data), element_bytes)
    assert decode(Encoding.PLANES, stored, length) == data
    assert decoded_in_place(Encoding.PLANES, stored, length) == data
    round_trip(data, element_bytes)


@given(st.binary(max_size=600), st.sampled_from([0, 1, *WIDTHS, 3, 16]))
@settings(max_examples=200, deadline=None)
def test_any_bytes_of_any_width_come_back(data: bytes, element_bytes: int) -> None:
    round_trip(data, element_bytes)
    round_trip(data * 3, element_bytes)


@pytest.mark.parametrize(
    ("values", "element_bytes"),
    [
        (np.array([0x7FC00000, 0xFFC00001, 0x7F800001, 0x7F800000, 0x80000000], np.uint32), 4),
        (np.array([0x7FC0, 0xFFC1, 0x7F81, 0x8000], np.uint16), 2),
        (np.array([0x7C01, 0xFE00, 0xFC00, 0x8001], np.uint16), 2),
        (np.array([0x7FF8000000000001, 0xFFF0000000000000, 1 << 63], np.uint64), 8),
    ],
    ids=["f32", "bf16", "f16", "f64"],
)
def test_not_a_numbers_infinities_and_negative_zeros_keep_their_bits(
    values: NDArray[Any], element_bytes: int
) -> None:
    encoding, stored = encode(np.resize(values, 4096).tobytes(), element_bytes)

    assert encoding is not Encoding.RAW
    assert decode(encoding, bytes(stored), 4096 * element_bytes) == np.resize(values, 4096).tobytes()


@pytest.mark.parametrize("buffer", [bytes, bytearray, memoryview])
def test_any_kind_of_buffer_is_taken_and_left_as_it_was(buffer: type[bytes | bytearray | memoryview]) -> None:
    plain = weights(10_000).tobytes()
    data = buffer(plain)

    encoding, stored = encode(data, 4)

    assert bytes(data) == plain
    assert decode(encoding, bytes(stored), len(plain)) == plain


def test_threads_do_not_share_their_coders() -> None:
    chunks = [weights(50_000, seed=seed).tobytes() for seed in range(8)]

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda chunk: round_trip(chunk, 4)[0], chunks * 3))

    assert found == [Encoding.PLANES] * 24


# What is chosen


@pytest.mark.parametrize(
    ("data", "element_bytes", "share_max"),
    [
        (weights(BLOCK_BYTES // 4).tobytes(), 4, 0.85),
        (brain_floats(weights(BLOCK_BYTES // 2)), 2, 0.69),
        (weights(BLOCK_BYTES // 2).astype(np.float16).tobytes(), 2, 0.88),
        (weights(BLOCK_BYTES // 8).astype(np.float64).tobytes(), 8, 0.6),
    ],
    ids=["f32", "bf16", "f16", "f32-as-f64"],
)
def test_weights_are_kept_as_planes(data: bytes, element_bytes: int, share_max: float) -> None:
    encoding, stored_bytes = round_trip(data, element_bytes)

    assert encoding is Encoding.PLANES
    assert stored_bytes < share_max * len(data)
    assert stored_bytes < len(zstandard.ZstdCompressor(level=3).compress(data))


@pytest.mark.parametrize("length_bytes", [ENCODE_BYTES_MIN, 3000, 200 * KIB, BLOCK_BYTES])
@pytest.mark.parametrize("element_bytes", [0, 1, 4])
def test_noise_is_kept_as_it_is_without_a_copy(length_bytes: int, element_bytes: int) -> None:
    data = noise(length_bytes)

    encoding, stored = encode(data, element_bytes)

    assert encoding is Encoding.RAW
    assert stored is data


@pytest.mark.parametrize("element_bytes", [0, 1, 4])
def test_text_is_kept_by_zstd_whatever_it_is_said_to_be(element_bytes: int) -> None:
    text = b"".join(b'{"id": %d, "token": "word %d"}, ' % (number, number * 7) for number in range(20_000))

    encoding, stored_bytes = round_trip(text, element_bytes)

    assert encoding is Encoding.ZSTD
    assert stored_bytes < len(text) // 4


def test_gain_that_is_too_small_is_not_worth_decoding_for() -> None:
    # 2 % zeros
    data = noise(98_000) + bytes(2_000)

    assert encode(data, 0) == (Encoding.RAW, data)


def test_half_empty_chunk_is_not_judged_by_one_place_alone() -> None:
    for data in (
        noise(BLOCK_BYTES // 2) + bytes(BLOCK_BYTES // 2),
        bytes(BLOCK_BYTES // 2) + noise(BLOCK_BYTES // 2),
    ):
        assert round_trip(data, 0)[1] < 0.52 * len(data)


def test_sample_that_promised_too_much_does_not_make_a_chunk_larger() -> None:
    # given: zeros exactly where samples are taken, noise elsewhere
    data = bytearray(noise(BLOCK_BYTES))
    quarter = BLOCK_BYTES // 4
    for number in range(4):
        middle = number * quarter + quarter // 2
        data[middle - 4 * KIB : middle + 4 * KIB] = bytes(8 * KIB)

    # when
    _, stored = encode(data, 4)

    # then: 3 % are gained here, but no encoding may ever cost bytes
    assert len(stored) <= len(data)


# What is written stays readable. Never edit these bytes; add new ones when the format grows.

SIGNED = np.arange(80, dtype=np.float32) * np.float32(0.125) - 3
GOLDEN = {
    "zstd": (
        Encoding.ZSTD,
        "28b52ffd604000bd0000807468652073616d6520776f7264732c2001005a469d4b",
        b"the same words, " * 20,
    ),
    "planes of 4 with 3 bytes behind them": (
        Encoding.PLANES,
        "041400000011000000500000802900000028b52ffd20505d000018010100020004a750001628b52ffd20504500001000000100"
        "8b022c807060504030201000e0c0a08060402000c080400080000000000080004080c00020406080a0c0e00010203040506070"
        "8090a0b0c0d0e0f00008101820283038404850586068707880889098a0a8b0b828b52ffd2050050100a880807f7e7e7e7e7d7d"
        "7c007c7d7d7e7e7e7e7f8081051000b5f42b6fbe1916656e64",
        SIGNED.tobytes() + b"end",
    ),
    "planes of 2 with 1 byte behind them": (
        Encoding.PLANES,
        "02130000001300000028b52ffd206055000020000180020100f9e48828b52ffd2060550000207f7fff000100f9e48878",
        np.array([0x3F80, 0xBF80, 0x7FC0, 1] * 24, np.uint16).tobytes() + b"x",
    ),
    "planes of 8": (
        Encoding.PLANES,
        "08110000001100000011000000110000001100000011000000280000801400000028b52ffd202845000010000001001f800528"
        "b52ffd202845000010000001001f800528b52ffd202845000010000001001f800528b52ffd202845000010000001001f800528"
        "b52ffd202845000010000001001f800528b52ffd202845000010000001001f800500a0c0d0e0e8f0f80004080c1014181c2022"
        "2426282a2c2e30323436383a3c3e404142434445464728b52ffd20285d000018007f800200a089016001",
        (np.arange(40, dtype=np.float64) / 4).tobytes(),
    ),
}


@pytest.mark.parametrize(("encoding", "stored", "plain"), list(GOLDEN.values()), ids=list(GOLDEN))
def test_bytes_once_written_are_read(encoding: Encoding, stored: str, plain: bytes) -> None:
    assert decode(encoding, bytes.fromhex(stored), len(plain)) == plain


def test_numbers_of_the_encodings_never_change() -> None:
    assert {encoding.name: int(encoding) for encoding in Encoding} == {"RAW": 0, "ZSTD": 1, "PLANES": 2}


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=30), st.binary(max_size=3))
@settings(deadline=None)
def test_planes_are_laid_out_as_documented(elements: list[int], behind: bytes) -> None:
    """The layout spelled out element by element, without numpy, all planes raw."""
    rotated = [((element << 1) | (element >> 31)) & 0xFFFFFFFF for element in elements]
    heads = b"".join(struct.pack("<I", 1 << 31 | len(elements)) for _ in range(4))
    planes = b"".join(bytes(element >> shift & 0xFF for element in rotated) for shift in (0, 8, 16, 24))

    plain = struct.pack(f"<{len(elements)}I", *elements) + behind

    assert decode(Encoding.PLANES, b"\x04" + heads + planes + behind, len(plain)) == plain


# Hostile bytes


def stored_forms() -> st.SearchStrategy[tuple[Encoding, bytes, int]]:
    """Damaged forms of sound ones, which reach further than random bytes do."""
    sound = [(encoding, bytes.fromhex(stored), len(plain)) for encoding, stored, plain in GOLDEN.values()]

    def damaged(
        form: tuple[Encoding, bytes, int], at: int, new: bytes, cut: int
    ) -> tuple[Encoding, bytes, int]:
        encoding, stored, length = form
        at %= len(stored)
        return encoding, (stored[:at] + new + stored[at + len(new) :])[: len(stored) - cut], length

    return st.builds(
        damaged,
        st.sampled_from(sound),
        st.integers(0, 400),
        st.binary(max_size=5),
        st.integers(0, 3),
    )


@given(
    st.one_of(
        stored_forms(),
        st.tuples(st.sampled_from(Encoding), st.binary(max_size=200), st.integers(0, 2000)),
    )
)
@settings(max_examples=500, deadline=None)
@example((Encoding.PLANES, b"", 0))
@example((Encoding.PLANES, b"\x02", 3))
@example((Encoding.PLANES, b"\x02" + struct.pack("<II", 1 << 31, 1 << 31), 0))
@example((Encoding.PLANES, b"\x02" + struct.pack("<II", 0xFFFFFFFF, 0xFFFFFFFF), 4))
@example((Encoding.ZSTD, b"", 0))
def test_hostile_bytes_are_refused_or_give_exactly_what_was_asked_for(
    form: tuple[Encoding, bytes, int],
) -> None:
    encoding, stored, length_bytes = form
    try:
        plain = decode(encoding, stored, length_bytes)
    except ValueError as error:
        with pytest.raises(ValueError, match=re.escape(str(error))):
            decoded_in_place(encoding, stored, length_bytes)
        return
    assert len(plain) == length_bytes
    assert decoded_in_place(encoding, stored, length_bytes) == plain


@pytest.mark.parametrize(
    ("encoding", "stored", "length_bytes", "reason"),
    [
        (Encoding.RAW, b"abc", 4, "decoded to 3 bytes, not 4"),
        (Encoding.ZSTD, zstandard.ZstdCompressor().compress(b"abcd"), 5, "another size"),
        (
            Encoding.ZSTD,
            zstandard.ZstdCompressor(write_content_size=False).compress(b"abcd"),
            4,
            "another size",
        ),
        (Encoding.ZSTD, zstandard.ZstdCompressor().compress(b"abcd") + b"more", 4, "not a zstd frame"),
        (Encoding.ZSTD, b"no frame at all", 4, "not a zstd frame"),
        (Encoding.PLANES, b"\x03" + bytes(20), 4, "width is unknown"),
        (Encoding.PLANES, b"\x04" + bytes(15), 4, "lengths are cut off"),
        (
            Encoding.PLANES,
            b"\x02" + struct.pack("<II", 1 << 31 | 2, 1 << 31 | 2) + b"123",
            4,
            "a plane is cut off",
        ),
        (Encoding.PLANES, b"\x02" + struct.pack("<II", 1 << 31 | 1, 1 << 31 | 1) + b"12", 4, "wrong length"),
        (Encoding.PLANES, b"\x02" + struct.pack("<II", 1 << 31 | 1, 1 << 31 | 1) + b"12more", 2, "too many"),
        (Encoding.PLANES, b"\x02" + struct.pack("<II", 1 << 31 | 1, 1 << 31 | 1) + b"12", 3, "too few"),
    ],
)
def test_refusal_says_what_is_wrong(
    encoding: Encoding, stored: bytes, length_bytes: int, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        decode(encoding, stored, length_bytes)


@pytest.mark.parametrize("claimed_bytes", [1 << 40, (1 << 63) - 1])
def test_frame_that_claims_to_be_huge_is_refused_before_memory_is_taken(claimed_bytes: int) -> None:
    # given: RFC 8878 §3.1.1, a single segment with a content size of eight bytes
    frame = b"\x28\xb5\x2f\xfd\xe0" + claimed_bytes.to_bytes(8, "little") + b"\x01\x00\x00"
    planes = b"\x02" + struct.pack("<II", len(frame), len(frame)) + frame + frame

    # when
    tracemalloc.start()
    for encoding, stored in ((Encoding.ZSTD, frame), (Encoding.PLANES, planes)):
        with pytest.raises(ValueError, match="another size"):
            decode(encoding, stored, 1000)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    # then
    assert peak_bytes < MIB


def test_bomb_gives_no_more_than_was_asked_for() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(64 * MIB))

    tracemalloc.start()
    with pytest.raises(ValueError, match="another size"):
        decode(Encoding.ZSTD, bomb, 1000)
    # The frame's head lies about its content: it names 1000 bytes, and holds 64 MiB.
    lying = b"\x28\xb5\x2f\xfd\x60" + (1000 - 256).to_bytes(2, "little") + bomb[9:]
    with pytest.raises(ValueError, match="not a zstd frame"):
        decode(Encoding.ZSTD, lying, 1000)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak_bytes < MIB
