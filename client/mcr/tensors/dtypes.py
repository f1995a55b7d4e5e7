"""Element types of tensors: how wide one element is, and which numbers its bytes mean.

Names are those of `mcr.model.Tensor.dtype`: safetensors' where one exists (`BF16`, `F8_E4M3`). A name that is
not in the table (a quantised block format such as GGUF's `Q4_K`, a sub-byte type, a big-endian array) has no
numbers here; its tensors are still compared, byte by byte. All formats store little-endian.

NumPy is optional for users: it is imported where it is used, after `require_numpy` has said what to install.
"""

import importlib.util
from collections.abc import Sequence
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any

from mcr.errors import InvalidArgumentError, MissingExtraError
from mcr.model import Buffer
from mcr.values import dataclass

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BFLOAT16_SHIFT_BITS = 16
FLOAT16_BYTES = 2
FLOAT8_CODES = 256


class NumberKind(StrEnum):
    """What the bits of one element stand for."""

    FLOAT = "float"
    SIGNED = "signed"
    UNSIGNED = "unsigned"
    BOOLEAN = "boolean"
    OPAQUE = "opaque"
    """The width is known, a single real number is not (complex pairs)."""


@dataclass(frozen=True, slots=True)
class Dtype:
    """One element type.

    Attributes:
        name: as in `mcr.model.Tensor.dtype`.
        element_bytes: width of one element, 1 to 8 bytes.
        kind: what the bits stand for.
        array_type: NumPy's name for the stored bits (`<u2` for BF16, which NumPy lacks).
    """

    name: str
    element_bytes: int
    kind: NumberKind
    array_type: str


_TABLE = {
    dtype.name: dtype
    for dtype in (
        Dtype("BOOL", 1, NumberKind.BOOLEAN, "|u1"),
        Dtype("U8", 1, NumberKind.UNSIGNED, "|u1"),
        Dtype("I8", 1, NumberKind.SIGNED, "|i1"),
        Dtype("F8_E4M3", 1, NumberKind.FLOAT, "|u1"),
        Dtype("F8_E5M2", 1, NumberKind.FLOAT, "|u1"),
        Dtype("U16", 2, NumberKind.UNSIGNED, "<u2"),
        Dtype("I16", 2, NumberKind.SIGNED, "<i2"),
        Dtype("F16", 2, NumberKind.FLOAT, "<f2"),
        Dtype("BF16", 2, NumberKind.FLOAT, "<u2"),
        Dtype("U32", 4, NumberKind.UNSIGNED, "<u4"),
        Dtype("I32", 4, NumberKind.SIGNED, "<i4"),
        Dtype("F32", 4, NumberKind.FLOAT, "<f4"),
        Dtype("U64", 8, NumberKind.UNSIGNED, "<u8"),
        Dtype("I64", 8, NumberKind.SIGNED, "<i8"),
        Dtype("F64", 8, NumberKind.FLOAT, "<f8"),
        Dtype("C64", 8, NumberKind.OPAQUE, "<c8"),
    )
}


def find(name: str) -> Dtype | None:
    """Return the element type called `name`; None when its layout is unknown or is no row of elements."""
    return _TABLE.get(name)


def element_bytes(name: str) -> int | None:
    """Return the width of one element of dtype `name` in bytes; None when unknown."""
    dtype = _TABLE.get(name)
    return None if dtype is None else dtype.element_bytes


def has_numbers(name: str) -> bool:
    """Tell whether `numbers` can read dtype `name`."""
    dtype = _TABLE.get(name)
    return dtype is not None and dtype.kind is not NumberKind.OPAQUE


def require_numpy(what: str) -> None:
    """Make sure that NumPy is installed.

    Args:
        what: the feature that needs it, for the message ("tensor statistics").

    Raises:
        MissingExtraError: NumPy is not installed.
    """
    if importlib.util.find_spec("numpy") is None:
        raise MissingExtraError(what=what, extra="numpy")


def numbers(data: Buffer, dtype: str) -> "NDArray[np.float64] | None":
    """Return the numbers that `data` holds, as float64.

    Exact for every dtype but `I64` and `U64`, whose values beyond 2^53 are rounded. Signalling and quiet NaNs
    become NaN; booleans become 0 and 1.

    Args:
        data: whole elements, little-endian; not kept.
        dtype: name of the element type.

    Returns:
        A new one-dimensional array, or None when the dtype has no numbers here.

    Raises:
        InvalidArgumentError: `data` is not a whole number of elements.
    """
    found = _TABLE.get(dtype)
    if found is None or found.kind is NumberKind.OPAQUE:
        return None
    import numpy as np

    # A signalling NaN raises the "invalid" flag when it is widened; it is counted, not warned about.
    with np.errstate(invalid="ignore"):
        return _readable(stored(data, found), found).astype(np.float64)


def stored_bits(data: Buffer, dtype: str) -> "NDArray[Any]":
    """Return a view of the elements of `data` as unsigned integers, bytes for an unknown `dtype`.

    Raises:
        InvalidArgumentError: `data` is not a whole number of elements.
    """
    import numpy as np

    found = _TABLE.get(dtype)
    if found is None:
        return np.frombuffer(data, np.uint8)
    return stored(data, found).view(f"<u{found.element_bytes}")


def fits_float32(name: str) -> bool:
    """Tell whether dtype `name` has numbers, and float32 holds each of them."""
    dtype = _TABLE.get(name)
    if dtype is None or dtype.kind is NumberKind.OPAQUE:
        return False
    return dtype.element_bytes <= FLOAT16_BYTES or name == "F32"


def read_numbers(bits: "NDArray[Any]", dtype: str, out: "NDArray[Any]") -> "NDArray[Any]":
    """Return the numbers of elements, as `numbers` does.

    Args:
        bits: of `stored_bits`.
        dtype: name of an element type that has numbers.
        out: as long, float64, or float32 for a dtype that fits it (`fits_float32`).

    Returns:
        `out`, or `bits` themselves if they are such numbers; not to be changed.

    A signalling NaN raises NumPy's "invalid" flag when it is widened: silence it around many calls.
    """
    import numpy as np

    found = _TABLE[dtype]
    as_stored = bits.view(found.array_type)
    if as_stored.dtype == out.dtype:
        return as_stored
    if dtype == "BF16" and out.dtype == np.float32:
        # As `_readable`, without an array in between.
        wide = out.view(np.uint32)
        np.copyto(wide, bits)
        np.left_shift(wide, BFLOAT16_SHIFT_BITS, out=wide)
    else:
        np.copyto(out, _readable(as_stored, found))
    return out


def array(data: Buffer, dtype: str, shape: Sequence[int]) -> "NDArray[Any]":
    """Return a tensor's bytes as a NumPy array of `shape`.

    The array's own type is the stored one where NumPy has it, and float32, which holds every value exactly,
    for `BF16` and the 8-bit floats.

    Args:
        data: the tensor's bytes; the array may be a view of it, so the caller must not change it.
        dtype: name of the element type.
        shape: extents, outermost first; empty for a scalar.

    Raises:
        InvalidArgumentError: the dtype is unknown, or `data` does not fill `shape` exactly.
    """
    import numpy as np

    found = _TABLE.get(dtype)
    if found is None:
        raise InvalidArgumentError(argument="dtype", reason=f"{dtype!r} has no NumPy form")
    flat = stored(data, found)
    elements = element_count(shape)
    if flat.size != elements:
        raise InvalidArgumentError(
            argument="data", reason=f"{flat.size} elements of {dtype} do not fill shape {list(shape)}"
        )
    if found.kind is NumberKind.BOOLEAN:
        truths: NDArray[np.bool_] = flat != 0
        return truths.reshape(shape)
    readable = _readable(flat, found)
    native: NDArray[Any] = np.asarray(readable, readable.dtype.newbyteorder("="))
    return native.reshape(shape)


def element_count(shape: Sequence[int]) -> int:
    """Return how many elements a tensor of `shape` has; 1 for a scalar."""
    count = 1
    for extent in shape:
        count *= extent
    return count


def stored(data: Buffer, dtype: Dtype) -> "NDArray[Any]":
    """Return a view of `data` in the type whose bits are stored, without reading them as numbers.

    Raises:
        InvalidArgumentError: `data` is not a whole number of elements.
    """
    import numpy as np

    length_bytes = memoryview(data).nbytes
    if length_bytes % dtype.element_bytes:
        raise InvalidArgumentError(
            argument="data",
            reason=f"{length_bytes} bytes are not a whole number of {dtype.name} elements",
        )
    return np.frombuffer(data, dtype.array_type)


def _readable(bits: "NDArray[Any]", dtype: Dtype) -> "NDArray[Any]":
    """Turn stored bits that NumPy has no type for into float32; leave the others."""
    import numpy as np

    match dtype.name:
        case "BF16":
            # A bfloat16 is the upper half of a float32, so widening is a shift and exact.
            wide = bits.astype(np.uint32)
            wide <<= BFLOAT16_SHIFT_BITS
            return wide.view(np.float32)
        case "F8_E4M3" | "F8_E5M2":
            return np.take(_float8_table(dtype.name), bits)
        case "BOOL":
            truths: NDArray[np.bool_] = bits != 0
            return truths
        case _:
            return bits


@cache
def _float8_table(name: str) -> "NDArray[np.float32]":
    """Return the value of every code of an 8-bit float; the caller must not change it."""
    import numpy as np

    return np.asarray(_float8_e4m3() if name == "F8_E4M3" else _float8_e5m2(), np.float32)


def _float8_e4m3() -> tuple[float, ...]:
    """Return the value of every code of F8_E4M3.

    Source: "FP8 Formats for Deep Learning", arXiv 2209.05433, §3.1: bias 7, no infinities, and only the two
    codes with all exponent and mantissa bits set are NaN, so the largest number is 448.
    """
    values = _float8(exponent_bits=4, bias=7)
    return tuple(float("nan") if code & 0x7F == 0x7F else values[code] for code in range(FLOAT8_CODES))


def _float8_e5m2() -> tuple[float, ...]:
    """Return the value of every code of F8_E5M2.

    Source: arXiv 2209.05433, §3.1: bias 15, infinities and NaNs as in IEEE 754.
    """
    values = list(_float8(exponent_bits=5, bias=15))
    for code in range(FLOAT8_CODES):
        if code & 0x7C == 0x7C:
            sign = -1.0 if code & 0x80 else 1.0
            values[code] = float("nan") if code & 0x03 else sign * float("inf")
    return tuple(values)


def _float8(*, exponent_bits: int, bias: int) -> tuple[float, ...]:
    """Decode all 256 codes as if none were special."""
    mantissa_bits = 7 - exponent_bits
    steps = 1 << mantissa_bits
    values = []
    for code in range(FLOAT8_CODES):
        exponent = (code & 0x7F) >> mantissa_bits
        fraction = (code & (steps - 1)) / steps
        # Exponent 0 is subnormal: no hidden one, and the scale of exponent 1.
        magnitude = (fraction if exponent == 0 else 1 + fraction) * 2.0 ** (max(exponent, 1) - bias)
        values.append(-magnitude if code & 0x80 else magnitude)
    return tuple(values)
