"""Laws of cutting: pieces are the file, depend on no window, and stay where bytes stay."""

from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcr.cutting import WINDOW_BYTES, WINDOW_BYTES_MIN, CutPlan, Piece, TensorSpan, cut_window
from mcr.cutting.spans import arrange, bytes_plan
from mcr.cutting.windows import COARSE, FINE_REGION_BYTES_MAX, NO_TENSOR, block_bytes
from mcr.model import BLOCK_BYTES, CHUNK_BYTES_MAX, KIB
from tests.unit.client.cutting import samples

NOISE = samples.noise(1 << 20, 7)
# Four different stretches, so that cuts by content differ from place to place.
FILE = NOISE + NOISE[::-1] + NOISE[1 << 18 :] + NOISE[: 1 << 18] + NOISE[1 << 19 :] + NOISE[: 1 << 19]


def covers(pieces: list[Piece], plan: CutPlan) -> bool:
    position = 0
    for piece in pieces:
        assert piece.offset_bytes == position
        assert 0 < piece.length_bytes <= CHUNK_BYTES_MAX
        position += piece.length_bytes
    return position == plan.size_bytes


def contents(plan: CutPlan, data: bytes) -> set[bytes]:
    return {
        data[piece.offset_bytes : piece.offset_bytes + piece.length_bytes]
        for piece in samples.cut(plan, data)
    }


def new_bytes(before: set[bytes], after: set[bytes]) -> int:
    return sum(map(len, after - before))


@st.composite
def plans(draw: st.DrawFn) -> CutPlan:
    """Draw a plan over a part of FILE: tensors of all sizes, gaps of all sizes."""
    size_bytes = draw(st.one_of(st.integers(0, 3000), st.integers(len(FILE) - 5000, len(FILE))))
    spans: list[TensorSpan] = []
    position = 0
    lengths = st.one_of(st.integers(0, 2), st.integers(0, 200_000), st.integers(0, 3 * BLOCK_BYTES))
    for _ in range(draw(st.integers(0, 8))):
        position += draw(lengths)
        length = draw(lengths)
        if position + length > size_bytes:
            break
        spans.append(TensorSpan("w", "U8", (length,), position, length))
        position += length
    return arrange("safetensors", size_bytes, spans)


@given(plan=plans(), draw=st.data())
@settings(max_examples=60, deadline=None)
def test_pieces_do_not_depend_on_the_windows(plan: CutPlan, draw: st.DataObject) -> None:
    data = memoryview(FILE)[: plan.size_bytes]
    at_once = cut_window(plan, 0, data, is_last=True)

    pieces: list[Piece] = []
    offset = 0
    while offset < len(data):
        length = draw.draw(st.integers(WINDOW_BYTES_MIN, WINDOW_BYTES_MIN + 300_000))
        window = data[offset : offset + length]
        pieces += cut_window(plan, offset, window, is_last=offset + len(window) == len(data))
        offset = pieces[-1].offset_bytes + pieces[-1].length_bytes

    assert pieces == at_once
    assert covers(at_once, plan)


@given(plan=plans())
@settings(max_examples=40, deadline=None)
def test_no_piece_crosses_the_border_of_a_tensor(plan: CutPlan) -> None:
    pieces = samples.cut(plan, FILE[: plan.size_bytes])

    for piece in pieces:
        end = piece.offset_bytes + piece.length_bytes
        if piece.tensor == NO_TENSOR:
            assert piece.element_bytes == 0
            for span in plan.tensors:
                assert end <= span.offset_bytes or piece.offset_bytes >= span.offset_bytes + span.length_bytes
        else:
            span = plan.tensors[piece.tensor]
            assert span.offset_bytes <= piece.offset_bytes
            assert end <= span.offset_bytes + span.length_bytes
            assert (piece.offset_bytes - span.offset_bytes) % block_bytes(span.length_bytes) == 0


def test_cuts_by_content_are_the_same_for_ever() -> None:
    """Golden: a change of the chunker, its tables or our parameters would make stored bytes new once more."""
    data = NOISE
    assert sha256(data).hexdigest() == "dc9982b5f9506c869e18120f469fac273577ab8af8235c79fa02e6f92a4c1418"

    pieces = samples.cut(bytes_plan(len(data)), data)

    assert [piece.offset_bytes for piece in pieces] == [
        0,
        119322,
        192290,
        247289,
        274917,
        422398,
        496752,
        564661,
        667362,
        764549,
        887428,
        971932,
    ]


def test_tensor_is_cut_into_blocks_from_its_own_start() -> None:
    length = 2 * BLOCK_BYTES + 10
    plan = CutPlan("safetensors", 100 + length, (TensorSpan("w", "F16", (length // 2,), 100, length),))

    pieces = samples.cut(plan, FILE[: plan.size_bytes])

    assert pieces == [
        Piece(0, 100, 0, NO_TENSOR),
        Piece(100, BLOCK_BYTES, 2, 0),
        Piece(100 + BLOCK_BYTES, BLOCK_BYTES, 2, 0),
        Piece(100 + 2 * BLOCK_BYTES, 10, 2, 0),
    ]


@pytest.mark.parametrize(
    ("dtype", "element_bytes"),
    [("F16", 2), ("BF16", 2), ("I16", 2), ("U16", 2), ("F32", 4), ("I32", 4), ("F64", 8), ("I64", 8)]
    + [(dtype, 1) for dtype in ("U8", "BOOL", "F8_E4M3", "Q4_K", ">f4", "C64", "F4")],
)
def test_pieces_of_a_tensor_tell_the_width_of_its_elements(dtype: str, element_bytes: int) -> None:
    plan = CutPlan("gguf", 8, (TensorSpan("w", dtype, (1,), 0, 8),))

    assert cut_window(plan, 0, memoryview(bytes(8)), is_last=True) == [Piece(0, 8, element_bytes, 0)]


def test_small_gap_is_one_piece_and_a_large_one_is_cut_by_content() -> None:
    small, large = FILE[: COARSE.whole_bytes_max], FILE[:BLOCK_BYTES]

    assert len(samples.cut(bytes_plan(len(small)), small)) == 1
    lengths = [piece.length_bytes for piece in samples.cut(bytes_plan(len(large)), large)]
    assert len(lengths) > 3
    assert all(COARSE.min_bytes <= length <= COARSE.max_bytes for length in lengths[:-1])


def test_inserted_bytes_leave_most_of_an_unknown_file_known() -> None:
    before = contents(bytes_plan(len(FILE)), FILE)
    changed = FILE[:500_000] + b"inserted" + FILE[500_000:]

    after = contents(bytes_plan(len(changed)), changed)

    assert new_bytes(before, after) <= 2 * COARSE.max_bytes


def test_gap_is_cut_alike_wherever_it_stands() -> None:
    # Long enough to be cut coarsely beside tensors too.
    gap = (FILE + FILE[::-1] + FILE[::3])[: FINE_REGION_BYTES_MAX + 64 * KIB]
    assert len(gap) > FINE_REGION_BYTES_MAX
    alone = contents(bytes_plan(len(gap)), gap)
    tensor = samples.Array(bytes(4096), (1024,))
    moved = samples.safetensors({"w": tensor}) + gap

    pieces = contents(samples.plan(moved), moved)

    assert alone <= pieces


def big_model() -> dict[str, samples.Array]:
    return {
        "embed": samples.Array(FILE[: 3 * BLOCK_BYTES], (768, 1024)),
        "q": samples.Array(samples.noise(4096, 21), (32, 32)),
        "k": samples.Array(samples.noise(8192, 22), (64, 32)),
    }


def test_changed_tensor_costs_only_itself() -> None:
    model = big_model()
    before = samples.safetensors(model)
    after = samples.safetensors(model | {"k": samples.Array(samples.noise(8192, 23), (64, 32))})

    new = new_bytes(contents(samples.plan(before), before), contents(samples.plan(after), after))

    assert new == 8192


def test_appended_rows_leave_earlier_blocks_known() -> None:
    model = big_model()
    rows = samples.noise(13 * 4096, 24)
    before = samples.safetensors(model)
    after = samples.safetensors(
        model | {"embed": samples.Array(model["embed"].data + rows, (768 + 13, 1024))}
    )

    new = new_bytes(contents(samples.plan(before), before), contents(samples.plan(after), after))

    assert len(rows) <= new <= len(rows) + 1000


def test_reordered_tensors_cost_only_the_header() -> None:
    model = big_model()
    before = samples.safetensors(model)
    after = samples.safetensors(dict(reversed(model.items())))

    new = new_bytes(contents(samples.plan(before), before), contents(samples.plan(after), after))

    assert 0 < new < 1000


def test_empty_file_has_no_pieces() -> None:
    assert cut_window(bytes_plan(0), 0, memoryview(b""), is_last=True) == []


def test_a_hundred_thousand_tensors_are_each_cut_once() -> None:
    count, window_bytes = 100_000, WINDOW_BYTES_MIN
    spans = tuple(TensorSpan(f"t{index}", "U8", (32,), 32 * index, 32) for index in range(count))
    plan = CutPlan("safetensors", 32 * count, spans)

    pieces = samples.cut(plan, FILE[: plan.size_bytes], window_bytes)

    assert [piece.tensor for piece in pieces] == list(range(count))


def test_window_that_contradicts_the_plan_is_our_bug() -> None:
    plan = bytes_plan(WINDOW_BYTES)
    with pytest.raises(AssertionError):
        cut_window(plan, 0, memoryview(bytes(10)), is_last=True)
    with pytest.raises(AssertionError):
        cut_window(plan, 0, memoryview(bytes(10)), is_last=False)
    with pytest.raises(AssertionError):
        cut_window(bytes_plan(5), 0, memoryview(bytes(10)), is_last=True)
