"""Laws of plans: every format's tensors are found where they are; what is no model file is plain bytes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcr import cutting
from mcr.cutting import CutPlan, TensorSpan
from mcr.cutting.ranges import PAGE_BYTES_MIN
from mcr.cutting.spans import (
    DTYPE_BITS,
    TENSOR_NAME_CHARACTERS_MAX,
    MalformedError,
    arrange,
    bytes_plan,
    fills_exactly,
)
from tests.unit.client.cutting import samples

FORMATS = samples.all_formats()


def assert_valid(plan: CutPlan, size_bytes: int) -> None:
    assert plan.size_bytes == size_bytes
    end = 0
    for span in plan.tensors:
        assert span.offset_bytes >= end
        assert span.length_bytes >= 0
        end = span.offset_bytes + span.length_bytes
        assert fills_exactly(span.dtype, span.shape, span.length_bytes)
        assert 0 < len(span.name) <= TENSOR_NAME_CHARACTERS_MAX
        span.name.encode()
    assert end <= size_bytes
    assert len({span.name for span in plan.tensors}) == len(plan.tensors)
    assert plan.format != "bytes" or not plan.tensors


@pytest.mark.parametrize("format_name", ["safetensors", "npz", "pt", "gguf", "onnx"])
def test_same_tensors_are_found_in_every_format_under_any_file_name(format_name: str) -> None:
    data = FORMATS[format_name]

    plan = samples.plan(data, "no_extension")

    assert plan.format == format_name
    assert samples.found(plan, data) == samples.arrays()
    assert_valid(plan, len(data))


def test_tensors_give_the_same_pieces_whatever_the_container() -> None:
    contents: list[set[bytes]] = []
    for format_name in ("safetensors", "npz", "pt", "gguf", "onnx"):
        data = FORMATS[format_name]
        pieces = samples.cut(samples.plan(data), data)
        contents.append(
            {
                data[piece.offset_bytes : piece.offset_bytes + piece.length_bytes]
                for piece in pieces
                if piece.tensor >= 0
            }
        )

    assert len(contents[0]) == len(samples.arrays())
    assert all(content == contents[0] for content in contents)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"PK\x03\x04", b"GGUF", b"\x93NUMPY", b"\x08", bytes(100), b"text\n"]
)
def test_what_is_no_model_file_is_plain_bytes(data: bytes) -> None:
    for name in ("x.safetensors", "x.onnx", "x.pt", "x"):
        assert samples.plan(data, name) == bytes_plan(len(data))


CHANGES = st.lists(
    # Mostly near the ends, where the structure is: the payloads are noise anyway.
    st.tuples(
        st.one_of(st.integers(-400, 400), st.integers(0, 10_000)),
        st.one_of(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]), st.integers(0, 255)),
    ),
    max_size=4,
)


@pytest.mark.parametrize("format_name", FORMATS)
@given(changes=CHANGES, cut_bytes=st.one_of(st.just(0), st.integers(0, 6000)))
@settings(max_examples=60, deadline=None)
def test_damaged_file_gets_a_valid_plan_and_its_pieces_cover_it(
    format_name: str, changes: list[tuple[int, int]], cut_bytes: int
) -> None:
    damaged = bytearray(FORMATS[format_name])
    for at, value in changes:
        damaged[at % len(damaged)] = value
    data = bytes(damaged[: max(0, len(damaged) - cut_bytes)])

    plan = samples.plan(data, "model.onnx")

    assert_valid(plan, len(data))
    pieces = samples.cut(plan, data)
    assert sum(piece.length_bytes for piece in pieces) == len(data)


@pytest.mark.parametrize("format_name", FORMATS)
def test_file_cut_at_any_place_still_gets_a_valid_plan(format_name: str) -> None:
    whole = FORMATS[format_name]
    for length in (*range(0, 300, 3), *range(300, len(whole), 97)):
        data = whole[:length]
        assert_valid(samples.plan(data), length)


@given(
    data=st.binary(max_size=300), magic=st.sampled_from([b"GGUF\x03\0\0\0", b"PK\x03\x04", b"\x08\x08:", b""])
)
@settings(deadline=None)
def test_arbitrary_bytes_get_a_valid_plan(data: bytes, magic: bytes) -> None:
    plan = samples.plan(magic + data, "model.onnx")

    assert_valid(plan, len(magic) + len(data))


def test_file_that_became_shorter_is_plain_bytes() -> None:
    data = FORMATS["gguf"]

    plan = cutting.plan(samples.reading(data[:20]), len(data), "model.gguf")

    assert plan == bytes_plan(len(data))


def test_error_of_the_reading_function_passes_through() -> None:
    def failing(offset: int, length: int) -> bytes:
        raise OSError(f"disk error at {offset}, {length} bytes")

    with pytest.raises(OSError, match="disk error"):
        cutting.plan(failing, 1000, "model.gguf")


def test_payload_of_tensors_is_not_read() -> None:
    big = samples.Array(bytes(4 << 20), (1 << 20,))
    for data in (samples.onnx({"a": big, "b": big}), samples.torch_checkpoint({"a": big, "b": big})):
        read_bytes = 0

        def read_at(offset: int, length: int, data: bytes = data) -> bytes:
            nonlocal read_bytes
            read_bytes += length
            return data[offset : offset + length]

        plan = cutting.plan(read_at, len(data), "x")

        assert len(plan.tensors) == 2
        assert read_bytes < 70 * PAGE_BYTES_MIN


def test_equal_names_become_unique() -> None:
    spans = [TensorSpan("w", "U8", (1,), offset, 1) for offset in range(3)]
    spans.append(TensorSpan("w#2", "U8", (1,), 3, 1))
    spans.append(TensorSpan("", "", (1,), 4, 1))
    spans += [TensorSpan("x" * 5000, "U8", (1,), offset, 1) for offset in (5, 6)]

    plan = arrange("onnx", 7, spans)

    assert [span.name for span in plan.tensors[:5]] == ["w", "w#2", "w#3", "w#2#2", "tensor"]
    assert plan.tensors[4].dtype == "U8"
    assert_valid(plan, 7)


def test_tensor_whose_type_does_not_fit_is_mere_bytes() -> None:
    spans = [
        TensorSpan("short", "F32", (3,), 0, 8),
        TensorSpan("negative", "F32", (-2,), 8, 8),
        TensorSpan("deep", "F32", (1,) * 100, 16, 4),
        TensorSpan("own type", "Q4_K", (256,), 20, 144),
    ]

    plan = arrange("onnx", 200, spans)

    assert [(span.dtype, span.shape) for span in plan.tensors] == [
        ("U8", (8,)),
        ("U8", (8,)),
        ("U8", (4,)),
        ("Q4_K", (256,)),
    ]


@pytest.mark.parametrize(("offset", "length"), [(5, 6), (0, 11), (-1, 3), (3, -1)])
def test_tensor_outside_the_file_is_refused(offset: int, length: int) -> None:
    with pytest.raises(MalformedError):
        arrange("onnx", 10, [TensorSpan("w", "U8", (length,), offset, length)])


def test_overlapping_tensors_are_refused() -> None:
    with pytest.raises(MalformedError):
        arrange("onnx", 10, [TensorSpan("a", "U8", (4,), 0, 4), TensorSpan("b", "U8", (4,), 3, 4)])


def test_every_known_type_has_a_positive_width() -> None:
    assert all(bits > 0 for bits in DTYPE_BITS.values())
