"""One byte string for each value: the canonical form that ids and state digests are computed over.

A value is None, a bool, an int of 64 bits, a float, a str, bytes, a list or a dict with str keys. The
form is the core-deterministic subset of CBOR (RFC 8949 §4.2.1): shortest integers and lengths, definite
lengths, keys in byte order of their encodings, floats always as eight bytes with one NaN. So any CBOR tool
can read it, and no two byte strings mean the same value: `decode` refuses what `encode` would not have
written.

Protobuf is not used for this, because its serialisation is not canonical across releases.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import cast

import cbor2

CanonicalValue = (
    None | bool | int | float | str | bytes | Sequence["CanonicalValue"] | Mapping[str, "CanonicalValue"]
)

INTEGER_MIN, INTEGER_MAX = -(2**63), 2**64 - 1
DEPTH_MAX = 64
_NAN = b"\xfb\x7f\xf8\x00\x00\x00\x00\x00\x00"


class CanonicalError(ValueError):
    """A value has no canonical form, or bytes are not in it."""


def encode(value: CanonicalValue) -> bytes:
    """Return the canonical bytes of `value`.

    Raises:
        CanonicalError: an integer beyond 64 bits, text that is not Unicode (a lone surrogate), nesting deeper
            than DEPTH_MAX, a key that is not a str, or a type outside `CanonicalValue`.
    """
    try:
        return encode_ordered(_ordered(value, DEPTH_MAX))
    except _NonFiniteError:
        return _encode_in_pieces(value, DEPTH_MAX)


def encode_ordered(value: CanonicalValue) -> bytes:
    """Return the canonical bytes of a value whose form is right already, sooner than `encode`.

    For what is encoded many thousand times a second, where the caller knows: keys in the order of their
    encodings, no float that is not finite, no integer beyond 64 bits, no type but the plain ones.

    Raises:
        CanonicalError: text that is not Unicode.
    """
    try:
        # The library writes shortest integers and lengths, definite lengths, keys as they come, and finite
        # floats as eight bytes: the canonical form, for a value that is in order.
        return cbor2.dumps(value)
    except UnicodeEncodeError as error:
        raise CanonicalError("text is not valid Unicode") from error


def ordered(value: CanonicalValue) -> CanonicalValue:
    """Return a value in the form that `encode_ordered` takes.

    Raises:
        CanonicalError: as `encode`; or a float is not finite.
    """
    try:
        return _ordered(value, DEPTH_MAX)
    except _NonFiniteError as error:
        raise CanonicalError("a number is not finite") from error


_PLAIN = frozenset((str, bytes, bool, type(None)))


def _ordered(value: CanonicalValue, depth: int) -> CanonicalValue:
    """Return `value` checked, its keys in canonical order, its subclasses as what they extend."""
    if depth < 0:
        raise CanonicalError(f"nested deeper than {DEPTH_MAX}")
    # The types that nearly all values have, told by one comparison each: every row and every record passes
    # through here.
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is int:
        if not INTEGER_MIN <= cast("int", value) <= INTEGER_MAX:
            raise CanonicalError("an integer needs more than 64 bits")
        return value
    if kind is float and math.isfinite(cast("float", value)):
        return value
    if kind is list or kind is tuple:
        return [_ordered(item, depth - 1) for item in cast("Sequence[CanonicalValue]", value)]
    if kind is dict:
        return _ordered_mapping(cast("Mapping[str, CanonicalValue]", value), depth)
    return _ordered_rest(value, depth)


def _ordered_mapping(value: Mapping[str, CanonicalValue], depth: int) -> CanonicalValue:
    ordered: dict[str, CanonicalValue] = {}
    for key in sorted(value, key=_encoded_key):
        item = value[key]
        ordered[key] = item if type(item) in _PLAIN and depth else _ordered(item, depth - 1)
    return ordered


def _ordered_rest(value: CanonicalValue, depth: int) -> CanonicalValue:
    match value:
        case float():
            if not math.isfinite(value):
                raise _NonFiniteError
            return value
        # Subclasses, such as enumerations, and other forms of the same.
        case int():
            return _ordered(int(value), depth)
        case str():
            return str.__str__(value)
        case bytes() | bytearray() | memoryview():
            return bytes(value)
        case Mapping():
            return _ordered_mapping(value, depth)
        case Sequence():
            return [_ordered(item, depth - 1) for item in value]
        case _:
            raise CanonicalError(f"{type(value).__name__} has no canonical form")


def encode_pairs(pairs: Sequence[tuple[bytes, bytes | None]]) -> bytes:
    """Return what `encode` gives for a list of pairs of byte strings, the second of which may be None.

    For what each command changes: put together here, it takes a third of the time of the library's way.
    """
    pieces = [_head(4, len(pairs))]
    for first, second in pairs:
        if second is None:
            pieces += (_PAIR_HEADS[len(first)], first, _NONE)
        else:
            pieces += (_PAIR_HEADS[len(first)], first, _BYTES_HEADS[len(second)], second)
    return b"".join(pieces)


_PAIR, _NONE = b"\x82", b"\xf6"


class _Heads(dict[int, bytes]):
    """Heads of byte strings by length; those of short ones are kept."""

    def __init__(self, before: bytes) -> None:
        super().__init__()
        self._before = before

    def __missing__(self, length: int) -> bytes:
        head = self._before + _head(2, length)
        if length < _HEADS_MAX:
            self[length] = head
        return head


_HEADS_MAX = 1024
_BYTES_HEADS, _PAIR_HEADS = _Heads(b""), _Heads(_PAIR)


class _NonFiniteError(Exception):
    """A value holds a float that the library would write in two bytes."""


def _encode_in_pieces(value: CanonicalValue, depth: int) -> bytes:
    """Encode a value around its floats that are not finite."""
    if depth < 0:
        raise CanonicalError(f"nested deeper than {DEPTH_MAX}")
    match value:
        case float() if not math.isfinite(value):
            # A NaN's payload bits would make equal values differ.
            return _NAN if math.isnan(value) else struct.pack(">Bd", 0xFB, value)
        case Mapping():
            pieces = [_head(5, len(value))]
            for key in sorted(value, key=_encoded_key):
                pieces += (_encoded_key(key), _encode_in_pieces(value[key], depth - 1))
            return b"".join(pieces)
        case Sequence() if not isinstance(value, str | bytes | bytearray | memoryview):
            return _head(4, len(value)) + b"".join([_encode_in_pieces(item, depth - 1) for item in value])
        case _:
            return encode_ordered(_ordered(value, depth))


def _head(major: int, value: int) -> bytes:
    """Return the head of a container or string: the same shortest form as that of an integer."""
    first, *rest = cbor2.dumps(value)
    return bytes((major << 5 | first, *rest))


# Field names: few, and the same ones again and again.
@lru_cache(maxsize=1024)
def _encoded_key(key: str) -> bytes:
    if not isinstance(key, str):
        raise CanonicalError(f"a key is {type(key).__name__}, not str")
    return encode_ordered(str.__str__(key))


def decode_own(data: bytes) -> CanonicalValue:
    """Return the value of bytes that `encode` made and that a checksum kept since; much sooner than `decode`.

    Not for bytes that somebody else may have made: it does not ask whether they are in the canonical form.

    Raises:
        CanonicalError: it is no value at all.
    """
    try:
        return cast("CanonicalValue", cbor2.loads(data))
    except (cbor2.CBORDecodeError, ValueError) as error:
        raise CanonicalError(str(error)) from error


def decode(data: bytes) -> CanonicalValue:
    """Return the value whose canonical bytes are `data`; lists come back as lists.

    Raises:
        CanonicalError: truncated, trailing bytes, unknown type, or not the canonical form.
    """
    try:
        value, end = _decode(data, 0, DEPTH_MAX)
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise CanonicalError("bytes end too early or text is not UTF-8") from error
    if end != len(data):
        raise CanonicalError(f"{len(data) - end} bytes after the value")
    return value


def _decode_head(data: bytes, at: int) -> tuple[int, int, int]:
    first = data[at]
    major, low = first >> 5, first & 31
    if low < 24:
        return major, low, at + 1
    if low > 27:
        raise CanonicalError(f"reserved or indefinite length at byte {at}")
    width = 1 << (low - 24)
    if at + 1 + width > len(data):
        raise CanonicalError("bytes end too early")
    value = int.from_bytes(data[at + 1 : at + 1 + width], "big")
    if major != 7 and value < (24 if width == 1 else 1 << (width * 4)):
        raise CanonicalError(f"length at byte {at} is not in its shortest form")
    return major, value, at + 1 + width


def _decode(data: bytes, at: int, depth: int) -> tuple[CanonicalValue, int]:
    if depth < 0:
        raise CanonicalError(f"nested deeper than {DEPTH_MAX}")
    first = data[at]
    if first >> 5 == 7:
        return _decode_simple(data, at)
    major, value, at = _decode_head(data, at)
    match major:
        case 0:
            return value, at
        case 1:
            if -1 - value < INTEGER_MIN:
                raise CanonicalError("an integer needs more than 64 bits")
            return -1 - value, at
        case 2 | 3:
            if at + value > len(data):
                raise CanonicalError("bytes end too early")
            piece = data[at : at + value]
            return (piece if major == 2 else piece.decode()), at + value
        case 4:
            items: list[CanonicalValue] = []
            for _ in range(value):
                item, at = _decode(data, at, depth - 1)
                items.append(item)
            return items, at
        case 5:
            return _decode_mapping(data, at, value, depth)
        case _:
            raise CanonicalError(f"tags are not used (byte {at})")


def _decode_mapping(data: bytes, at: int, count: int, depth: int) -> tuple[CanonicalValue, int]:
    pairs: dict[str, CanonicalValue] = {}
    previous = b""
    for _ in range(count):
        start = at
        key, at = _decode(data, at, depth - 1)
        if not isinstance(key, str):
            raise CanonicalError("a key is not text")
        name = data[start:at]
        if name <= previous:
            raise CanonicalError("keys are out of order or repeat")
        previous = name
        pairs[key], at = _decode(data, at, depth - 1)
    return pairs, at


def _decode_simple(data: bytes, at: int) -> tuple[CanonicalValue, int]:
    match data[at]:
        case 0xF4:
            return False, at + 1
        case 0xF5:
            return True, at + 1
        case 0xF6:
            return None, at + 1
        case 0xFB:
            (number,) = struct.unpack_from(">d", data, at + 1)
            if math.isnan(number) and data[at : at + 9] != _NAN:
                raise CanonicalError("a NaN is not in its one form")
            return float(number), at + 9
        case other:
            raise CanonicalError(f"unknown simple value {other:#x}")
