"""Laws of element types: what bytes mean as numbers."""

import importlib.util
import math
import struct
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr.errors import InvalidArgumentError, MissingExtraError
from mcr.tensors import dtypes


@pytest.mark.parametrize(
    ("dtype", "code", "value"),
    [
        ("F32", "<f", 1.5),
        ("F64", "<d", -2.25),
        ("F16", "<e", 0.333251953125),
        ("I8", "<b", -128),
        ("U8", "<B", 255),
        ("I16", "<h", -32768),
        ("U16", "<H", 65535),
        ("I32", "<i", -(2**31)),
        ("U32", "<I", 2**32 - 1),
        ("I64", "<q", -(2**53)),
        ("U64", "<Q", 2**53),
        ("BOOL", "<?", True),
    ],
)
def test_little_endian_bytes_are_read_exactly(dtype: str, code: str, value: float) -> None:
    # given
    data = struct.pack(code, value) * 3
    # when
    found = dtypes.numbers(data, dtype)
    # then
    assert found is not None
    assert found.dtype == np.float64
    assert found.tolist() == [float(value)] * 3
    assert dtypes.element_bytes(dtype) == struct.calcsize(code)


@given(st.floats(width=32, allow_nan=False))
def test_bf16_is_the_upper_half_of_a_float32(value: float) -> None:
    # given
    upper = struct.pack("<f", value)[2:]
    # when
    found = dtypes.numbers(upper, "BF16")
    # then
    assert found is not None
    assert found.tolist() == [struct.unpack("<f", b"\0\0" + upper)[0]]


@pytest.mark.parametrize(
    ("dtype", "code", "value"),
    [
        # Table 1 of arXiv 2209.05433.
        ("F8_E4M3", 0b0_1111_110, 448.0),
        ("F8_E4M3", 0b0_0001_000, 2.0**-6),
        ("F8_E4M3", 0b0_0000_111, 0.875 * 2.0**-6),
        ("F8_E4M3", 0b0_0000_001, 2.0**-9),
        ("F8_E4M3", 0b1_0111_000, -1.0),
        ("F8_E5M2", 0b0_11110_11, 57344.0),
        ("F8_E5M2", 0b0_00001_00, 2.0**-14),
        ("F8_E5M2", 0b0_00000_11, 0.75 * 2.0**-14),
        ("F8_E5M2", 0b0_00000_01, 2.0**-16),
        ("F8_E5M2", 0b1_11111_00, -math.inf),
    ],
)
def test_8_bit_floats_have_the_values_of_their_specification(dtype: str, code: int, value: float) -> None:
    found = dtypes.numbers(bytes([code]), dtype)
    assert found is not None
    assert found.tolist() == [value]


@pytest.mark.parametrize(("dtype", "nans"), [("F8_E4M3", 2), ("F8_E5M2", 6)])
def test_8_bit_floats_have_as_many_nans_as_specified(dtype: str, nans: int) -> None:
    found = dtypes.numbers(bytes(range(256)), dtype)
    assert found is not None
    assert int(np.isnan(found).sum()) == nans


def test_f8_e5m2_is_the_upper_half_of_float16() -> None:
    # given
    codes = bytes(range(256))
    # when
    found = dtypes.numbers(codes, "F8_E5M2")
    # then
    expected = dtypes.numbers(b"".join(bytes([0, code]) for code in codes), "F16")
    assert found is not None
    assert expected is not None
    np.testing.assert_array_equal(found, expected)


def test_signalling_nans_are_read_without_a_warning() -> None:
    for dtype, data in (("F32", "0100807f"), ("BF16", "817f"), ("F16", "017c")):
        found = dtypes.numbers(bytes.fromhex(data), dtype)
        assert found is not None
        assert np.isnan(found).all()


@pytest.mark.parametrize("dtype", ["Q4_K", "F4", ">f4", ""])
def test_unknown_and_quantised_types_have_no_numbers_and_no_width(dtype: str) -> None:
    assert dtypes.find(dtype) is None
    assert dtypes.element_bytes(dtype) is None
    assert not dtypes.has_numbers(dtype)
    assert dtypes.numbers(b"abcd", dtype) is None


def test_complex_has_a_width_but_no_single_numbers() -> None:
    assert dtypes.element_bytes("C64") == 8
    assert not dtypes.has_numbers("C64")
    assert dtypes.numbers(bytes(8), "C64") is None
    assert dtypes.array(struct.pack("<ff", 1, 2), "C64", (1,)).tolist() == [1 + 2j]


def test_a_torn_element_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="7 bytes are not a whole number of F32"):
        dtypes.numbers(bytes(7), "F32")


def test_no_bytes_are_no_numbers() -> None:
    found = dtypes.numbers(b"", "BF16")
    assert found is not None
    assert found.size == 0


@pytest.mark.parametrize(
    ("dtype", "data", "shape", "array_dtype", "values"),
    [
        ("F32", struct.pack("<4f", 1, 2, 3, 4), (2, 2), "float32", [[1, 2], [3, 4]]),
        ("I64", struct.pack("<q", -5), (), "int64", -5),
        ("BF16", bytes.fromhex("803f0040"), (2,), "float32", [1.0, 2.0]),
        ("F8_E4M3", b"\x38", (1, 1), "float32", [[1.0]]),
        ("BOOL", b"\x00\x01", (2,), "bool", [False, True]),
        ("F16", b"", (0, 3), "float16", []),
    ],
)
def test_arrays_have_the_stored_type_or_the_exact_wider_one(
    dtype: str, data: bytes, shape: tuple[int, ...], array_dtype: str, values: object
) -> None:
    found = dtypes.array(data, dtype, shape)
    assert found.shape == shape
    assert found.dtype == np.dtype(array_dtype)
    assert found.tolist() == values


def test_an_array_that_its_bytes_do_not_fill_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="2 elements of F32 do not fill shape"):
        dtypes.array(bytes(8), "F32", (3,))


def test_an_array_of_an_unknown_type_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="'Q4_K' has no NumPy form"):
        dtypes.array(bytes(8), "Q4_K", (1,))


def test_without_numpy_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    # given
    real: Callable[..., object] = importlib.util.find_spec

    def without_numpy(name: str) -> object:
        return None if name == "numpy" else real(name)

    monkeypatch.setattr(importlib.util, "find_spec", without_numpy)
    # when, then
    with pytest.raises(MissingExtraError, match="tensor statistics needs the extra 'numpy'"):
        dtypes.require_numpy("tensor statistics")
