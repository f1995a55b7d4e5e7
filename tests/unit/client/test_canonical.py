"""One byte string for each value (RFC 8949 §4.2.1), as an encoder says that was written from the RFC."""

import math
import struct
from collections.abc import Mapping, Sequence
from enum import IntEnum, StrEnum

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcr import canonical
from mcr.canonical import DEPTH_MAX, INTEGER_MAX, INTEGER_MIN, CanonicalError, CanonicalValue

keys = st.text(max_size=30)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(INTEGER_MIN, INTEGER_MAX)
    | st.floats()
    | st.text(max_size=40)
    | st.binary(max_size=300)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=30) | st.dictionaries(keys, inner, max_size=30),
    max_leaves=60,
)


def head(major: int, value: int) -> bytes:
    for low, (limit, layout) in enumerate(
        ((1 << 8, ">BB"), (1 << 16, ">BH"), (1 << 32, ">BI"), (1 << 64, ">BQ")), 24
    ):
        if value < 24:
            return bytes((major << 5 | value,))
        if value < limit:
            return struct.pack(layout, major << 5 | low, value)
    raise AssertionError(value)


def by_the_book(value: CanonicalValue) -> bytes:
    match value:
        case None | bool():
            return {None: b"\xf6", True: b"\xf5", False: b"\xf4"}[value]
        case int():
            return head(0, value) if value >= 0 else head(1, -1 - value)
        case float():
            return b"\xfb" + (
                bytes.fromhex("7ff8000000000000") if math.isnan(value) else struct.pack(">d", value)
            )
        case str():
            return head(3, len(value.encode())) + value.encode()
        case bytes():
            return head(2, len(value)) + value
        case Sequence():
            return head(4, len(value)) + b"".join(map(by_the_book, value))
        case Mapping():
            pairs = sorted((by_the_book(key), by_the_book(item)) for key, item in value.items())
            return head(5, len(pairs)) + b"".join(key + item for key, item in pairs)


@given(values)
def test_every_value_has_the_bytes_that_the_rfc_gives_it_and_comes_back(value: CanonicalValue) -> None:
    data = canonical.encode(value)

    assert data == by_the_book(value)
    assert by_the_book(canonical.decode(data)) == data
    assert by_the_book(canonical.decode_own(data)) == data


@given(st.binary(max_size=60))
# One less than the least integer that is written.
@example(b";\x80\x00\x00\x00\x00\x00\x00\x00")
def test_no_other_bytes_are_read_as_a_value(data: bytes) -> None:
    try:
        value = canonical.decode(data)
    except CanonicalError:
        return
    assert canonical.encode(value) == data


class Word(StrEnum):
    MAIN = "main"


class Number(IntEnum):
    SEVEN = 7


def test_subclasses_and_other_forms_are_written_as_what_they_extend() -> None:
    given_value: CanonicalValue = {
        "w": Word.MAIN,
        "n": Number.SEVEN,
        "t": (1, 2),
        "b": bytearray(b"x"),
        "m": memoryview(b"yz"),
    }

    assert canonical.encode(given_value) == by_the_book(
        {"w": "main", "n": 7, "t": [1, 2], "b": b"x", "m": b"yz"}
    )


def nested(depth: int, inside: CanonicalValue) -> CanonicalValue:
    for _ in range(depth):
        inside = [inside]
    return inside


@pytest.mark.parametrize("inside", [1, 1.5, math.nan, {"a": math.inf}])
def test_nesting_has_one_limit_whatever_is_inside(inside: CanonicalValue) -> None:
    depth = DEPTH_MAX - (1 if isinstance(inside, dict) else 0)
    data = canonical.encode(nested(depth, inside))

    assert by_the_book(canonical.decode(data)) == data
    with pytest.raises(CanonicalError, match="nested deeper"):
        canonical.encode(nested(depth + 1, inside))


@pytest.mark.parametrize(
    "value",
    [
        INTEGER_MAX + 1,
        INTEGER_MIN - 1,
        [math.nan, INTEGER_MAX + 1],
        "\ud800",
        {"\ud800": 1},
        {"a": math.nan, "\ud800": 1},
        {1: 2},
        {1: math.nan},
        object(),
        [math.nan, object()],
        {"a": {1, 2}},
    ],
)
def test_what_has_no_canonical_form_is_refused(value: CanonicalValue) -> None:
    with pytest.raises(CanonicalError):
        canonical.encode(value)


def test_own_bytes_that_were_cut_are_refused() -> None:
    data = canonical.encode({"a": [1, 2, "three"]})

    for length in range(len(data)):
        with pytest.raises(CanonicalError):
            canonical.decode_own(data[:length])


@given(st.lists(st.tuples(st.binary(max_size=300), st.none() | st.binary(max_size=300)), max_size=30))
def test_pairs_have_the_bytes_that_any_list_of_them_has(pairs: list[tuple[bytes, bytes | None]]) -> None:
    assert canonical.encode_pairs(pairs) == canonical.encode(pairs)


@given(values)
def test_what_was_put_in_order_has_the_same_bytes(value: CanonicalValue) -> None:
    try:
        ordered = canonical.ordered(value)
    except CanonicalError:
        return
    assert canonical.encode_ordered(ordered) == canonical.encode(value)
