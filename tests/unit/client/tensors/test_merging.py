"""Strategies against an independent computation in NumPy, written from the definitions and nothing else."""

import math
from decimal import Decimal, getcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcr.errors import InvalidArgumentError
from mcr.tensors.merging import Method, Strategy, begin, obstacle, parse_strategy, slerp_weights
from tests.support.merge_story import with_numpy

SMALL = st.floats(-4, 4, width=32)


def merged(text: str, ours: bytes, theirs: bytes, base: bytes, dtype: str, block: int = 64) -> bytes:
    """Merge as the client does, in blocks."""
    strategy = parse_strategy(text)
    assert strategy is not None
    element = {"F32": 4, "F64": 8, "BF16": 2, "F16": 2, "I8": 1, "I32": 4, "I64": 8}[dtype]
    machine = begin(strategy, dtype, (len(ours) // element,))
    step = block * element
    blocks = [
        (ours[at : at + step], theirs[at : at + step], base[at : at + step])
        for at in range(0, len(ours), step)
    ]
    for _ in range(machine.passes):
        for each in blocks:
            machine.look(*each)
        machine.end_pass()
    return b"".join(machine.merge(*each) for each in blocks)


STRATEGIES = [
    "mean",
    "weighted:0.3",
    "weighted:0",
    "weighted:1",
    "slerp:0.25",
    "slerp:0.5",
    "ties:0.2",
    "ties:1",
]


@settings(deadline=None)
@given(st.lists(st.tuples(SMALL, SMALL, SMALL), min_size=1, max_size=200), st.sampled_from(STRATEGIES))
def test_float32_tensors_are_merged_as_numpy_computes_it(
    rows: list[tuple[float, float, float]], text: str
) -> None:
    a, b, o = (np.asarray(column, np.float32) for column in zip(*rows, strict=True))
    expected = with_numpy(text, *(x.astype(np.float64) for x in (a, b, o))).astype(np.float32)
    assert merged(text, a.tobytes(), b.tobytes(), o.tobytes(), "F32", block=37) == expected.tobytes()


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.sampled_from(STRATEGIES))
def test_half_precision_tensors_are_merged_as_numpy_computes_it(seed: int, count: int, text: str) -> None:
    draw = np.random.default_rng(seed)
    o = draw.standard_normal(count).astype(np.float16)
    a, b = ((o + draw.standard_normal(count) * 0.3).astype(np.float16) for _ in range(2))
    expected = with_numpy(text, *(x.astype(np.float64) for x in (a, b, o))).astype(np.float16)
    assert merged(text, a.tobytes(), b.tobytes(), o.tobytes(), "F16") == expected.tobytes()


@pytest.mark.parametrize("text", STRATEGIES)
def test_a_large_tensor_does_not_depend_on_how_it_is_cut(text: str) -> None:
    draw = np.random.default_rng(7)
    a, b, o = (draw.standard_normal(150_001).astype(np.float32) for _ in range(3))
    expected = with_numpy(text, *(x.astype(np.float64) for x in (a, b, o))).astype(np.float32).tobytes()
    for block in (262_144, 65_536, 16_384, 1_001):
        assert merged(text, a.tobytes(), b.tobytes(), o.tobytes(), "F32", block) == expected


@given(st.lists(st.tuples(st.integers(-128, 127), st.integers(-128, 127)), min_size=1, max_size=50))
def test_means_of_integers_round_to_even(rows: list[tuple[int, int]]) -> None:
    a, b = (np.asarray(column, np.int8) for column in zip(*rows, strict=True))
    expected = bytes(round(Fraction(x + y, 2)) & 0xFF for x, y in rows)
    assert merged("mean", a.tobytes(), b.tobytes(), b"", "I8") == expected


def test_integers_that_float64_cannot_tell_apart_are_refused() -> None:
    large = np.asarray([2**53 + 1], np.int64).tobytes()
    with pytest.raises(InvalidArgumentError, match="2\\^53"):
        merged("mean", large, large, b"", "I64")


def test_a_nan_on_either_side_is_a_nan_of_the_result() -> None:
    a = np.asarray([np.nan, 1, 2, 3], np.float32)
    b = np.asarray([1, np.nan, 2, 4], np.float32)
    o = np.zeros(4, np.float32)
    for text in ("mean", "weighted:0.5", "slerp:0.5", "ties:1"):
        result = np.frombuffer(merged(text, a.tobytes(), b.tobytes(), o.tobytes(), "F32"), np.float32)
        assert np.isnan(result).tolist() == [True, True, False, False], text


def test_ties_drops_what_the_majority_opposes() -> None:
    o = np.zeros(5, np.float32)
    a = np.asarray([4, -3, 1, 0, 2], np.float32)
    b = np.asarray([2, 1, 0.5, 0, -2], np.float32)
    result = np.frombuffer(merged("ties:0.6", a.tobytes(), b.tobytes(), o.tobytes(), "F32"), np.float32)
    # Of a the three largest are 4, -3, 2; of b they are 2, -2, 1. Opposite and equal: nothing is elected.
    assert result.tolist() == [3, -3, 0, 0, 0]


@given(st.floats(-0.9995, 0.9995), st.floats(0, 1))
def test_slerp_weights_are_the_nearest_numbers(cosine: float, share: float) -> None:
    getcontext().prec = 28
    p, q = slerp_weights(cosine, share)
    x = np.arccos(np.longdouble(cosine))
    expected = (
        np.sin((1 - np.longdouble(share)) * x) / np.sin(x),
        np.sin(np.longdouble(share) * x) / np.sin(x),
    )
    # Eleven more bits than a double has, and a little less near the ends; near -1 weights are above 1.
    for weight, near in zip((p, q), expected, strict=True):
        assert abs(Decimal(weight) - Decimal(str(near))) <= Decimal(math.ulp(max(1.0, abs(weight))))


def test_slerp_of_orthogonal_vectors_keeps_their_length() -> None:
    a, b = np.asarray([3, 0], np.float64), np.asarray([0, 3], np.float64)
    result = np.frombuffer(merged("slerp:0.5", a.tobytes(), b.tobytes(), b"", "F64"), np.float64)
    assert np.allclose(result, [3 * math.sqrt(0.5)] * 2, rtol=1e-15)


@pytest.mark.parametrize(
    "text", ["weighted", "weighted:", "weighted:x", "slerp:1.1", "slerp:-1", "ties:0", "ties:nan", "mean:1"]
)
def test_a_number_that_a_strategy_cannot_have_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        parse_strategy(text)


def test_other_words_are_no_strategies() -> None:
    assert parse_strategy("average") is None
    assert parse_strategy("model.safetensors") is None
    assert parse_strategy("ours") == Strategy(Method.OURS)
    assert str(parse_strategy("slerp:0.30")) == "slerp:0.30"


@pytest.mark.parametrize(
    ("text", "ours", "theirs", "base", "reason"),
    [
        ("mean", ("F32", (2,)), ("F32", (3,)), None, "equal types"),
        ("mean", ("F32", (2,)), ("BF16", (2,)), None, "equal types"),
        ("ties:0.5", ("F32", (2,)), ("F32", (2,)), None, "base"),
        ("ties:0.5", ("F32", (2,)), ("F32", (2,)), ("BF16", (2,)), "base"),
        ("slerp:0.5", ("I64", (2,)), ("I64", (2,)), None, "floating point"),
        ("mean", ("BOOL", (2,)), ("BOOL", (2,)), None, "no meaning"),
        ("mean", ("Q4_K", (2,)), ("Q4_K", (2,)), None, "no meaning"),
    ],
)
def test_what_a_strategy_cannot_merge_is_said(
    text: str,
    ours: tuple[str, tuple[int, ...]],
    theirs: tuple[str, tuple[int, ...]],
    base: tuple[str, tuple[int, ...]] | None,
    reason: str,
) -> None:
    strategy = parse_strategy(text)
    assert strategy is not None
    assert reason in obstacle(strategy, ours=ours, theirs=theirs, base=base)
    assert obstacle(Strategy(Method.OURS), ours=ours, theirs=theirs, base=base) == ""
