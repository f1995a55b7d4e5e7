"""GGUF: key-value pairs, then a table of tensors, then their bytes, each aligned.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Versions 2 and 3 are read, little-endian.
A vocabulary of 150,000 words stands in the key-value pairs: it is stepped over, never made into strings.
"""

from math import prod
from struct import Struct

from mcr.cutting.ranges import Reader
from mcr.cutting.spans import TENSORS_MAX, MalformedError, TensorSpan
from mcr.values import dataclass

MAGIC = b"GGUF"
VERSIONS = (2, 3)
PAIRS_MAX = 65_536
# ggml has four (GGML_MAX_DIMS); a few more cost nothing.
EXTENTS_MAX = 8
KEY_BYTES_MAX = 65_535
TENSOR_NAME_BYTES_MAX = 4_096
NESTING_MAX = 4
ALIGNMENT_DEFAULT_BYTES = 32
ALIGNMENT_MAX_BYTES = 1 << 20

_STRING, _ARRAY = 8, 9
# gguf_metadata_value_type -> width of the value in bytes.
_WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_UINT32 = 4
_LENGTH = Struct("<Q")

# ggml_type -> name, elements of a block, bytes of a block (ggml.h, ggml-common.h).
_TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}


@dataclass(frozen=True, slots=True)
class _Row:
    """One row of the tensor table; the offset counts from the start of the data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset_bytes: int
    length_bytes: int | None


class _Cursor:
    """Reads the header in order; every step is checked against the file's size by the reader."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.offset_bytes = 0

    def integer(self, width_bytes: int) -> int:
        value = self._reader.integer(self.offset_bytes, width_bytes)
        self.offset_bytes += width_bytes
        return value

    def bounded(self, what: str, width_bytes: int, maximum: int) -> int:
        value = self.integer(width_bytes)
        if value > maximum:
            raise MalformedError(f"{what} is {value}, at most {maximum}")
        return value

    def data(self, length_bytes: int) -> bytes:
        value = self._reader.at(self.offset_bytes, length_bytes)
        self.offset_bytes += length_bytes
        return value

    def skip(self, length_bytes: int) -> None:
        self.offset_bytes += length_bytes
        if self.offset_bytes > self._reader.size_bytes:
            raise MalformedError("a value leaves the file")

    def skip_strings(self, count: int) -> None:
        """Step over `count` strings, page by page: the one loop that a large vocabulary makes hot."""
        unpack, width_bytes = _LENGTH.unpack_from, _LENGTH.size
        while count:
            page, page_offset = self._reader.page(self.offset_bytes, width_bytes)
            at = self.offset_bytes - page_offset
            at_max = len(page) - width_bytes
            while count and at <= at_max:
                at += width_bytes + unpack(page, at)[0]
                count -= 1
            self.offset_bytes = page_offset + at
        self.skip(0)

    def skip_value(self, kind: int, depth: int = 0) -> None:
        if kind == _STRING:
            self.skip(self.integer(8))
        elif kind == _ARRAY:
            self._skip_array(depth)
        elif kind in _WIDTHS:
            self.skip(_WIDTHS[kind])
        else:
            raise MalformedError(f"value type {kind}")

    def _skip_array(self, depth: int) -> None:
        if depth >= NESTING_MAX:
            raise MalformedError(f"arrays nest deeper than {NESTING_MAX}")
        kind, count = self.integer(4), self.integer(8)
        if kind == _STRING:
            self.skip_strings(count)
        elif kind == _ARRAY:
            for _ in range(count):
                self.skip_value(kind, depth + 1)
        elif kind in _WIDTHS:
            self.skip(count * _WIDTHS[kind])
        else:
            raise MalformedError(f"value type {kind}")


def find_tensors(reader: Reader) -> list[TensorSpan]:
    """Return the tensors of the table.

    Raises:
        MalformedError: a version not known, or a count, length or offset that cannot be true.
    """
    cursor = _Cursor(reader)
    cursor.skip(len(MAGIC))
    version = cursor.integer(4)
    if version not in VERSIONS:
        raise MalformedError(f"GGUF version {version}")
    tensor_count = cursor.bounded("the number of tensors", 8, TENSORS_MAX)
    pair_count = cursor.bounded("the number of pairs", 8, PAIRS_MAX)
    alignment_bytes = _read_pairs(cursor, pair_count)
    rows = [_read_row(cursor) for _ in range(tensor_count)]
    data_offset = -(-cursor.offset_bytes // alignment_bytes) * alignment_bytes
    return _spans(rows, data_offset, reader.size_bytes)


def _read_pairs(cursor: _Cursor, count: int) -> int:
    alignment_bytes = ALIGNMENT_DEFAULT_BYTES
    for _ in range(count):
        key = cursor.data(cursor.bounded("the length of a key", 8, KEY_BYTES_MAX))
        kind = cursor.integer(4)
        if key == b"general.alignment" and kind == _UINT32:
            alignment_bytes = cursor.bounded("the alignment", 4, ALIGNMENT_MAX_BYTES)
            if not alignment_bytes:
                raise MalformedError("the alignment is 0")
        else:
            cursor.skip_value(kind)
    return alignment_bytes


def _read_row(cursor: _Cursor) -> _Row:
    name = cursor.data(cursor.bounded("the length of a tensor's name", 8, TENSOR_NAME_BYTES_MAX))
    extent_count = cursor.bounded("the number of dimensions", 4, EXTENTS_MAX)
    # ggml states the innermost extent first.
    shape = tuple(cursor.integer(8) for _ in range(extent_count))[::-1]
    kind, offset_bytes = cursor.integer(4), cursor.integer(8)
    dtype, block_elements, block_bytes = _TYPES.get(kind, (f"GGML_{kind}", 0, 0))
    length_bytes = prod(shape) // block_elements * block_bytes if block_elements else None
    return _Row(name.decode("utf-8", "replace"), dtype, shape, offset_bytes, length_bytes)


def _spans(rows: list[_Row], data_offset: int, size_bytes: int) -> list[TensorSpan]:
    spans: list[TensorSpan] = []
    next_offset = size_bytes - data_offset
    # From the back; of rows at one offset all but one are empty, and stand before it.
    for row in sorted(rows, key=lambda row: (row.offset_bytes, row.length_bytes or 0), reverse=True):
        # The length of a type that is newer than this release: up to the next tensor, padding included.
        length_bytes = next_offset - row.offset_bytes if row.length_bytes is None else row.length_bytes
        if length_bytes < 0 or row.offset_bytes + length_bytes > next_offset:
            raise MalformedError(f"tensor {row.name[:80]!r} is not all there")
        spans.append(TensorSpan(row.name, row.dtype, row.shape, data_offset + row.offset_bytes, length_bytes))
        next_offset = row.offset_bytes
    return spans
