"""From float64 to the bits of an element type, rounded once: the last step of whatever computes weights.

    kind      rule
    -------   ------------------------------------------------------------------------------------------
    floats    round to nearest, ties to even, from float64 in one step (never by way of float32); subnormal
              numbers are kept; what is too large becomes an infinity, in F8_E4M3, which has none, a NaN
    NaN       always the one positive quiet NaN of the type (F16 7e00, BF16 7fc0, F32 7fc00000, F8_E4M3 7f,
              F8_E5M2 7e), whatever came in: payloads differ between machines
    integers  round to nearest, ties to even; what is out of range becomes the nearest end of the range

Only operations that IEEE 754 defines to the last bit are used, element by element, so the same numbers give
the same bytes on every machine and under every release of NumPy.
"""

from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from mcr.errors import InvalidArgumentError
from mcr.tensors import dtypes
from mcr.tensors.dtypes import FLOAT8_CODES, Dtype, NumberKind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# From 2^53 on different integers are the same float64.
INTEGER_EXACT_MAX = 2**53 - 1
_NAN_BITS = {"F16": 0x7E00, "BF16": 0x7FC0, "F32": 0x7FC0_0000, "F64": 0x7FF8_0000_0000_0000}
_BFLOAT16_MANTISSA_BITS = 7
_BFLOAT16_DROPPED_BITS = 52 - _BFLOAT16_MANTISSA_BITS
_FLOAT32_EXPONENT_MIN = -126
_FLOAT32_NORMAL_MIN = 2.0**_FLOAT32_EXPONENT_MIN


def to_bytes(numbers: "NDArray[np.float64]", dtype: str) -> bytes:
    """Return numbers as the little-endian bytes of an element type; see the table above.

    Raises:
        InvalidArgumentError: the type has no numbers that can be rounded to.
    """
    found = dtypes.find(dtype)
    if found is None or found.kind in (NumberKind.OPAQUE, NumberKind.BOOLEAN):
        raise InvalidArgumentError("dtype", f"nothing can be rounded to {dtype!r}")
    if found.kind is NumberKind.FLOAT:
        return _floats(numbers, found).tobytes()
    return _integers(numbers, found).tobytes()


def _integers(numbers: "NDArray[np.float64]", dtype: Dtype) -> "NDArray[Any]":
    import numpy as np

    limits = np.iinfo(dtype.array_type)
    whole = np.rint(np.nan_to_num(numbers, nan=0.0))
    out = np.empty(whole.shape, dtype.array_type)
    # The greatest 64-bit integers are no float64, so the ends are told by comparison, not by clipping.
    low, high = whole <= float(limits.min), whole >= float(limits.max)
    inside = ~(low | high)
    out[inside] = whole[inside].astype(dtype.array_type)
    out[low], out[high] = limits.min, limits.max
    return out


def _floats(numbers: "NDArray[np.float64]", dtype: Dtype) -> "NDArray[Any]":
    import numpy as np

    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        match dtype.name:
            case "F8_E4M3" | "F8_E5M2":
                return _float8(numbers, dtype.name)
            case "BF16":
                bits = _bfloat16(numbers)
            case _:
                # NumPy's own conversions from float64 round once and to even.
                plain: NDArray[Any] = numbers.astype(dtype.array_type)
                bits = plain.view(f"<u{dtype.element_bytes}")
    bits[np.isnan(numbers)] = _NAN_BITS[dtype.name]
    return bits


def _bfloat16(numbers: "NDArray[np.float64]") -> "NDArray[Any]":
    import numpy as np

    # A bfloat16 keeps the upper seven of 52 bits. Half of the last one less one, and one more where it is
    # odd, carries exactly where the number is nearer to the next, or as near and that one is even.
    bits = numbers.view(np.uint64).copy()
    odd = bits >> np.uint64(_BFLOAT16_DROPPED_BITS)
    odd &= np.uint64(1)
    bits += odd
    bits += np.uint64((1 << (_BFLOAT16_DROPPED_BITS - 1)) - 1)
    bits &= np.uint64(~((1 << _BFLOAT16_DROPPED_BITS) - 1) & 0xFFFF_FFFF_FFFF_FFFF)
    rounded = bits.view(np.float64)
    # What is smaller than every normal number has the place of its last bit where those numbers have it.
    small = np.abs(numbers) < _FLOAT32_NORMAL_MIN
    if small.any():
        place = _FLOAT32_EXPONENT_MIN - _BFLOAT16_MANTISSA_BITS
        rounded[small] = np.ldexp(np.rint(np.ldexp(numbers[small], -place)), place)
    # Now every number is a bfloat16, or beyond all: as float32 it is exact, and its upper half is all of it.
    wide: NDArray[np.uint32] = rounded.astype("<f4").view("<u4")
    return (wide >> np.uint32(dtypes.BFLOAT16_SHIFT_BITS)).astype("<u2")


def _float8(numbers: "NDArray[np.float64]", name: str) -> "NDArray[Any]":
    import numpy as np

    borders, codes = _float8_borders(name)
    magnitudes = np.abs(numbers)
    # Borders are the first number that rounds up; how many are passed is which code it becomes.
    found = codes[np.searchsorted(borders, magnitudes, side="right")]
    found = np.where(np.isnan(numbers), codes[-1] if name == "F8_E4M3" else 0x7E, found).astype(np.uint8)
    sign: NDArray[np.uint8] = np.where(np.signbit(numbers) & ~np.isnan(numbers), 0x80, 0).astype(np.uint8)
    return found | sign


@cache
def _float8_borders(name: str) -> "tuple[NDArray[np.float64], NDArray[np.uint8]]":
    """Return where each positive code begins to be the nearest, but the first, and the codes in order."""
    import numpy as np

    values = dtypes.numbers(bytes(range(FLOAT8_CODES // 2)), name)
    assert values is not None
    finite = [float(value) for value in values if np.isfinite(value)]
    # What follows the largest number if the exponent went on: halfway to it everything overflows.
    steps = [*finite, 2 * finite[-1] - finite[-2]]
    borders = []
    for code, (lower, upper) in enumerate(pairwise(steps)):
        middle = (lower + upper) / 2
        # A tie goes to the even code: up, when the lower one is odd.
        borders.append(middle if code % 2 else float(np.nextafter(middle, np.inf)))
    codes = [*range(len(finite)), len(finite)]
    return np.asarray(borders), np.asarray(codes, np.uint8)
