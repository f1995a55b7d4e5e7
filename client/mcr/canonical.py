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
from operator import itemgetter
from typing import cast

CanonicalValue = (
    None | bool | int | float | str | bytes | Sequence["CanonicalValue"] | Mapping[str, "CanonicalValue"]
)

INTEGER_MIN, INTEGER_MAX = -(2**63), 2**64 - 1
DEPTH_MAX = 64
_NAN = b"\xfb\x7f\xf8\x00\x00\x00\x00\x00\x00"


class CanonicalError(ValueError):
    """A value has no canonical form, or bytes are not in it."""


def _head(major: int, value: int) -> bytes:
    if value < 24:
        return bytes((major << 5 | value,))
    if value < 1 << 8:
        return bytes((major << 5 | 24, value))
    if value < 1 << 16:
        return struct.pack(">BH", major << 5 | 25, value)
    if value < 1 << 32:
        return struct.pack(">BI", major << 5 | 26, value)
    return struct.pack(">BQ", major << 5 | 27, value)


def encode(value: CanonicalValue) -> bytes:
    """Return the canonical bytes of `value`.

    Raises:
        CanonicalError: an integer beyond 64 bits, text that is not Unicode (a lone surrogate), nesting deeper
            than DEPTH_MAX, a key that is not a str, or a type outside `CanonicalValue`.
    """
    out: list[bytes] = []
    _encode(value, out, DEPTH_MAX)
    return b"".join(out)


def _encode(value: CanonicalValue, out: list[bytes], depth: int) -> None:
    if depth < 0:
        raise CanonicalError(f"nested deeper than {DEPTH_MAX}")
    # The types that nearly all values have, told by one comparison each: every row, every digest and every
    # record passes through here.
    kind = type(value)
    if kind is str:
        text = _utf8(cast("str", value))
        out += (_head(3, len(text)), text)
    elif kind is int:
        number = cast("int", value)
        if not INTEGER_MIN <= number <= INTEGER_MAX:
            raise CanonicalError("an integer needs more than 64 bits")
        out.append(_head(0, number) if number >= 0 else _head(1, -1 - number))
    elif kind is bytes:
        data = cast("bytes", value)
        out += (_head(2, len(data)), data)
    elif kind is list or kind is tuple:
        items = cast("Sequence[CanonicalValue]", value)
        out.append(_head(4, len(items)))
        for item in items:
            _encode(item, out, depth - 1)
    elif kind is dict:
        _encode_mapping(cast("Mapping[str, CanonicalValue]", value), out, depth)
    else:
        _encode_rest(value, out, depth)


def _encode_rest(value: CanonicalValue, out: list[bytes], depth: int) -> None:
    match value:
        case None:
            out.append(b"\xf6")
        case bool():
            out.append(b"\xf5" if value else b"\xf4")
        case float():
            # A NaN's payload bits would make equal values differ.
            out.append(_NAN if math.isnan(value) else struct.pack(">Bd", 0xFB, value))
        # Subclasses, such as enumerations, and other forms of the same.
        case int():
            _encode(int(value), out, depth)
        case str():
            _encode(str.__str__(value), out, depth)
        case bytes() | bytearray() | memoryview():
            _encode(bytes(value), out, depth)
        case Mapping():
            _encode_mapping(value, out, depth)
        case Sequence():
            _encode(list(value), out, depth)
        case _:
            raise CanonicalError(f"{type(value).__name__} has no canonical form")


def _encode_mapping(value: Mapping[str, CanonicalValue], out: list[bytes], depth: int) -> None:
    pairs = [(_encode_key(key), item) for key, item in value.items()]
    out.append(_head(5, len(pairs)))
    pairs.sort(key=_first)
    for name, item in pairs:
        out.append(name)
        _encode(item, out, depth - 1)


_first = itemgetter(0)


# Field names: few, and the same ones again and again.
@lru_cache(maxsize=1024)
def _encode_key(key: str) -> bytes:
    if not isinstance(key, str):
        raise CanonicalError(f"a key is {type(key).__name__}, not str")
    text = _utf8(key)
    return _head(3, len(text)) + text


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise CanonicalError("text is not valid Unicode") from error


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
