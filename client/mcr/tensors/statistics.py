"""How much a tensor changed from one version to another, read once, in bounded memory.

Blocks of both sides are fed in order; only sums are kept. What is counted:

- `changed_share` looks at bit patterns: +0 and -0 differ, a NaN equals the same NaN;
- norms, cosine and the largest change look at numbers, in float64. Elements that are NaN or infinite on
  either side are left out of them and counted on their own: one NaN would otherwise hide everything else.

Sums are taken over pieces of fixed length in file order, each a dot product of a length below the one from
which BLAS uses several threads, so its order never depends on them: the same blocks give the same figures.
All else is written into arrays that are used again for each piece: a fresh one costs more to touch than to
fill.
"""

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from mcr.errors import InvalidArgumentError
from mcr.model import Buffer
from mcr.tensors import dtypes
from mcr.values import dataclass

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# The arrays of a piece, 224 KiB, stay in a second-level cache of 512 KiB. It is also below 10,000 elements,
# from which on OpenBLAS gives a dot product to several threads.
PIECE_ELEMENTS = 8 * 1024
# Up to here it is cheaper to look at the changed elements alone. Fine-tuning in bfloat16 changes a sixth of
# them in ten steps.
_FEW_SHARE = 0.25


class ChangeKind(StrEnum):
    """What happened to a tensor between two versions."""

    UNCHANGED = "unchanged"
    CHANGED = "changed"
    ADDED = "added"
    REMOVED = "removed"
    RESHAPED = "reshaped"
    """The shapes differ, or the bytes mean different things; the elements have no counterparts."""


@dataclass(frozen=True, slots=True)
class TensorChange:
    """The comparison of one tensor in two versions, a (before) and b (after).

    Attributes:
        name: of the tensor.
        dtype_a, dtype_b: element types; None on the side that lacks the tensor.
        shape_a, shape_b: extents; None on the side that lacks the tensor.
        changed_share: elements whose bits differ, 0 to 1; bytes that differ, for a dtype that
            `mcr.tensors.dtypes` does not know; 1 when added, removed or reshaped.
        norm_a, norm_b: Euclidean norms; None when not read or not a finite number.
        norm_of_change: Euclidean norm of b - a; None as above.
        relative_change: norm_of_change / norm_a; None as above, or when a is all zero and b is not.
        cosine: of the angle between a and b, -1 to 1; None as above, or when a or b is all zero.
        max_abs_change: largest |b - a| of any element; None as above.
        non_finite_a, non_finite_b: elements that are NaN or infinite; they are left out of the five above.
    """

    name: str
    dtype_a: str | None
    dtype_b: str | None
    shape_a: tuple[int, ...] | None
    shape_b: tuple[int, ...] | None
    changed_share: float
    norm_a: float | None = None
    norm_b: float | None = None
    norm_of_change: float | None = None
    relative_change: float | None = None
    cosine: float | None = None
    max_abs_change: float | None = None
    non_finite_a: int = 0
    non_finite_b: int = 0

    @property
    def kind(self) -> ChangeKind:
        """What happened, in one word."""
        if self.shape_a is None:
            return ChangeKind.ADDED
        if self.shape_b is None:
            return ChangeKind.REMOVED
        if not _have_counterparts(self.dtype_a, self.dtype_b, self.shape_a, self.shape_b):
            return ChangeKind.RESHAPED
        if self.dtype_a == self.dtype_b and self.changed_share == 0:
            return ChangeKind.UNCHANGED
        return ChangeKind.CHANGED

    @property
    def element_count(self) -> int:
        """Elements of the tensor: after the change, or before it when it was removed."""
        shape = self.shape_a if self.shape_b is None else self.shape_b
        return dtypes.element_count(shape or ())


def comparable(*, dtype_a: str, dtype_b: str, shape_a: Sequence[int], shape_b: Sequence[int]) -> bool:
    """Tell whether every element of one tensor has a counterpart in the other.

    True for equal shapes and either equal dtypes, known or not, or two dtypes that both have numbers.
    """
    return _have_counterparts(dtype_a, dtype_b, tuple(shape_a), tuple(shape_b))


def added(name: str, *, dtype: str, shape: Sequence[int]) -> TensorChange:
    """Describe a tensor that only the later version has."""
    return TensorChange(name, None, dtype, None, tuple(shape), 1.0)


def removed(name: str, *, dtype: str, shape: Sequence[int]) -> TensorChange:
    """Describe a tensor that only the earlier version has."""
    return TensorChange(name, dtype, None, tuple(shape), None, 1.0)


def reshaped(
    name: str, *, dtype_a: str, dtype_b: str, shape_a: Sequence[int], shape_b: Sequence[int]
) -> TensorChange:
    """Describe a tensor whose two forms are not `comparable`."""
    return TensorChange(name, dtype_a, dtype_b, tuple(shape_a), tuple(shape_b), 1.0)


def unchanged(name: str, *, dtype: str, shape: Sequence[int]) -> TensorChange:
    """Describe a tensor whose digests are equal, without reading it; its norms stay open."""
    extents = tuple(shape)
    return TensorChange(
        name, dtype, dtype, extents, extents, 0.0, norm_of_change=0.0, relative_change=0.0, max_abs_change=0.0
    )


class TensorComparison:
    """Accumulates the comparison of one tensor while its blocks go by.

    Feed every block once, in order, with `update` (or `update_equal`), then call `finish`. Where the dtypes
    differ, equal blocks hold different numbers of elements; then feed the sides one by one:

        while not comparison.complete:
            if comparison.wants_a:
                comparison.feed_a(next(blocks_a))
            else:
                comparison.feed_b(next(blocks_b))
    """

    def __init__(
        self, name: str, *, dtype_a: str, dtype_b: str, shape_a: Sequence[int], shape_b: Sequence[int]
    ) -> None:
        """Start the comparison.

        Raises:
            MissingExtraError: NumPy is not installed.
            InvalidArgumentError: the two are not `comparable`; use `reshaped`.
        """
        dtypes.require_numpy("tensor statistics")
        if not comparable(dtype_a=dtype_a, dtype_b=dtype_b, shape_a=shape_a, shape_b=shape_b):
            raise InvalidArgumentError(
                argument="tensor",
                reason=f"{name}: {dtype_a} {list(shape_a)} has no counterpart in {dtype_b} {list(shape_b)}",
            )
        self._name = name
        self._dtype_a, self._dtype_b = dtype_a, dtype_b
        self._shape = tuple(shape_a)
        # Without a known width the unit of `changed_share` is the byte.
        self._width_bytes_a = dtypes.element_bytes(dtype_a) or 1
        self._width_bytes_b = dtypes.element_bytes(dtype_b) or 1
        self._has_numbers = dtypes.has_numbers(dtype_a)
        # Fed one by one, the bytes of the side that is ahead: one block at most if `wants_a` is followed.
        self._ahead_a = self._ahead_b = b""
        self._units_seen = 0
        self._units_changed = 0
        self._squares_a = self._squares_b = self._squares_of_change = self._dot = 0.0
        self._max_abs_change = 0.0
        self._non_finite_a = self._non_finite_b = 0
        self._scratch: _Scratch | None = None

    def update(self, block_a: Buffer, block_b: Buffer) -> None:
        """Take the next block of each side; both are read, not kept.

        Args:
            block_a: the next elements of a.
            block_b: the same elements of b; as many bytes when the dtypes are equal.

        Raises:
            InvalidArgumentError: a block is not whole elements, or the two hold different numbers of them.
        """
        view_a, view_b = memoryview(block_a).cast("B"), memoryview(block_b).cast("B")
        units = self._units(view_a, self._width_bytes_a)
        if units != self._units(view_b, self._width_bytes_b):
            raise InvalidArgumentError(
                argument="block",
                reason=f"{self._name}: {view_a.nbytes} bytes of {self._dtype_a} against "
                f"{view_b.nbytes} bytes of {self._dtype_b} are different numbers of elements",
            )
        self._units_seen += units
        bits_a = dtypes.stored_bits(view_a, self._dtype_a)
        bits_b = dtypes.stored_bits(view_b, self._dtype_b)
        with _quiet():
            for start in range(0, units, PIECE_ELEMENTS):
                end = start + PIECE_ELEMENTS
                self._add(bits_a[start:end], bits_b[start:end])

    def update_equal(self, block: Buffer) -> None:
        """Take the next block where both sides hold the same bytes (one chunk, read once).

        Raises:
            InvalidArgumentError: the block is not whole elements, or the dtypes differ.
        """
        if self._dtype_a != self._dtype_b:
            raise InvalidArgumentError(
                argument="block",
                reason=f"{self._name}: the same bytes differ as {self._dtype_a} and as {self._dtype_b}",
            )
        view = memoryview(block).cast("B")
        units = self._units(view, self._width_bytes_a)
        self._units_seen += units
        if not self._has_numbers:
            return
        bits = dtypes.stored_bits(view, self._dtype_a)
        with _quiet():
            for start in range(0, units, PIECE_ELEMENTS):
                self._add_equal(bits[start : start + PIECE_ELEMENTS])

    @property
    def complete(self) -> bool:
        """Whether every element was compared; True from the start for a dtype of unknown width."""
        return dtypes.find(self._dtype_a) is None or self._units_seen >= dtypes.element_count(self._shape)

    @property
    def wants_a(self) -> bool:
        """Whether the next block fed should be one of a, else one of b."""
        return len(self._ahead_a) < self._width_bytes_a

    def feed_a(self, block: Buffer) -> None:
        """Take the next block of a alone; blocks may end anywhere, even within an element."""
        self._ahead_a += memoryview(block)
        self._compare_ahead()

    def feed_b(self, block: Buffer) -> None:
        """Take the next block of b alone, as `feed_a`."""
        self._ahead_b += memoryview(block)
        self._compare_ahead()

    def _compare_ahead(self) -> None:
        units = min(len(self._ahead_a) // self._width_bytes_a, len(self._ahead_b) // self._width_bytes_b)
        if units == 0:
            return
        end_a, end_b = units * self._width_bytes_a, units * self._width_bytes_b
        self.update(self._ahead_a[:end_a], self._ahead_b[:end_b])
        self._ahead_a, self._ahead_b = self._ahead_a[end_a:], self._ahead_b[end_b:]

    def finish(self) -> TensorChange:
        """Return the result.

        Raises:
            InvalidArgumentError: fewer or more elements were fed than the shape has.
        """
        elements = dtypes.element_count(self._shape)
        if dtypes.find(self._dtype_a) is not None and self._units_seen != elements:
            raise InvalidArgumentError(
                argument="block",
                reason=f"{self._name}: got {self._units_seen} elements of {elements}",
            )
        share = self._units_changed / self._units_seen if self._units_seen else 0.0
        if not self._has_numbers:
            return TensorChange(self._name, self._dtype_a, self._dtype_b, self._shape, self._shape, share)
        norm_a, norm_b = _root(self._squares_a), _root(self._squares_b)
        norm_of_change = _root(self._squares_of_change)
        return TensorChange(
            self._name,
            self._dtype_a,
            self._dtype_b,
            self._shape,
            self._shape,
            share,
            norm_a=norm_a,
            norm_b=norm_b,
            norm_of_change=norm_of_change,
            relative_change=_relative(norm_of_change, norm_a),
            cosine=_cosine(self._dot, norm_a, norm_b),
            max_abs_change=self._max_abs_change if math.isfinite(self._max_abs_change) else None,
            non_finite_a=self._non_finite_a,
            non_finite_b=self._non_finite_b,
        )

    def _units(self, view: memoryview, width_bytes: int) -> int:
        if view.nbytes % width_bytes:
            raise InvalidArgumentError(
                argument="block",
                reason=f"{self._name}: {view.nbytes} bytes are not whole elements of {width_bytes} bytes",
            )
        return view.nbytes // width_bytes

    def _add(self, piece_a: "NDArray[Any]", piece_b: "NDArray[Any]") -> None:
        import numpy as np

        scratch = self._scratch = self._scratch or _Scratch()
        if self._dtype_a == self._dtype_b:
            changed = scratch.count_changed(piece_a, piece_b)
            self._units_changed += changed
            if not self._has_numbers:
                return
            if changed == 0:
                self._add_equal(piece_a)
                return
            if changed <= _FEW_SHARE * piece_a.size and self._add_few(scratch, piece_a, piece_b):
                return
        a = scratch.numbers(0, piece_a, self._dtype_a)
        b = scratch.numbers(1, piece_b, self._dtype_b)
        if self._dtype_a != self._dtype_b:
            self._units_changed += int(np.count_nonzero((a != b) & ~(np.isnan(a) & np.isnan(b))))
        squares_a, squares_b = _dot(a, a), _dot(b, b)
        # A finite sum proves that every element is finite, and saves looking at each.
        if not math.isfinite(squares_a + squares_b):
            finite = self._count_non_finite(a, b)
            a, b = a[finite], b[finite]
            squares_a, squares_b = _dot(a, a), _dot(b, b)
        self._squares_a += squares_a
        self._squares_b += squares_b
        self._add_change(a, b, scratch.change[: a.size])

    def _add_few(self, scratch: "_Scratch", piece_a: "NDArray[Any]", piece_b: "NDArray[Any]") -> bool:
        """Take a piece of which few elements changed, and look at these alone on side b.

        What is equal goes into all three sums, so nothing is ever taken away from a sum.

        Returns:
            Whether all is finite; else nothing was taken.
        """
        import numpy as np

        at = np.flatnonzero(scratch.differs[: piece_a.size])
        equal = scratch.numbers(0, piece_a, self._dtype_a)
        a, b = equal[at], scratch.numbers(1, piece_b[at], self._dtype_b)
        equal[at] = 0.0
        squares, squares_a, squares_b = _dot(equal, equal), _dot(a, a), _dot(b, b)
        if not math.isfinite(squares + squares_a + squares_b):
            return False
        self._squares_a += squares + squares_a
        self._squares_b += squares + squares_b
        self._dot += squares
        self._add_change(a, b, scratch.change[: a.size])
        return True

    def _add_change(
        self, a: "NDArray[np.float64]", b: "NDArray[np.float64]", change: "NDArray[np.float64]"
    ) -> None:
        import numpy as np

        np.subtract(b, a, out=change)
        self._dot += _dot(a, b)
        self._squares_of_change += _dot(change, change)
        if change.size:
            np.abs(change, out=change)
            self._max_abs_change = max(self._max_abs_change, float(change.max()))

    def _add_equal(self, piece: "NDArray[Any]") -> None:
        scratch = self._scratch = self._scratch or _Scratch()
        a = scratch.numbers(0, piece, self._dtype_a)
        squares = _dot(a, a)
        if not math.isfinite(squares):
            finite = a[self._count_non_finite(a, a)]
            squares = _dot(finite, finite)
        self._squares_a += squares
        self._squares_b += squares
        self._dot += squares

    def _count_non_finite(self, a: "NDArray[np.float64]", b: "NDArray[np.float64]") -> "NDArray[np.bool_]":
        """Count NaN and infinity on each side; return which elements are finite on both."""
        import numpy as np

        finite_a, finite_b = np.isfinite(a), np.isfinite(b)
        self._non_finite_a += int(a.size - np.count_nonzero(finite_a))
        self._non_finite_b += int(b.size - np.count_nonzero(finite_b))
        return finite_a & finite_b


def _quiet() -> "np.errstate":
    import numpy as np

    # Signalling NaNs are counted, not warned about. Only F64 is large enough to overflow; the sum is then
    # infinite, and the figures made of it are None.
    return np.errstate(over="ignore", under="ignore", invalid="ignore")


class _Scratch:
    """Arrays of a piece each, used again and again."""

    def __init__(self) -> None:
        import numpy as np

        self._sides = np.empty((2, PIECE_ELEMENTS), np.float64)
        self._wide = np.empty(PIECE_ELEMENTS, np.uint32)
        self.differs = np.empty(PIECE_ELEMENTS, np.bool_)
        self.change = np.empty(PIECE_ELEMENTS, np.float64)

    def count_changed(self, bits_a: "NDArray[Any]", bits_b: "NDArray[Any]") -> int:
        """Count the elements whose bits differ."""
        import numpy as np

        return int(np.count_nonzero(np.not_equal(bits_a, bits_b, out=self.differs[: bits_a.size])))

    def numbers(self, side: int, bits: "NDArray[Any]", dtype: str) -> "NDArray[np.float64]":
        """Return the numbers of a piece; valid until the next call for this side."""
        out = self._sides[side, : bits.size]
        dtypes.read_numbers(bits, dtype, out, self._wide[: bits.size])
        return out


def _dot(x: "NDArray[np.float64]", y: "NDArray[np.float64]") -> float:
    import numpy as np

    return float(np.dot(x, y))


def _have_counterparts(
    dtype_a: str | None, dtype_b: str | None, shape_a: tuple[int, ...], shape_b: tuple[int, ...]
) -> bool:
    if shape_a != shape_b or dtype_a is None or dtype_b is None:
        return False
    return dtype_a == dtype_b or (dtypes.has_numbers(dtype_a) and dtypes.has_numbers(dtype_b))


def _root(squares: float) -> float | None:
    return math.sqrt(squares) if math.isfinite(squares) else None


def _relative(norm_of_change: float | None, norm_a: float | None) -> float | None:
    if norm_of_change is None or norm_a is None:
        return None
    if norm_of_change == 0:
        return 0.0
    if norm_a == 0:
        return None
    ratio = norm_of_change / norm_a
    return ratio if math.isfinite(ratio) else None


def _cosine(dot: float, norm_a: float | None, norm_b: float | None) -> float | None:
    if not norm_a or not norm_b or not math.isfinite(dot):
        return None
    # One division after the other: the product of two small norms could be zero. Rounding may pass 1.
    return max(-1.0, min(1.0, dot / norm_a / norm_b))
