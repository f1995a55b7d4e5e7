"""Safetensors: eight bytes of header length, a JSON header, then the tensors' bytes.

Format: https://github.com/huggingface/safetensors#format
"""

import json
from collections.abc import Iterator

from mcr.cutting.ranges import Reader
from mcr.cutting.spans import DIMENSIONS_MAX, MalformedError, TensorSpan, fills_exactly

LENGTH_BYTES = 8
# The reference implementation refuses longer headers too.
HEADER_BYTES_MAX = 100_000_000


def looks_like(reader: Reader) -> bool:
    """Tell whether the file could be safetensors: a plausible header length, then an opening brace."""
    if reader.size_bytes < LENGTH_BYTES + 2:
        return False
    header_bytes = reader.integer(0, LENGTH_BYTES)
    return (
        2 <= header_bytes <= min(HEADER_BYTES_MAX, reader.size_bytes - LENGTH_BYTES)
        and reader.at(LENGTH_BYTES, 1) == b"{"
    )


def find_tensors(reader: Reader) -> Iterator[TensorSpan]:
    """Yield the tensors that the header names.

    Raises:
        MalformedError: the header is no header, or a tensor's bytes, type and shape do not agree.
    """
    header_bytes = reader.integer(0, LENGTH_BYTES)
    start = LENGTH_BYTES + header_bytes
    try:
        header = json.loads(reader.at(LENGTH_BYTES, header_bytes))
    except (ValueError, RecursionError) as error:
        raise MalformedError("the header is not JSON") from error
    if not isinstance(header, dict):
        raise MalformedError("the header is not an object")
    for name, entry in header.items():
        if name != "__metadata__":
            yield _span(name, entry, start)


def _span(name: str, entry: object, start: int) -> TensorSpan:
    if not isinstance(entry, dict):
        raise MalformedError(f"entry {name[:80]!r} is not an object")
    dtype = entry.get("dtype")
    shape = _integers(entry.get("shape"))
    offsets = _integers(entry.get("data_offsets"))
    if not isinstance(dtype, str) or shape is None or offsets is None or len(offsets) != 2:
        raise MalformedError(f"entry {name[:80]!r} lacks a field, or one has the wrong type")
    length_bytes = offsets[1] - offsets[0]
    # An element type newer than this release passes unchecked: `arrange` still sees to order and overlap.
    if length_bytes < 0 or not fills_exactly(dtype, shape, length_bytes):
        raise MalformedError(f"{length_bytes} bytes do not fill tensor {name[:80]!r}")
    return TensorSpan(name, dtype, shape, start + offsets[0], length_bytes)


def _integers(value: object) -> tuple[int, ...] | None:
    if not isinstance(value, list) or len(value) > DIMENSIONS_MAX:
        return None
    # Booleans are integers to Python, not to the format.
    if not all(type(item) is int and 0 <= item < 1 << 63 for item in value):
        return None
    return tuple(value)
