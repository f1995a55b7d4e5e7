"""Laws of the comparison of two tensors."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mcr.errors import InvalidArgumentError
from mcr.tensors import dtypes, statistics
from mcr.tensors.statistics import (
    ChangeKind,
    TensorChange,
    TensorComparison,
    added,
    removed,
    reshaped,
    unchanged,
)

# Squares of these neither overflow nor vanish, so that the plain formula below is a fair judge.
MODERATE = st.one_of(st.just(0.0), st.floats(1e-30, 1e30), st.floats(-1e30, -1e-30))
# As `mcr.tensors.sums` promises of float32: of a norm, and of one difference.
NORM_ROUNDING, ELEMENT_ROUNDING = 2.0**-14, 2.0**-24


def compare(a: np.ndarray, b: np.ndarray, dtype: str, *, cut_elements: int = 1 << 20) -> TensorChange:
    comparison = TensorComparison("t", dtype_a=dtype, dtype_b=dtype, shape_a=a.shape, shape_b=b.shape)
    data_a, data_b = a.tobytes(), b.tobytes()
    step = cut_elements * a.itemsize
    for start in range(0, len(data_a), step):
        comparison.update(data_a[start : start + step], data_b[start : start + step])
    return comparison.finish()


@settings(deadline=None)
@given(st.data())
def test_figures_agree_with_the_plain_formulas(data: st.DataObject) -> None:
    # given
    length = data.draw(st.integers(1, 40))
    a = data.draw(hnp.arrays(np.float64, length, elements=MODERATE))
    b = data.draw(hnp.arrays(np.float64, length, elements=MODERATE))
    # when
    change = compare(a, b, "F64", cut_elements=data.draw(st.integers(1, 50)))
    # then
    assert change.changed_share == np.count_nonzero(a.view(np.uint64) != b.view(np.uint64)) / length
    assert change.norm_a == pytest.approx(np.linalg.norm(a))
    assert change.norm_b == pytest.approx(np.linalg.norm(b))
    assert change.norm_of_change == pytest.approx(np.linalg.norm(b - a))
    assert change.max_abs_change == np.abs(b - a).max()
    if a.any() and b.any():
        cosine = np.dot(a / np.linalg.norm(a), b / np.linalg.norm(b))
        assert change.cosine == pytest.approx(cosine, abs=1e-12)
        assert change.relative_change == pytest.approx(np.linalg.norm(b - a) / np.linalg.norm(a))


@pytest.mark.parametrize(("dtype", "rounding"), [("F32", NORM_ROUNDING), ("F64", 1e-13)])
def test_figures_hardly_depend_on_where_the_blocks_are_cut(dtype: str, rounding: float) -> None:
    # given
    random = np.random.default_rng(1)
    number_type = "<f4" if dtype == "F32" else "<f8"
    a: np.ndarray = random.standard_normal(100_003).astype(number_type)
    b: np.ndarray = (a + 1e-3 * random.standard_normal(a.size)).astype(number_type)
    # when
    whole, cut = compare(a, b, dtype), compare(a, b, dtype, cut_elements=777)
    # then
    assert whole.changed_share == cut.changed_share
    assert whole.max_abs_change == cut.max_abs_change
    assert whole.norm_of_change == pytest.approx(cut.norm_of_change, rel=rounding)
    assert whole.relative_change == pytest.approx(1e-3, rel=0.02)


@pytest.mark.parametrize(
    "dtype", ["BF16", "F16", "F32", "F8_E4M3", "F8_E5M2", "BOOL", "I8", "U8", "I16", "U16"]
)
@pytest.mark.parametrize("elements", [5, 1_024, 530_001])
@pytest.mark.parametrize("changed_share", [1e-3, 0.2, 1.0])
def test_narrow_figures_agree_with_float64_within_what_is_promised(
    dtype: str, elements: int, changed_share: float
) -> None:
    # given
    random = np.random.default_rng(elements)
    element_bytes = dtypes.element_bytes(dtype) or 0
    bits_type = f"<u{element_bytes}"
    values = random.standard_normal(elements).astype(np.float32)
    if dtype == "F32":
        bits = values.view(bits_type)
    elif dtype == "BF16":
        bits = (values.view(np.uint32) >> 16).astype(bits_type)
    elif dtype == "F16":
        bits = values.astype(np.float16).view(bits_type)
    else:
        # Codes of all magnitudes; the 8-bit floats have their NaN above these.
        bits = random.integers(0, 120, elements).astype(bits_type)
    after = bits.copy()
    after[0] ^= 1
    chosen = random.random(elements) < changed_share
    after[chosen] ^= random.integers(1, 4, int(chosen.sum())).astype(bits_type)
    # when
    change = compare(bits, after, dtype)
    # then
    a, b = dtypes.numbers(bits.tobytes(), dtype), dtypes.numbers(after.tobytes(), dtype)
    assert a is not None
    assert b is not None
    assert change.changed_share == np.count_nonzero(bits != after) / elements
    assert change.norm_a == pytest.approx(np.linalg.norm(a), rel=NORM_ROUNDING)
    assert change.norm_b == pytest.approx(np.linalg.norm(b), rel=NORM_ROUNDING)
    assert change.norm_of_change == pytest.approx(np.linalg.norm(b - a), rel=NORM_ROUNDING)
    assert change.max_abs_change == pytest.approx(np.abs(b - a).max(), rel=ELEMENT_ROUNDING)
    cosine = np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)
    assert change.cosine == pytest.approx(cosine, abs=2 * NORM_ROUNDING)


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e-20, 1.0, 1e20, 1e38])
def test_float32_whose_squares_vanish_or_overflow_is_as_exact(scale: float) -> None:
    # given: Adam's second moments are as small, and some pieces are as usual
    random = np.random.default_rng(4)
    a = random.uniform(0.5, 1, 600_000).astype(np.float32)
    a[:300_000] *= np.float32(scale)
    b = a.copy()
    b[::3] *= np.float32(-1.5)
    # when
    change, small = compare(a, b, "F32"), compare(a[:1_000], b[:1_000], "F32")
    # then
    for found, one, other in ((change, a, b), (small, a[:1_000], b[:1_000])):
        one, other = one.astype(np.float64), other.astype(np.float64)
        assert found.norm_a == pytest.approx(np.linalg.norm(one), rel=NORM_ROUNDING)
        assert found.norm_of_change == pytest.approx(np.linalg.norm(other - one), rel=NORM_ROUNDING)
        assert found.max_abs_change == pytest.approx(np.abs(other - one).max(), rel=ELEMENT_ROUNDING)
        assert (found.non_finite_a, found.non_finite_b) == (0, 0)


@pytest.mark.parametrize("relative", [1e-1, 1e-3, 1e-5])
def test_the_cosine_keeps_its_digits_where_hardly_anything_changed(relative: float) -> None:
    # given
    random = np.random.default_rng(5)
    a = random.standard_normal(100_000).astype(np.float32)
    b = a + (relative * random.standard_normal(a.size)).astype(np.float32)
    # when
    change = compare(a, b, "F32")
    # then
    exact_a, exact_b = a.astype(np.longdouble), b.astype(np.longdouble)
    lengths = np.sqrt((exact_a**2).sum()) * np.sqrt((exact_b**2).sum())
    assert change.cosine is not None
    assert 1 - change.cosine == pytest.approx(float(1 - (exact_a * exact_b).sum() / lengths), rel=1e-2)


def test_the_cosine_of_norms_far_apart_is_that_of_the_elements() -> None:
    random = np.random.default_rng(6)
    a, b = random.standard_normal((2, 10_000)).astype(np.float32)
    b = 1e6 * (b + a / 10).astype(np.float32)
    expected = np.dot(a.astype(float), b) / np.linalg.norm(a) / np.linalg.norm(b)
    assert compare(a, b, "F32").cosine == pytest.approx(expected, abs=1e-6)


def test_the_same_blocks_give_the_same_figures_bit_for_bit() -> None:
    random = np.random.default_rng(2)
    a, b = random.standard_normal((2, 70_000))
    assert compare(a, b, "F64") == compare(a, b, "F64")


def test_one_flipped_bit_of_bf16_is_found_in_a_long_tensor() -> None:
    # given
    a = np.full(50_000, 0x3F80, np.uint16)
    b = a.copy()
    b[49_999] ^= 1
    # when
    change = compare(a, b, "BF16")
    # then
    assert change.changed_share == 1 / 50_000
    assert change.max_abs_change == 2**-7
    assert change.norm_of_change == 2**-7
    assert change.kind is ChangeKind.CHANGED


@pytest.mark.parametrize("changed", [1, 100, 2_000, 5_000, 20_000])
def test_figures_do_not_depend_on_how_many_elements_changed(changed: int) -> None:
    # given
    random = np.random.default_rng(3)
    a = random.standard_normal(20_000)
    b = a.copy()
    b[random.permutation(a.size)[:changed]] += 1.0
    # What changes most outweighs all else: taking it away from a sum would leave nothing of the others.
    a[0], b[0] = 1e12, 0.0
    # when
    change = compare(a, b, "F64")
    # then
    assert change.changed_share == np.count_nonzero(a != b) / a.size
    assert change.norm_a == pytest.approx(np.linalg.norm(a), rel=1e-13)
    assert change.norm_b == pytest.approx(np.linalg.norm(b), rel=1e-13)
    assert change.norm_of_change == pytest.approx(np.linalg.norm(b - a), rel=1e-13)
    assert change.max_abs_change == 1e12


def test_a_nan_that_stays_is_counted_beside_few_changes() -> None:
    a = np.ones(20_000, np.float32)
    a[7] = np.nan
    b = a.copy()
    b[9] = 3.0

    change = compare(a, b, "F32")

    assert (change.non_finite_a, change.non_finite_b) == (1, 1)
    assert (change.max_abs_change, change.norm_of_change) == (2.0, 2.0)
    assert change.norm_a == pytest.approx(math.sqrt(19_999))


@pytest.mark.parametrize("dtype", ["F32", "BF16", "I8", "BOOL", "F8_E4M3", "C64", "Q4_K"])
def test_equal_blocks_change_nothing_by_either_way_of_feeding(dtype: str) -> None:
    # given
    data = bytes(range(256)) * 8
    width_bytes = {"F32": 4, "BF16": 2, "C64": 8}.get(dtype, 1)
    shape = (len(data) // width_bytes,)
    fed = TensorComparison("t", dtype_a=dtype, dtype_b=dtype, shape_a=shape, shape_b=shape)
    once = TensorComparison("t", dtype_a=dtype, dtype_b=dtype, shape_a=shape, shape_b=shape)
    # when
    fed.update(data, bytes(data))
    once.update_equal(data)
    # then
    change = fed.finish()
    assert change == once.finish()
    assert change.changed_share == 0
    assert change.kind is ChangeKind.UNCHANGED
    assert change.norm_of_change in (0, None)


def test_nan_and_infinity_are_counted_and_left_out_of_the_norms() -> None:
    # given
    a = np.array([3.0, math.nan, 4.0, 1.0, math.inf], np.float32)
    b = np.array([3.0, 7.0, 5.0, math.nan, math.inf], np.float32)
    # when
    change = compare(a, b, "F32")
    # then
    assert (change.non_finite_a, change.non_finite_b) == (2, 2)
    assert change.norm_a == 5.0
    assert change.norm_of_change == 1.0
    assert change.max_abs_change == 1.0
    assert change.changed_share == 3 / 5


def test_equal_blocks_with_nan_are_unchanged_and_still_counted() -> None:
    # given
    a = np.array([math.nan, 2.0], np.float64)
    # when
    change = compare(a, a, "F64")
    # then
    assert change.changed_share == 0
    assert (change.non_finite_a, change.non_finite_b) == (1, 1)
    assert change.norm_a == 2.0
    assert change.cosine == 1.0


def test_nothing_but_nan_has_norm_zero_and_no_cosine() -> None:
    change = compare(np.array([math.nan]), np.array([1.0]), "F64")
    assert change.norm_a == 0
    assert change.cosine is None
    assert change.max_abs_change == 0


def test_numbers_too_large_to_square_have_no_norm_and_give_no_warning() -> None:
    # given
    a, b = np.array([1.7e308, 1.0]), np.array([-1.7e308, 1.0])
    # when
    change = compare(a, b, "F64")
    # then
    assert change.norm_a is None
    assert change.norm_of_change is None
    assert change.relative_change is None
    assert change.cosine is None
    assert change.max_abs_change is None
    assert (change.non_finite_a, change.changed_share) == (0, 0.5)


def test_a_ratio_too_large_for_a_number_is_left_open() -> None:
    change = compare(np.array([5e-162]), np.array([1e153]), "F64")
    assert change.norm_a is not None
    assert change.norm_of_change == 1e153
    assert change.relative_change is None


def test_leaving_zero_has_no_relative_change() -> None:
    # given
    zero, one = np.zeros(4, np.float32), np.ones(4, np.float32)
    # when
    change = compare(zero, one, "F32")
    # then
    assert change.relative_change is None
    assert change.cosine is None
    assert change.norm_of_change == 2.0
    assert compare(zero, zero, "F32").relative_change == 0.0
    assert compare(one, zero, "F32").relative_change == 1.0


def test_a_sign_of_zero_is_a_changed_bit_but_no_change_of_value() -> None:
    change = compare(np.array([0.0], np.float32), np.array([-0.0], np.float32), "F32")
    assert change.changed_share == 1
    assert change.norm_of_change == 0
    assert change.kind is ChangeKind.CHANGED


def test_a_quantised_type_is_compared_by_bytes() -> None:
    # given
    comparison = TensorComparison("t", dtype_a="Q4_K", dtype_b="Q4_K", shape_a=(256,), shape_b=(256,))
    # when
    comparison.update(b"\0" * 144, b"\0" * 108 + b"\1" * 36)
    # then
    change = comparison.finish()
    assert change.changed_share == 0.25
    assert change.norm_of_change is None
    assert change.kind is ChangeKind.CHANGED


def test_a_cast_is_compared_by_value() -> None:
    # given
    a = np.array([1.0, 2.0, math.nan, 0.1], np.float32)
    b = (a.view(np.uint32) >> 16).astype(np.uint16)
    comparison = TensorComparison("t", dtype_a="F32", dtype_b="BF16", shape_a=(4,), shape_b=(4,))
    # when
    comparison.update(a.tobytes(), b.tobytes())
    # then
    change = comparison.finish()
    assert change.changed_share == 0.25
    assert change.kind is ChangeKind.CHANGED
    assert change.relative_change == pytest.approx(0.1 * 2**-9, rel=0.8)


@settings(deadline=None)
@given(st.integers(0, 300), st.integers(1, 500), st.integers(1, 500))
def test_a_cast_is_compared_alike_however_its_two_sides_are_cut(
    elements: int, cut_a: int, cut_b: int
) -> None:
    # given
    a = np.random.default_rng(elements).standard_normal(elements)
    b = a.astype(np.float16)
    whole = TensorComparison("t", dtype_a="F64", dtype_b="F16", shape_a=a.shape, shape_b=a.shape)
    whole.update(a.tobytes(), b.tobytes())
    sides = TensorComparison("t", dtype_a="F64", dtype_b="F16", shape_a=a.shape, shape_b=a.shape)
    data_a, data_b = a.tobytes(), b.tobytes()
    # when
    at_a = at_b = 0
    while not sides.complete:
        if sides.wants_a:
            sides.feed_a(data_a[at_a : at_a + cut_a])
            at_a += cut_a
        else:
            sides.feed_b(data_b[at_b : at_b + cut_b])
            at_b += cut_b
    # then
    one, other = whole.finish(), sides.finish()
    assert (one.changed_share, one.max_abs_change) == (other.changed_share, other.max_abs_change)
    assert one.norm_of_change == pytest.approx(other.norm_of_change)


def test_a_cast_that_loses_nothing_is_still_a_change() -> None:
    # given
    comparison = TensorComparison("t", dtype_a="F32", dtype_b="F64", shape_a=(1,), shape_b=(1,))
    # when
    comparison.update(np.ones(1, np.float32).data, np.ones(1, np.float64).data)
    # then
    change = comparison.finish()
    assert change.changed_share == 0
    assert change.kind is ChangeKind.CHANGED


def test_equal_bytes_of_different_types_are_refused() -> None:
    comparison = TensorComparison("t", dtype_a="F16", dtype_b="BF16", shape_a=(1,), shape_b=(1,))
    with pytest.raises(InvalidArgumentError, match="the same bytes differ as F16 and as BF16"):
        comparison.update_equal(bytes(2))


@pytest.mark.parametrize(
    ("dtype_b", "shape_b"),
    [("F32", (3,)), ("Q4_K", (2,)), ("C64", (2,))],
    ids=["shape", "quantised", "complex"],
)
def test_tensors_without_counterparts_are_refused(dtype_b: str, shape_b: tuple[int, ...]) -> None:
    assert not statistics.comparable(dtype_a="F32", dtype_b=dtype_b, shape_a=(2,), shape_b=shape_b)
    with pytest.raises(InvalidArgumentError, match="has no counterpart"):
        TensorComparison("t", dtype_a="F32", dtype_b=dtype_b, shape_a=(2,), shape_b=shape_b)


@pytest.mark.parametrize(
    ("block_a", "block_b", "reason"),
    [
        (b"abcd", b"abcdefgh", "different numbers of elements"),
        (b"abcdef", b"abcdef", "not whole elements of 4 bytes"),
        (b"abcd", b"abcdef", "not whole elements of 4 bytes"),
    ],
)
def test_blocks_that_do_not_match_are_refused(block_a: bytes, block_b: bytes, reason: str) -> None:
    comparison = TensorComparison("t", dtype_a="F32", dtype_b="F32", shape_a=(9,), shape_b=(9,))
    with pytest.raises(InvalidArgumentError, match=reason):
        comparison.update(block_a, block_b)


def test_a_comparison_that_missed_a_block_gives_no_result() -> None:
    # given
    comparison = TensorComparison("t", dtype_a="F32", dtype_b="F32", shape_a=(9,), shape_b=(9,))
    comparison.update(bytes(32), bytes(32))
    # when, then
    with pytest.raises(InvalidArgumentError, match="got 8 elements of 9"):
        comparison.finish()


def test_an_empty_tensor_is_unchanged() -> None:
    comparison = TensorComparison("t", dtype_a="F32", dtype_b="F32", shape_a=(0, 4), shape_b=(0, 4))
    comparison.update(b"", b"")
    change = comparison.finish()
    assert change.changed_share == 0
    assert change.kind is ChangeKind.UNCHANGED
    assert change.element_count == 0


def test_changes_that_need_no_bytes_say_what_they_are() -> None:
    new = added("t", dtype="F32", shape=(2, 3))
    gone = removed("t", dtype="F32", shape=(4,))
    grown = reshaped("t", dtype_a="F32", dtype_b="F32", shape_a=(2,), shape_b=(3,))
    same = unchanged("t", dtype="F32", shape=())
    assert [change.kind for change in (new, gone, grown, same)] == [
        ChangeKind.ADDED,
        ChangeKind.REMOVED,
        ChangeKind.RESHAPED,
        ChangeKind.UNCHANGED,
    ]
    assert [change.element_count for change in (new, gone, grown, same)] == [6, 4, 3, 1]
    assert [change.changed_share for change in (new, gone, grown, same)] == [1, 1, 1, 0]


def test_importing_the_package_does_not_import_numpy() -> None:
    # given
    program = (
        "import sys, mcr, mcr.tensors.dtypes, mcr.tensors.statistics, mcr.tensors.plot;"
        "print(sorted({'numpy', 'PIL'} & set(sys.modules)))"
    )
    # when
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    # then
    assert done.stdout.strip() == "[]"
