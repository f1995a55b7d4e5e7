"""What a plan consists of: tensors in a file, and the rules that every plan keeps, whatever a file claims."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from math import prod

from mcr.values import dataclass

ReadAt = Callable[[int, int], bytes]
"""`(offset, length)` to exactly those bytes of a file; shorter only at its end."""

# Optimiser states of the largest mixtures of experts have tens of thousands of tensors; a million still
# fits in memory, more is a header that lies.
TENSORS_MAX = 1_000_000
DIMENSIONS_MAX = 64
# Real names have at most a few hundred characters; a version keeps every one of them.
TENSOR_NAME_CHARACTERS_MAX = 1024
DTYPE_CHARACTERS_MAX = 32
# Extents are kept as signed 64-bit integers in the canonical form of a version.
EXTENT_MAX = (1 << 63) - 1

DTYPE_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "F8_E8M0": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
    "C64": 64,
    "C128": 128,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
}
"""Width of one element of the element types whose tensors are plain rows of elements."""

# Where bytes repeat with a period, encodings that take planes apart gain; complex numbers and packed
# sub-byte types have no such planes.
ELEMENT_BYTES = {
    name: bits // 8 for name, bits in DTYPE_BITS.items() if bits in {8, 16, 32, 64} and name != "C64"
}
ELEMENT_BYTES_OTHER = 1


class MalformedError(ValueError):
    """A file only looks like a model format; it is cut as plain bytes. Never leaves this package."""


@dataclass(frozen=True, slots=True)
class TensorSpan:
    """One tensor, and where its bytes lie in the file.

    Attributes:
        name: unique within the file, 1 to TENSOR_NAME_CHARACTERS_MAX characters (`#2` and so on included).
        dtype: upper-case safetensors name where one exists (`F32`, `BF16`), else the format's own (`Q4_K`).
        shape: extents, outermost first; with a dtype of known width they give exactly the length.
        offset_bytes, length_bytes: where its bytes lie; an empty tensor has length 0.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset_bytes: int
    length_bytes: int


@dataclass(frozen=True, slots=True)
class CutPlan:
    """Where a file's tensors are.

    Attributes:
        format: `safetensors`, `npy`, `npz`, `pt`, `gguf`, `onnx`, or `bytes` when nothing is known of it.
        size_bytes: length of the file.
        tensors: in file order, inside the file, not overlapping; may be empty.
    """

    format: str
    size_bytes: int
    tensors: tuple[TensorSpan, ...]


def bytes_plan(size_bytes: int) -> CutPlan:
    """Return the plan of a file of which nothing is known."""
    return CutPlan("bytes", size_bytes, ())


def fills_exactly(dtype: str, shape: tuple[int, ...], length_bytes: int) -> bool:
    """Tell whether a tensor of `shape` has `length_bytes`; True where the dtype's width is not known."""
    bits = DTYPE_BITS.get(dtype)
    return bits is None or bits * prod(shape) == length_bytes * 8


def flat(span: TensorSpan) -> TensorSpan:
    """Return `span` as mere bytes, for a tensor whose stated type or shape does not fit its length."""
    return replace(span, dtype="U8", shape=(span.length_bytes,))


def arrange(format_name: str, size_bytes: int, found: Iterable[TensorSpan]) -> CutPlan:
    """Make a plan of the tensors that a parser found.

    Args:
        format_name: of the plan.
        size_bytes: of the file.
        found: in any order; names may repeat, types and shapes may be wrong.

    Raises:
        MalformedError: there are too many, one lies outside the file, or two overlap.
    """
    ordered = sorted(found, key=lambda span: (span.offset_bytes, span.length_bytes))
    if len(ordered) > TENSORS_MAX:
        raise MalformedError(f"{len(ordered)} tensors, at most {TENSORS_MAX}")
    end = 0
    for span in ordered:
        if span.offset_bytes < end or span.length_bytes < 0:
            raise MalformedError(f"tensor {span.name[:80]!r} starts at {span.offset_bytes}, inside another")
        end = span.offset_bytes + span.length_bytes
    if end > size_bytes:
        raise MalformedError(f"a tensor ends at {end}, behind the file's {size_bytes} bytes")
    return CutPlan(format_name, size_bytes, _presentable(ordered))


def _presentable(spans: list[TensorSpan]) -> tuple[TensorSpan, ...]:
    taken: set[str] = set()
    next_suffix: dict[str, int] = {}
    result: list[TensorSpan] = []
    for span in spans:
        name = _unique(_text(span.name)[:TENSOR_NAME_CHARACTERS_MAX] or "tensor", taken, next_suffix)
        dtype = _text(span.dtype)[:DTYPE_CHARACTERS_MAX] or "U8"
        renamed = span
        if name != span.name or dtype != span.dtype:
            renamed = replace(span, name=name, dtype=dtype)
        result.append(renamed if _consistent(renamed) else flat(renamed))
    return tuple(result)


def _text(text: str) -> str:
    # A lone surrogate (JSON can spell one) has no UTF-8 form, and a version's record is UTF-8.
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _unique(name: str, taken: set[str], next_suffix: dict[str, int]) -> str:
    unique = name
    while unique in taken:
        # The counter per name keeps a file with a million equal names linear.
        suffix = f"#{next_suffix.setdefault(name, 2)}"
        next_suffix[name] += 1
        unique = name[: TENSOR_NAME_CHARACTERS_MAX - len(suffix)] + suffix
    taken.add(unique)
    return unique


def _consistent(span: TensorSpan) -> bool:
    if len(span.shape) > DIMENSIONS_MAX or any(not 0 <= extent <= EXTENT_MAX for extent in span.shape):
        return False
    return fills_exactly(span.dtype, span.shape, span.length_bytes)
