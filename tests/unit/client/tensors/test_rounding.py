"""Rounding float64 to element types, against exact rational arithmetic."""

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr.errors import InvalidArgumentError
from mcr.tensors import dtypes, rounding

SMALL_FLOATS = {"BF16": 16, "F16": 16, "F8_E4M3": 8, "F8_E5M2": 8}


def every_value(dtype: str) -> list[tuple[int, float]]:
    """Return (code, value) of every code that is not negative, smallest first; NaN left out."""
    codes = range(1 << (SMALL_FLOATS[dtype] - 1))
    data = b"".join(code.to_bytes(SMALL_FLOATS[dtype] // 8, "little") for code in codes)
    values = dtypes.numbers(data, dtype)
    assert values is not None
    return [(code, float(value)) for code, value in zip(codes, values, strict=True) if not math.isnan(value)]


TABLES = {dtype: every_value(dtype) for dtype in SMALL_FLOATS}


def nearest(number: float, dtype: str) -> int:
    """Return the code that a number rounds to: the nearest value, the even code where two are as near."""
    sign = 1 << (SMALL_FLOATS[dtype] - 1) if math.copysign(1, number) < 0 else 0
    table = [(code, value) for code, value in TABLES[dtype] if not math.isinf(value)]
    # The exponent goes on behind the largest number: from halfway to the next one all is out of range.
    beyond = 2 * Fraction(table[-1][1]) - Fraction(table[-2][1])
    if math.isinf(number):
        return sign | (table[-1][0] + 1) if dtype != "F8_E4M3" else sign | 0x7F
    size = abs(Fraction(number))
    low, high = 0, len(table) - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if Fraction(table[middle][1]) <= size else (low, middle - 1)
    upper = Fraction(table[low + 1][1]) if low + 1 < len(table) else beyond
    below, above = size - Fraction(table[low][1]), upper - size
    code = table[low][0]
    return sign | (code + (above < below or (above == below and code % 2 == 1)))


def code_of(number: float, dtype: str) -> int:
    return int.from_bytes(rounding.to_bytes(np.asarray([number]), dtype), "little")


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2"])
def test_eight_bit_floats_round_right_at_every_border(dtype: str) -> None:
    values = [value for _, value in TABLES[dtype] if not math.isinf(value)]
    borders = [(one + other) / 2 for one, other in pairwise(values)]
    borders.append(values[-1] + (values[-1] - values[-2]) / 2)
    for border in (*values, *borders):
        for number in (border, math.nextafter(border, math.inf), math.nextafter(border, 0)):
            for signed in (number, -number):
                assert code_of(signed, dtype) == nearest(signed, dtype), signed


@given(st.floats(allow_nan=False), st.sampled_from(sorted(SMALL_FLOATS)))
def test_any_number_rounds_once_to_nearest_even(number: float, dtype: str) -> None:
    assert code_of(number, dtype) == nearest(number, dtype)


@given(st.sampled_from(TABLES["BF16"]), st.integers(-3, 3), st.booleans())
def test_halves_between_bfloat16_numbers_go_to_the_even_one(
    of: tuple[int, float], steps: int, negative: bool
) -> None:
    _, value = of
    if math.isinf(value):
        return
    step = max(math.ulp(value) * 2.0**45, 2.0**-133)
    number = value + step / 2
    for _ in range(abs(steps)):
        number = math.nextafter(number, math.inf if steps > 0 else -math.inf)
    number = -number if negative else number
    assert code_of(number, "BF16") == nearest(number, "BF16")


@given(st.floats(width=64, allow_nan=False))
def test_float32_is_what_the_machine_rounds_to(number: float) -> None:
    with np.errstate(over="ignore"):
        expected = np.float64(number).astype(np.float32)
    assert rounding.to_bytes(np.asarray([number]), "F32") == expected.tobytes()


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [
        ("F16", "007e"),
        ("BF16", "c07f"),
        ("F32", "0000c07f"),
        ("F64", "000000000000f87f"),
        ("F8_E4M3", "7f"),
        ("F8_E5M2", "7e"),
    ],
)
def test_every_nan_becomes_the_one_quiet_nan(dtype: str, bits: str) -> None:
    patterns = np.asarray([0x7FF8 << 48, 0xFFF8 << 48 | 5, 0x7FF0 << 48 | 1], np.uint64)
    numbers = patterns.view(np.float64)
    assert rounding.to_bytes(numbers, dtype).hex() == bits * 3


@given(st.integers(-(2**53), 2**53), st.sampled_from([0.0, 0.25, 0.5, 0.75]))
def test_integers_round_to_even_and_stay_in_range(whole: int, part: float) -> None:
    number = float(whole) + part
    for dtype, low, high in (("I8", -128, 127), ("U16", 0, 2**16 - 1), ("I64", -(2**63), 2**63 - 1)):
        rounded = round(Fraction(number))
        data = rounding.to_bytes(np.asarray([number]), dtype)
        assert int.from_bytes(data, "little", signed=low < 0) == max(low, min(high, rounded))


def test_integers_beyond_all_become_the_ends_of_the_range() -> None:
    numbers = np.asarray([1e300, -1e300, np.inf, -np.inf])
    assert rounding.to_bytes(numbers, "I64") == np.asarray([2**63 - 1, -(2**63)] * 2, np.int64).tobytes()
    assert rounding.to_bytes(numbers, "U64") == np.asarray([2**64 - 1, 0] * 2, np.uint64).tobytes()


@pytest.mark.parametrize("dtype", ["BOOL", "C64", "Q4_K"])
def test_what_has_no_numbers_is_refused(dtype: str) -> None:
    with pytest.raises(InvalidArgumentError):
        rounding.to_bytes(np.zeros(1), dtype)
