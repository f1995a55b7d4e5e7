"""Laws of reading GGUF headers."""

import struct

import pytest

from mcr import cutting
from mcr.cutting import gguf
from mcr.cutting.spans import bytes_plan
from tests.unit.client.cutting import samples
from tests.unit.client.cutting.samples import Array, gguf_raw, gguf_row, gguf_string

WEIGHTS = Array(samples.noise(144 * 2, 1), (2, 256), "Q4_K")


def pair(key: bytes, kind: int, value: bytes) -> bytes:
    return gguf_string(key) + struct.pack("<I", kind) + value


def array(kind: int, count: int, values: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + values


def test_golden_header_is_understood() -> None:
    # Written by hand after the specification, "File structure": magic, version 3, one tensor, one pair.
    header = bytes.fromhex(
        "47475546 03000000 0100000000000000 0100000000000000"
        "0300000000000000 6b6579 08000000 0500000000000000 76616c7565"
        "0100000000000000 77 02000000 0400000000000000 0200000000000000 00000000 0000000000000000"
    )
    data = header + bytes(-len(header) % 32) + samples.noise(32, 1)

    plan = samples.plan(data)

    assert samples.found(plan, data) == {"w": Array(samples.noise(32, 1), (2, 4), "F32")}
    assert plan.tensors[0].offset_bytes % 32 == 0


def test_values_of_every_type_are_stepped_over() -> None:
    widths = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
    pairs = [pair(f"scalar.{kind}".encode(), kind, b"\x07" * width) for kind, width in widths.items()]
    pairs += [pair(b"array", 9, array(kind, 3, b"\x07" * 3 * width)) for kind, width in widths.items()]
    pairs.append(pair(b"text", 8, gguf_string(b"value")))
    pairs.append(pair(b"texts", 9, array(8, 2, gguf_string(b"a") + gguf_string(b""))))
    pairs.append(pair(b"nested", 9, array(9, 2, array(8, 1, gguf_string(b"x")) + array(4, 1, bytes(4)))))
    data = samples.gguf({"w": WEIGHTS}, pairs)

    assert samples.found(samples.plan(data), data) == {"w": WEIGHTS}


def test_alignment_of_the_file_is_kept() -> None:
    tensors = {"a": WEIGHTS, "b": samples.arrays()["layer.bias"]}
    data = samples.gguf(tensors, alignment=128)

    plan = samples.plan(data)

    assert samples.found(plan, data) == tensors
    assert all(span.offset_bytes % 128 == 0 for span in plan.tensors)


def test_vocabulary_is_stepped_over_in_large_reads() -> None:
    words = b"".join(gguf_string(b"word%d" % index) for index in range(150_000))
    long_text = pair(b"template", 8, gguf_string(bytes(200_000)))
    data = samples.gguf({"w": WEIGHTS}, [pair(b"tokens", 9, array(8, 150_000, words)), long_text])
    read_lengths: list[int] = []

    def read_at(offset: int, length: int) -> bytes:
        read_lengths.append(length)
        return data[offset : offset + length]

    plan = cutting.plan(read_at, len(data), "model.gguf")

    assert samples.found(plan, data) == {"w": WEIGHTS}
    assert len(read_lengths) < 20


def test_tensor_of_a_later_type_reaches_to_the_next() -> None:
    rows = [
        gguf_row("later", (100,), 99, 0),
        gguf_row("known", (8,), 0, 64),
        gguf_row("last", (5,), 99, 96),
    ]
    data = gguf_raw([], rows, bytes(150))

    assert [(span.name, span.dtype, span.length_bytes) for span in samples.plan(data).tensors] == [
        ("later", "GGML_99", 64),
        ("known", "F32", 32),
        ("last", "GGML_99", 54),
    ]


def test_empty_tensors_share_a_place() -> None:
    rows = [gguf_row(name, shape, 0, 0) for name, shape in (("w", (8,)), ("none", (0,)), ("nothing", (4, 0)))]
    data = gguf_raw([], rows, bytes(32))

    assert {span.name: span.length_bytes for span in samples.plan(data).tensors} == {
        "none": 0,
        "nothing": 0,
        "w": 32,
    }


@pytest.mark.parametrize(
    "data",
    [
        gguf_raw([], [], b"", version=1),
        gguf_raw([], [], b"", version=0x03000000),
        gguf_raw([], [gguf_row("w", (8,), 0, 0)], bytes(31)),
        gguf_raw([], [gguf_row("a", (8,), 0, 0), gguf_row("b", (8,), 0, 16)], bytes(64)),
        gguf_raw([], [gguf_row("w", (1 << 40, 1 << 40), 0, 0)], bytes(64)),
        gguf_raw([], [gguf_row("w", (8,), 0, 1 << 60)], bytes(64)),
        gguf_raw([], [gguf_row("later", (8,), 99, 1 << 60)], bytes(64)),
        gguf_raw([], [gguf_row("w", (1,) * 20, 0, 0)], bytes(64)),
        gguf_raw([pair(b"k", 13, b"")], [], bytes(64)),
        gguf_raw([pair(b"k", 9, array(13, 1))], [], bytes(64)),
        gguf_raw([pair(b"k", 8, struct.pack("<Q", 1 << 63))], [], bytes(64)),
        gguf_raw([pair(b"k", 9, array(8, 1 << 60))], [], bytes(64)),
        gguf_raw([pair(b"k", 9, array(8, 1, struct.pack("<Q", 1 << 60)))], [], bytes(64)),
        gguf_raw([pair(b"k", 9, array(4, 1 << 62))], [], bytes(64)),
        gguf_raw(
            [pair(b"k", 9, array(9, 1, array(9, 1, array(9, 1, array(9, 1, array(9, 0))))))], [], bytes(64)
        ),
        gguf_raw([pair(b"general.alignment", 4, bytes(4))], [], bytes(64)),
        gguf_raw([pair(b"general.alignment", 4, b"\xff" * 4)], [], bytes(64)),
        b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0) + bytes(100),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60) + bytes(100),
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 60) + bytes(100),
    ],
)
def test_header_that_cannot_be_true_makes_the_file_plain_bytes(data: bytes) -> None:
    assert samples.plan(data, "model.gguf") == bytes_plan(len(data))


def test_file_without_tensors_is_still_gguf() -> None:
    plan = samples.plan(gguf_raw([], [], b""))

    assert plan.format == "gguf"
    assert plan.tensors == ()


def test_names_of_types_are_unique() -> None:
    names = [name for name, _, _ in gguf._TYPES.values()]

    assert len(set(names)) == len(names)
