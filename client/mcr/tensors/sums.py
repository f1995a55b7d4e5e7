"""What is counted and summed of two tensors side by side, piece by piece, in arrays that are used again.

Types of up to 16 bits, and F32, are read as float32, which holds each of their values; the others as float64.
Products are added up in that type over rows of `ROW_ELEMENTS`, and the rows in float64. A float32 norm is
therefore off by less than 2^-14 of itself even if BLAS adds one by one (a row has 2^10 elements, each
addition rounds by 2^-24), and by less than 2^-21 with a BLAS that keeps many sums, as all fast ones do. The
largest change is off by up to 2^-24 of itself; shares and counts are exact. A piece whose squares overflow in
float32, or nearly vanish, is read again as float64.

The order of sums is that of the file, in rows too short for BLAS to use several threads: the same blocks give
the same figures.
"""

import math
from typing import TYPE_CHECKING, Any

from mcr.tensors import dtypes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# The three arrays of a piece are 6 MiB, for a third-level cache. Pieces for the second level were measured at
# half the speed: they take more calls, and more turns of the interpreter's lock between threads that compute.
_NARROW_PIECE_ELEMENTS = 512 * 1024
_WIDE_PIECE_ELEMENTS = _NARROW_PIECE_ELEMENTS // 2
# OpenBLAS gives a dot product to several threads from 10,000 elements on.
ROW_ELEMENTS = 1024
# A float32 sum of squares below this may lack squares that vanished: each below 2^-126, so 2^19 of them are
# below 2^-107, which is 2^-27 of this.
_SQUARES_MIN = 2.0**-80


class Sums:
    """Counts and sums over the elements of two tensors, a and b.

    Attributes:
        units_changed: elements whose bits differ; where the dtypes differ, whose values do.
        squares_a, squares_b, squares_of_change, dot: sums over elements that are finite on both sides.
        max_abs_change: largest |b - a| of these.
        non_finite_a, non_finite_b: elements that are NaN or infinite.
    """

    def __init__(self, *, dtype_a: str, dtype_b: str, elements: int) -> None:
        """Begin with nothing.

        Args:
            dtype_a: of a.
            dtype_b: of b; equal, or both have numbers.
            elements: of each tensor, about; more arrays than for these are not made.
        """
        self.units_changed = 0
        self.squares_a = self.squares_b = self.squares_of_change = self.dot = 0.0
        self.max_abs_change = 0.0
        self.non_finite_a = self.non_finite_b = 0
        self._dtype_a, self._dtype_b = dtype_a, dtype_b
        self._has_numbers = dtypes.has_numbers(dtype_a)
        self._is_narrow = dtypes.fits_float32(dtype_a) and dtypes.fits_float32(dtype_b)
        most = _NARROW_PIECE_ELEMENTS if self._is_narrow else _WIDE_PIECE_ELEMENTS
        self._piece_elements = max(1, min(most, elements))
        # Made when they are first needed: most tensors need only one of them.
        self._narrow: _Arrays | None = None
        self._wide: _Arrays | None = None
        self._differs: NDArray[np.bool_] | None = None

    def add(self, bits_a: "NDArray[Any]", bits_b: "NDArray[Any]") -> None:
        """Take as many elements of each side, as `dtypes.stored_bits` gives them."""
        with _quiet():
            for start in range(0, bits_a.size, self._piece_elements):
                end = start + self._piece_elements
                self._add(bits_a[start:end], bits_b[start:end])

    def add_equal(self, bits: "NDArray[Any]") -> None:
        """Take elements that both sides have."""
        if self._has_numbers:
            with _quiet():
                for start in range(0, bits.size, self._piece_elements):
                    self._add_equal(bits[start : start + self._piece_elements])

    def _add(self, bits_a: "NDArray[Any]", bits_b: "NDArray[Any]") -> None:
        if self._dtype_a == self._dtype_b:
            changed = self._count_changed(bits_a, bits_b)
            self.units_changed += changed
            if not self._has_numbers:
                return
            if changed == 0:
                self._add_equal(bits_a)
                return
        if not (self._is_narrow and self._add_narrow(bits_a, bits_b)):
            self._add_wide(bits_a, bits_b)

    def _count_changed(self, bits_a: "NDArray[Any]", bits_b: "NDArray[Any]") -> int:
        import numpy as np

        if self._differs is None:
            self._differs = np.empty(self._piece_elements, np.bool_)
        return int(np.count_nonzero(np.not_equal(bits_a, bits_b, out=self._differs[: bits_a.size])))

    def _add_narrow(self, bits_a: "NDArray[Any]", bits_b: "NDArray[Any]") -> bool:
        """Take a piece as float32; return False, and take nothing, where that is not exact enough."""
        arrays = self._narrow_arrays()
        a, b = arrays.numbers(0, bits_a, self._dtype_a), arrays.numbers(1, bits_b, self._dtype_b)
        change = arrays.change_of(a, b)
        squares_a, squares_b = arrays.dot(a, a), arrays.dot(b, b)
        squares_of_change = arrays.dot(change, change)
        if not _are_exact(squares_a, squares_b, squares_of_change):
            return False
        self._count_changed_values(a, b)
        self.squares_a += squares_a
        self.squares_b += squares_b
        self.squares_of_change += squares_of_change
        self.dot += arrays.dot(a, b)
        self._see_change(change)
        return True

    def _add_wide(self, bits_a: "NDArray[Any]", bits_b: "NDArray[Any]") -> None:
        arrays = self._wide_arrays()
        a, b = arrays.numbers(0, bits_a, self._dtype_a), arrays.numbers(1, bits_b, self._dtype_b)
        self._count_changed_values(a, b)
        squares_a, squares_b = arrays.dot(a, a), arrays.dot(b, b)
        # A finite sum proves that every element is finite, and saves looking at each.
        if not math.isfinite(squares_a + squares_b):
            finite = self._count_non_finite(a, b)
            a, b = a[finite], b[finite]
            squares_a, squares_b = arrays.dot(a, a), arrays.dot(b, b)
        change = arrays.change_of(a, b)
        self.squares_a += squares_a
        self.squares_b += squares_b
        self.squares_of_change += arrays.dot(change, change)
        self.dot += arrays.dot(a, b)
        self._see_change(change)

    def _add_equal(self, bits: "NDArray[Any]") -> None:
        squares = self._narrow_squares(bits) if self._is_narrow else math.nan
        if not _are_exact(squares):
            arrays = self._wide_arrays()
            a = arrays.numbers(0, bits, self._dtype_a)
            squares = arrays.dot(a, a)
            if not math.isfinite(squares):
                a = a[self._count_non_finite(a, a)]
                squares = arrays.dot(a, a)
        self.squares_a += squares
        self.squares_b += squares
        self.dot += squares

    def _narrow_squares(self, bits: "NDArray[Any]") -> float:
        arrays = self._narrow_arrays()
        a = arrays.numbers(0, bits, self._dtype_a)
        return arrays.dot(a, a)

    def _count_changed_values(self, a: "NDArray[Any]", b: "NDArray[Any]") -> None:
        import numpy as np

        if self._dtype_a != self._dtype_b:
            self.units_changed += int(np.count_nonzero((a != b) & ~(np.isnan(a) & np.isnan(b))))

    def _see_change(self, change: "NDArray[Any]") -> None:
        if change.size:
            self.max_abs_change = max(self.max_abs_change, float(change.max()), -float(change.min()))

    def _count_non_finite(self, a: "NDArray[Any]", b: "NDArray[Any]") -> "NDArray[np.bool_]":
        """Count NaN and infinity on each side; return which elements are finite on both."""
        import numpy as np

        finite_a, finite_b = np.isfinite(a), np.isfinite(b)
        self.non_finite_a += int(a.size - np.count_nonzero(finite_a))
        self.non_finite_b += int(b.size - np.count_nonzero(finite_b))
        both: NDArray[np.bool_] = finite_a & finite_b
        return both

    def _narrow_arrays(self) -> "_Arrays":
        import numpy as np

        if self._narrow is None:
            self._narrow = _Arrays(self._piece_elements, np.dtype(np.float32))
        return self._narrow

    def _wide_arrays(self) -> "_Arrays":
        import numpy as np

        if self._wide is None:
            self._wide = _Arrays(self._piece_elements, np.dtype(np.float64))
        return self._wide


def _are_exact(*float32_squares: float) -> bool:
    """Tell whether sums of squares neither overflowed (or hold NaN) nor may have lost what vanished."""
    return all(_SQUARES_MIN <= squares < math.inf for squares in float32_squares)


class _Arrays:
    """Arrays for the numbers of a piece, used again and again."""

    def __init__(self, elements: int, number_type: "np.dtype[Any]") -> None:
        import numpy as np

        self._sides = np.empty((2, elements), number_type)
        self._change = np.empty(elements, number_type)
        self._rows = np.empty((elements // ROW_ELEMENTS, 1, 1), number_type)

    def numbers(self, side: int, bits: "NDArray[Any]", dtype: str) -> "NDArray[Any]":
        """Return the numbers of a piece, not to be changed; valid until the next call for this side."""
        return dtypes.read_numbers(bits, dtype, self._sides[side, : bits.size])

    def change_of(self, a: "NDArray[Any]", b: "NDArray[Any]") -> "NDArray[Any]":
        """Return b - a; valid until the next call."""
        import numpy as np

        change = self._change[: a.size]
        np.subtract(b, a, out=change)
        return change

    def dot(self, x: "NDArray[Any]", y: "NDArray[Any]") -> float:
        """Return the dot product of x and y: rows by BLAS, their sum in float64."""
        import numpy as np

        rows = x.size // ROW_ELEMENTS
        end = rows * ROW_ELEMENTS
        out = self._rows[:rows]
        # One call for all rows; each is a BLAS dot product.
        np.matmul(x[:end].reshape(rows, 1, ROW_ELEMENTS), y[:end].reshape(rows, ROW_ELEMENTS, 1), out=out)
        return float(out.sum(dtype=np.float64)) + float(np.dot(x[end:], y[end:]))


def _quiet() -> "np.errstate":
    import numpy as np

    # Signalling NaNs are counted, not warned about, and a float32 piece that overflows is read again. Of
    # float64 only F64 is large enough to overflow; the sum is then infinite, and the figures of it are None.
    return np.errstate(over="ignore", under="ignore", invalid="ignore")
