"""How much a tensor changed from one version to another, read once, in bounded memory.

Blocks of both sides are fed in order; only sums are kept. What is counted:

- `changed_share` looks at bit patterns: +0 and -0 differ, a NaN equals the same NaN;
- norms, cosine and the largest change look at numbers. Elements that are NaN or infinite on
  either side are left out of them and counted on their own: one NaN would otherwise hide everything else.

How exact the figures are is said in `mcr.tensors.sums`. The cosine is made from the norms, that of the change
included, so that 1 - cosine keeps its digits where a and b hardly differ.
"""

import math
from collections.abc import Sequence
from enum import StrEnum

from mcr.errors import InvalidArgumentError
from mcr.model import Buffer
from mcr.tensors import dtypes
from mcr.tensors.sums import Sums
from mcr.values import dataclass

# From the three norms the cosine is as exact as they are, unless one is so many times the other.
_NORM_RATIO_MAX = 4.0


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
        self._sums = Sums(dtype_a=dtype_a, dtype_b=dtype_b, elements=dtypes.element_count(self._shape))
        # Fed one by one, the bytes of the side that is ahead: one block at most if `wants_a` is followed.
        self._ahead_a = self._ahead_b = b""
        self._units_seen = 0

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
        self._sums.add(dtypes.stored_bits(view_a, self._dtype_a), dtypes.stored_bits(view_b, self._dtype_b))

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
        self._units_seen += self._units(view, self._width_bytes_a)
        self._sums.add_equal(dtypes.stored_bits(view, self._dtype_a))

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
        sums = self._sums
        share = sums.units_changed / self._units_seen if self._units_seen else 0.0
        if not self._has_numbers:
            return TensorChange(self._name, self._dtype_a, self._dtype_b, self._shape, self._shape, share)
        norm_a, norm_b = _root(sums.squares_a), _root(sums.squares_b)
        norm_of_change = _root(sums.squares_of_change)
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
            cosine=_cosine(norm_a, norm_b, norm_of_change, sums.dot),
            max_abs_change=sums.max_abs_change if math.isfinite(sums.max_abs_change) else None,
            non_finite_a=sums.non_finite_a,
            non_finite_b=sums.non_finite_b,
        )

    def _units(self, view: memoryview, width_bytes: int) -> int:
        if view.nbytes % width_bytes:
            raise InvalidArgumentError(
                argument="block",
                reason=f"{self._name}: {view.nbytes} bytes are not whole elements of {width_bytes} bytes",
            )
        return view.nbytes // width_bytes


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


def _cosine(
    norm_a: float | None, norm_b: float | None, norm_of_change: float | None, dot: float
) -> float | None:
    if not norm_a or not norm_b or norm_of_change is None or not math.isfinite(dot):
        return None
    if max(norm_a, norm_b) <= _NORM_RATIO_MAX * min(norm_a, norm_b):
        # The law of cosines, in a form without a difference of squares: |b - a| may be tiny beside them.
        difference = norm_b - norm_a
        cosine = 1 - (norm_of_change - difference) / norm_a * ((norm_of_change + difference) / norm_b) / 2
    else:
        # One division after the other: the product of two small norms could be zero.
        cosine = dot / norm_a / norm_b
    # Rounding may pass 1.
    return max(-1.0, min(1.0, cosine))
