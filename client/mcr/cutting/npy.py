"""NumPy's `.npy` arrays, and `.npz`: a zip file of them.

Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

import re
from collections.abc import Iterable, Iterator

from mcr.cutting.ranges import Reader
from mcr.cutting.spans import DIMENSIONS_MAX, MalformedError, TensorSpan, fills_exactly
from mcr.cutting.zip_directory import Member, data_offset
from mcr.model import KIB

MAGIC = b"\x93NUMPY"
# NumPy itself distrusts headers beyond 10,000 characters.
HEADER_BYTES_MAX = 64 * KIB
_PREFIX_BYTES = 8
_SUFFIX = ".npy"
# In front of the type of an array that is stored column by column.
FORTRAN_ORDER = "fortran:"

# The header is a Python literal, but always of this one form; evaluating it would admit much more.
_DESCRIPTION = re.compile(r"'descr': *'([<>|=]?)([a-zA-Z])([0-9]{0,4})'")
_SHAPE = re.compile(r"'shape': *\(((?:[0-9]{1,19}L?, ?)*(?:[0-9]{1,19}L?)?)\)")
_EXTENT = re.compile(r"[0-9]+")
_FORTRAN = re.compile(r"'fortran_order': *(True|False)")
_KINDS = {"f": "F", "i": "I", "u": "U", "c": "C"}


def find_tensors(reader: Reader) -> Iterator[TensorSpan]:
    """Yield the one array of a `.npy` file.

    Raises:
        MalformedError: no plain array of numbers (pickled objects, records), or its bytes are not all there.
    """
    yield _array(reader, "array", 0, reader.size_bytes)


def find_zip_tensors(reader: Reader, members: Iterable[Member]) -> Iterator[TensorSpan]:
    """Yield the arrays of a `.npz` file that are stored as they are; compressed ones and objects are skipped.

    Raises:
        MalformedError: a member is not where the directory says.
    """
    for member in members:
        if not member.is_stored or not is_array(member):
            continue
        start = data_offset(reader, member)
        try:
            span = _array(reader, member.name.removesuffix(_SUFFIX), start, start + member.length_bytes)
        except MalformedError:
            continue  # One array of objects takes nothing from the others.
        yield span


def is_array(member: Member) -> bool:
    """Tell whether a member of a zip file is an array by its name."""
    return member.name.endswith(_SUFFIX)


def _array(reader: Reader, name: str, start: int, end: int) -> TensorSpan:
    if end - start < _PREFIX_BYTES or reader.at(start, len(MAGIC)) != MAGIC:
        raise MalformedError("no npy header")
    major = reader.integer(start + len(MAGIC), 1)
    if major not in (1, 2, 3):
        raise MalformedError(f"npy version {major}")
    width_bytes = 2 if major == 1 else 4
    header_bytes = reader.integer(start + _PREFIX_BYTES, width_bytes)
    if header_bytes > HEADER_BYTES_MAX:
        raise MalformedError(f"an npy header of {header_bytes} bytes")
    header_at = start + _PREFIX_BYTES + width_bytes
    data_at = header_at + header_bytes
    dtype, element_bytes, shape = _parse(reader.at(header_at, header_bytes).decode("utf-8", "replace"))
    length_bytes = element_bytes
    for extent in shape:
        length_bytes *= extent
    # Bytes behind the array are allowed in a stream; they are no part of it.
    if data_at + length_bytes > end or not fills_exactly(dtype, shape, length_bytes):
        raise MalformedError(f"the array of {length_bytes} bytes is not all there")
    return TensorSpan(name, dtype, shape, data_at, length_bytes)


def _parse(header: str) -> tuple[str, int, tuple[int, ...]]:
    description, shape_text, columns_first = (
        form.search(header) for form in (_DESCRIPTION, _SHAPE, _FORTRAN)
    )
    if description is None or shape_text is None or columns_first is None:
        raise MalformedError("the npy header does not describe a plain array")
    order, kind, width = description.groups()
    if kind == "O" or not width:
        raise MalformedError("the array holds pickled objects")
    shape = tuple(int(extent) for extent in _EXTENT.findall(shape_text[1]))
    if len(shape) > DIMENSIONS_MAX:
        raise MalformedError(f"the array has {len(shape)} dimensions")
    # Text is counted in characters of four bytes, all else in bytes.
    element_bytes = int(width) * (4 if kind == "U" else 1)
    dtype = _dtype(order, kind, width)
    if columns_first[1] == "True" and len(shape) > 1:
        # Its bytes in another order: to nobody who knows rows alone may it look like an array of that type.
        dtype = f"{FORTRAN_ORDER}{dtype}"
    return dtype, element_bytes, shape


def _dtype(order: str, kind: str, width: str) -> str:
    own = f"{order}{kind}{width}"
    if kind == "b" and width == "1":
        return "BOOL"
    if kind not in _KINDS or (order == ">" and width != "1"):
        return own
    return f"{_KINDS[kind]}{int(width) * 8}"
