"""Merging one tensor of two versions: what each strategy computes, to the last bit.

    strategy      result, element by element; a = ours, b = theirs, o = base, all exact as float64
    -----------   ------------------------------------------------------------------------------------------
    ours, theirs  the bytes of that side; so base
    mean          (a + b) * 0.5
    weighted:W    (1 - W) * a + W * b            W from 0 (ours) to 1 (theirs)
    slerp:T       p * a + q * b                  p = sin((1 - T) x) / sin x, q = sin(T x) / sin x,
                                                 cos x = (a . b / |a|) / |b| of the whole tensor as one vector
    ties:D        o + m                          m = mean of those differences a - o, b - o that count

Each product and sum is rounded to float64 on its own (no fused operations), and the result once to the type
(`mcr.tensors.rounding`).

slerp (Shoemake 1985): sums over the tensor are taken over pieces of SUM_ELEMENTS in file order, the last
one padded with zeros; a piece is halved, its second half added to its first, until one number is left; the
sums of pieces are added one after the other. So no order is left to the machine. p and q are the float64
nearest to their formulas, taken of the float64 cos x. Where |cos x| > 0.9995, or a norm is zero or not
finite, it is weighted:T, since an angle that small has no direction; this bound is mergekit's.

ties (Yadav et al., "TIES-Merging", NeurIPS 2023, arXiv 2306.01708, Algorithm 1, with lambda = 1 and two
tasks): of each side's differences the ceil(D * n) largest count, with all that are as large as the least of
them; sizes are compared as float32. The sign of their sum is elected, and those of the other sign no longer
count: m is the sum of the rest divided by how many there are, 0 where none is left.

Pure: the caller feeds blocks, once for each pass.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from enum import StrEnum
from fractions import Fraction
from typing import TYPE_CHECKING

from mcr.errors import InvalidArgumentError
from mcr.model import Buffer
from mcr.tensors import dtypes, rounding
from mcr.tensors.dtypes import NumberKind
from mcr.values import dataclass

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ARITHMETIC = 1
"""Version of everything that this module's text defines; another result for the same input raises it."""
SUM_ELEMENTS = 65_536
PARALLEL_COSINE = 0.9995
# Elements in hand at once: float64 arrays of 256 KiB in memory that is used again, rather than of 4 MiB that
# is fresh each time. Measured: half as many cost a quarter more (calls).
PIECE_ELEMENTS = 32 * 1024
_NUMBER_CHARACTERS_MAX = 24
# float32 patterns of sizes are counted by their upper, then by their lower half.
_HALF_BITS = 16
_HALF_VALUES = 1 << _HALF_BITS
# Of float32: all but the sign; infinity, above which are NaNs only; the quiet NaN that stands for all.
_SIZE_MASK, _INFINITY_BITS, _NAN_BITS = 0x7FFF_FFFF, 0x7F80_0000, 0x7FC0_0000
_DECIMAL_DIGITS = 60


class Method(StrEnum):
    """How two versions of a tensor become one."""

    OURS = "ours"
    THEIRS = "theirs"
    BASE = "base"
    MEAN = "mean"
    WEIGHTED = "weighted"
    SLERP = "slerp"
    TIES = "ties"


SIDES = (Method.OURS, Method.THEIRS, Method.BASE)
"""They take what one version has; so they fit anything, not only tensors."""
_WITH_AMOUNT = (Method.WEIGHTED, Method.SLERP, Method.TIES)


@dataclass(frozen=True, slots=True)
class Strategy:
    """A method, and its number as it was written (`0.3`), which is what a record keeps; "" where none."""

    method: Method
    amount: str = ""

    def __str__(self) -> str:
        return f"{self.method}:{self.amount}" if self.amount else str(self.method)

    @property
    def takes_side(self) -> bool:
        """Whether it takes one version's bytes as they are."""
        return self.method in SIDES


def parse_strategy(text: str) -> Strategy | None:
    """Return the strategy that `text` names, such as `weighted:0.3`; None when it names none.

    Raises:
        InvalidArgumentError: the method is known, but its number is missing, not one, or out of range.
    """
    word, colon, amount = text.partition(":")
    if word not in tuple(Method):
        return None
    method = Method(word)
    if method not in _WITH_AMOUNT:
        if colon:
            raise InvalidArgumentError("strategy", f"{word} takes no number: {text[:80]!r}")
        return Strategy(method)
    try:
        value = Fraction(amount) if len(amount) <= _NUMBER_CHARACTERS_MAX and "/" not in amount else None
    except ValueError:
        value = None
    least_excluded = method is Method.TIES
    if value is None or not 0 <= value <= 1 or (least_excluded and value == 0):
        low = "above 0" if least_excluded else "from 0"
        raise InvalidArgumentError(
            "strategy", f"{text[:80]!r}: give {word} a number {low} up to 1, as {word}:0.5"
        )
    return Strategy(method, amount)


def obstacle(
    strategy: Strategy,
    *,
    ours: tuple[str, tuple[int, ...]],
    theirs: tuple[str, tuple[int, ...]],
    base: tuple[str, tuple[int, ...]] | None,
) -> str:
    """Return why a strategy cannot merge tensors of these (dtype, shape); "" when it can.

    Whether `takes_side` finds what it takes is the caller's to know.
    """
    if strategy.takes_side:
        return ""
    if ours != theirs:
        return f"{strategy.method} needs equal types and shapes, not {_form(ours)} and {_form(theirs)}"
    found = dtypes.find(ours[0])
    kind = None if found is None else found.kind
    if kind is NumberKind.FLOAT:
        if strategy.method is Method.TIES and base != ours:
            of_base = "there is none" if base is None else f"it is {_form(base)}"
            return f"ties needs a base of {_form(ours)}, and {of_base}"
        return ""
    if kind in (NumberKind.SIGNED, NumberKind.UNSIGNED):
        if strategy.method in (Method.MEAN, Method.WEIGHTED):
            return ""
        return f"{strategy.method} is for floating point, not {ours[0]}"
    return f"{strategy.method} has no meaning for {ours[0]}"


def _form(of: tuple[str, tuple[int, ...]]) -> str:
    return f"{of[0]}{list(of[1])}"


class TensorMerge(ABC):
    """One tensor under way.

    Feed all blocks with `look` once for each of `passes`, each pass ended by `end_pass`; then all with
    `merge`, which gives the result's bytes. Blocks of all sides hold the same elements; that of the base may
    be empty unless `needs_base`.
    """

    passes = 0
    needs_base = False

    def __init__(self, dtype: str) -> None:
        self._dtype = dtype

    def look(self, ours: Buffer, theirs: Buffer, base: Buffer) -> None:
        """Take the next blocks of a pass before the last."""
        raise AssertionError("a merge without passes looks at nothing")

    def end_pass(self) -> None:
        """All blocks were seen."""
        raise AssertionError("a merge without passes ends none")

    def merge(self, ours: Buffer, theirs: Buffer, base: Buffer) -> bytes:
        """Return the result's bytes of the next blocks.

        Raises:
            InvalidArgumentError: a 64-bit integer is beyond what float64 tells apart.
        """
        merged: list[bytes] = []
        for a_piece, b_piece, o_piece in zip(
            self._pieces(ours),
            self._pieces(theirs),
            self._pieces(base if self.needs_base else ours),
            strict=True,
        ):
            a, b = self._numbers(a_piece), self._numbers(b_piece)
            o = self._numbers(o_piece) if self.needs_base else a
            merged.append(rounding.to_bytes(self._merged(a, b, o), self._dtype))
        return b"".join(merged)

    @abstractmethod
    def _merged(
        self, a: "NDArray[np.float64]", b: "NDArray[np.float64]", o: "NDArray[np.float64]"
    ) -> "NDArray[np.float64]": ...

    def _pieces(self, block: Buffer) -> Iterator[memoryview]:
        view = memoryview(block).cast("B")
        piece_bytes = PIECE_ELEMENTS * (dtypes.element_bytes(self._dtype) or 1)
        # A block without elements is one piece without elements.
        for start in range(0, max(1, view.nbytes), piece_bytes):
            yield view[start : start + piece_bytes]

    def _numbers(self, block: Buffer) -> "NDArray[np.float64]":
        import numpy as np

        numbers = dtypes.numbers(block, self._dtype)
        assert numbers is not None, "`obstacle` was asked"
        if self._dtype in ("I64", "U64") and np.any(np.abs(numbers) > rounding.INTEGER_EXACT_MAX):
            raise InvalidArgumentError(
                "tensor", f"integers beyond 2^53 of {self._dtype} are not computed with"
            )
        return numbers


class _Linear(TensorMerge):
    """mean and weighted."""

    def __init__(self, dtype: str, weight: float | None) -> None:
        super().__init__(dtype)
        self._weight = weight

    def _merged(
        self, a: "NDArray[np.float64]", b: "NDArray[np.float64]", o: "NDArray[np.float64]"
    ) -> "NDArray[np.float64]":
        import numpy as np

        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            if self._weight is None:
                return (a + b) * 0.5
            return (1.0 - self._weight) * a + self._weight * b


class PieceSum:
    """The sum of products over a whole tensor, in the one order that the module's text defines."""

    def __init__(self) -> None:
        self.total = 0.0
        self._left: list[NDArray[np.float64]] = []
        self._left_count = 0

    def add(self, products: "NDArray[np.float64]") -> None:
        """Take the next products."""
        import numpy as np

        self._left.append(products)
        self._left_count += products.size
        if self._left_count < SUM_ELEMENTS:
            return
        everything = np.concatenate(self._left)
        whole = everything.size - everything.size % SUM_ELEMENTS
        for start in range(0, whole, SUM_ELEMENTS):
            self._add_piece(everything[start : start + SUM_ELEMENTS])
        self._left, self._left_count = [everything[whole:]], everything.size - whole

    def finish(self) -> float:
        """Return the sum."""
        import numpy as np

        if self._left_count:
            piece = np.zeros(SUM_ELEMENTS)
            piece[: self._left_count] = np.concatenate(self._left)
            self._add_piece(piece)
            self._left, self._left_count = [], 0
        return self.total

    def _add_piece(self, piece: "NDArray[np.float64]") -> None:
        while piece.size > 1:
            half = piece.size // 2
            piece = piece[:half] + piece[half:]
        self.total += float(piece[0])


class _Slerp(TensorMerge):
    passes = 1

    def __init__(self, dtype: str, share: float) -> None:
        super().__init__(dtype)
        self._share = share
        self._sums = [PieceSum(), PieceSum(), PieceSum()]
        self._weights = (1.0 - share, share)

    def look(self, ours: Buffer, theirs: Buffer, base: Buffer) -> None:
        import numpy as np

        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            for a_piece, b_piece in zip(self._pieces(ours), self._pieces(theirs), strict=True):
                a, b = self._numbers(a_piece), self._numbers(b_piece)
                for place, (x, y) in zip(self._sums, ((a, a), (b, b), (a, b)), strict=True):
                    place.add(x * y)

    def end_pass(self) -> None:
        import numpy as np

        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            squares_a, squares_b, dot = (each.finish() for each in self._sums)
        if not math.isfinite(squares_a + squares_b + dot) or squares_a == 0 or squares_b == 0:
            return
        cosine = dot / math.sqrt(squares_a) / math.sqrt(squares_b)
        if abs(cosine) <= PARALLEL_COSINE:
            self._weights = slerp_weights(cosine, self._share)

    def _merged(
        self, a: "NDArray[np.float64]", b: "NDArray[np.float64]", o: "NDArray[np.float64]"
    ) -> "NDArray[np.float64]":
        import numpy as np

        p, q = self._weights
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            return p * a + q * b


def slerp_weights(cosine: float, share: float) -> tuple[float, float]:
    """Return the two weights of a slerp: the float64 nearest to the formulas, on every machine.

    The sine of a C library may be off by one in the last place, and is, here and there; decimals are the same
    everywhere.
    """
    with localcontext(Context(prec=_DECIMAL_DIGITS, rounding=ROUND_HALF_EVEN)):
        cos = Decimal(cosine)
        sine = (1 - cos * cos).sqrt()
        angle = _arctangent2(sine, cos)
        second = Decimal(share)
        return float(_sine((1 - second) * angle) / sine), float(_sine(second * angle) / sine)


def _sine(x: Decimal) -> Decimal:
    """Taylor's series; x from 0 to pi."""
    term, total, n = x, x, 1
    while abs(term) > Decimal(10) ** -(_DECIMAL_DIGITS + 5):
        term = -term * x * x / ((n + 1) * (n + 2))
        total += term
        n += 2
    return total


def _arctangent2(sine: Decimal, cos: Decimal) -> Decimal:
    """Return the angle from 0 to pi of this sine and cosine, by Newton's method from a float64 start."""
    # The start is only a start: whatever the last place of a library's atan2, the iteration ends at the same.
    angle = Decimal(math.atan2(float(sine), float(cos)))
    for _ in range(4):
        # sin(angle - x) for the wanted angle x is nearly their distance, and has no division near zero.
        here, beside = _sine(angle), _cosine(angle)
        angle -= here * cos - beside * sine
    return angle


def _cosine(x: Decimal) -> Decimal:
    term, total, n = Decimal(1), Decimal(1), 0
    while abs(term) > Decimal(10) ** -(_DECIMAL_DIGITS + 5):
        term = -term * x * x / ((n + 1) * (n + 2))
        total += term
        n += 2
    return total


class _Ties(TensorMerge):
    passes = 2
    needs_base = True

    def __init__(self, dtype: str, density: Fraction, element_count: int) -> None:
        super().__init__(dtype)
        self._sides = [_Largest(math.ceil(density * element_count)) for _ in range(2)]

    def look(self, ours: Buffer, theirs: Buffer, base: Buffer) -> None:
        import numpy as np

        patterns: list[list[NDArray[np.uint32]]] = [[], []]
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            for o_piece, *pieces in zip(
                self._pieces(base), self._pieces(ours), self._pieces(theirs), strict=True
            ):
                o = self._numbers(o_piece)
                for found, piece in zip(patterns, pieces, strict=True):
                    found.append(_patterns(self._numbers(piece) - o))
        for side, found in zip(self._sides, patterns, strict=True):
            side.count(np.concatenate(found))

    def end_pass(self) -> None:
        for side in self._sides:
            side.end_pass()

    def _merged(
        self, a: "NDArray[np.float64]", b: "NDArray[np.float64]", o: "NDArray[np.float64]"
    ) -> "NDArray[np.float64]":
        import numpy as np

        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            differences = [a - o, b - o]
            counting = [_patterns(x) >= side.least for side, x in zip(self._sides, differences, strict=True)]
            result = o + 0.0
            # Where no difference counts nothing is left to compute; that is most of it.
            some = np.flatnonzero(counting[0] | counting[1])
            kept = [
                np.where(counts[some], x[some], 0.0) for counts, x in zip(counting, differences, strict=True)
            ]
            result[some] += _elected_mean(kept[0], kept[1])
        return result


def _elected_mean(one: "NDArray[np.float64]", other: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Return the mean of those that have the sign of their sum; a NaN of either is a NaN of the result."""
    import numpy as np

    total = one + other
    elected = np.sign(total)
    counts = [(np.sign(x) == elected) & (elected != 0) for x in (one, other)]
    agreeing = np.where(counts[0], one, 0.0) + np.where(counts[1], other, 0.0)
    mean = agreeing / np.maximum(counts[0].astype(np.float64) + counts[1], 1.0)
    # Comparisons alone would drop a NaN.
    return np.where(np.isnan(total), np.nan, mean)


def _patterns(differences: "NDArray[np.float64]") -> "NDArray[np.uint32]":
    """Return the bit patterns of sizes as float32: they are in the order of the sizes, NaN the largest."""
    import numpy as np

    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        bits: NDArray[np.uint32] = differences.astype(np.float32).view(np.uint32)
    bits &= np.uint32(_SIZE_MASK)
    if bits.size and int(bits.max()) > _INFINITY_BITS:
        # All NaNs are one, whatever their payload.
        bits[bits > _INFINITY_BITS] = _NAN_BITS
    return bits


class _Largest:
    """Finds the k-th largest of patterns that go by twice, by counting: memory does not grow with them."""

    def __init__(self, wanted: int) -> None:
        self.least = 0
        self._wanted = wanted
        self._upper: int | None = None
        self._counts: list[NDArray[np.int64]] = []

    def count(self, patterns: "NDArray[np.uint32]") -> None:
        import numpy as np

        if self._upper is None:
            halves = patterns >> np.uint32(_HALF_BITS)
        else:
            inside = patterns[(patterns >> np.uint32(_HALF_BITS)) == self._upper]
            halves = inside & np.uint32(_HALF_VALUES - 1)
        counted = np.bincount(halves, minlength=_HALF_VALUES)
        self._counts = [counted if not self._counts else self._counts[0] + counted]

    def end_pass(self) -> None:
        import numpy as np

        counts = self._counts[0] if self._counts else np.zeros(_HALF_VALUES, np.int64)
        self._counts = []
        # How many patterns have this half or a larger one; of the least half, all that there are.
        at_least = np.cumsum(counts[::-1])[::-1]
        reached = np.flatnonzero(at_least >= self._wanted)
        place = int(reached[-1]) if reached.size else 0
        if self._upper is None:
            above = int(at_least[place + 1]) if place + 1 < _HALF_VALUES else 0
            self._upper, self._wanted = place, self._wanted - above
        else:
            self.least = self._upper << _HALF_BITS | place


def begin(strategy: Strategy, dtype: str, shape: Sequence[int]) -> TensorMerge:
    """Begin to merge a tensor whose two sides have this type and shape; `obstacle` said that it can be.

    Raises:
        MissingExtraError: NumPy is not installed.
    """
    dtypes.require_numpy("merging tensors")
    match strategy.method:
        case Method.MEAN:
            return _Linear(dtype, None)
        case Method.WEIGHTED:
            return _Linear(dtype, float(strategy.amount))
        case Method.SLERP:
            return _Slerp(dtype, float(strategy.amount))
        case Method.TIES:
            return _Ties(dtype, Fraction(strategy.amount), dtypes.element_count(shape))
        case _:
            raise AssertionError(f"{strategy} takes a side, there is nothing to compute")
