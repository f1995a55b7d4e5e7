"""Laws of reading the directory of a zip file."""

import pytest

from mcr.cutting.ranges import Reader
from mcr.cutting.spans import MalformedError
from mcr.cutting.zip_directory import Member, data_offset, members
from tests.unit.client.cutting import samples


def reader(data: bytes) -> Reader:
    return Reader(samples.reading(data), len(data))


def test_stored_members_are_where_the_directory_says() -> None:
    contents = {"a": b"first", "folder/b": samples.noise(500, 1), "empty": b"", "packed": bytes(1000)}
    data = samples.zip_of(contents, compressed=["packed"], align=64)

    found = list(members(reader(data)))

    assert [member.name for member in found] == list(contents)
    assert [member.length_bytes for member in found] == [len(content) for content in contents.values()]
    assert [member.is_stored for member in found] == [True, True, True, False]
    for member in found[:3]:
        offset = data_offset(reader(data), member)
        assert data[offset : offset + member.length_bytes] == contents[member.name]


def test_sizes_of_zip64_are_understood() -> None:
    content = samples.noise(100, 1)
    data = samples.zip64_of("archive/data/0", content)

    (member,) = members(reader(data))

    assert member == Member("archive/data/0", 0, 100, is_stored=True)
    offset = data_offset(reader(data), member)
    assert data[offset : offset + 100] == content


def test_archive_with_a_comment_is_understood() -> None:
    data = samples.zip_of({"a": b"first"})
    commented = data[:-2] + b"\x05\x00hello"

    assert [member.name for member in members(reader(commented))] == ["a"]


def test_exactly_65535_members_need_no_zip64() -> None:
    # The count alone does not tell: without a locator it is meant as it stands, and here it is a lie.
    data = bytearray(samples.zip_of({"a": b"first"}))
    data[-12:-10] = b"\xff\xff"

    with pytest.raises(MalformedError, match="too early"):
        list(members(reader(bytes(data))))


def test_encrypted_member_is_not_taken_for_plain_bytes() -> None:
    data = bytearray(samples.zip_of({"a": b"first"}))
    at = data.find(b"PK\x01\x02")
    data[at + 8] |= 1

    assert [member.is_stored for member in members(reader(bytes(data)))] == [False]


@pytest.mark.parametrize(
    ("at_signature", "skip", "value"),
    [
        (b"PK\x05\x06", 0, 0),  # no end of directory
        (b"PK\x05\x06", 16, 1),  # the directory elsewhere
        (b"PK\x05\x06", 10, 2),  # more members than there are
        (b"PK\x05\x06", 15, 0x7F),  # a directory larger than the file
        (b"PK\x01\x02", 0, 0),  # a damaged entry
        (b"PK\x01\x02", 28, 0xFF),  # a name longer than the directory
    ],
)
def test_damaged_directory_is_refused(at_signature: bytes, skip: int, value: int) -> None:
    data = bytearray(samples.zip_of({"a": b"first"}))
    data[data.find(at_signature) + skip] = value

    with pytest.raises(MalformedError):
        list(members(reader(bytes(data))))


def test_damaged_zip64_directory_is_refused() -> None:
    data = bytearray(samples.zip64_of("a", b"first"))
    data[data.find(b"PK\x06\x06")] = 0

    with pytest.raises(MalformedError, match="zip64"):
        list(members(reader(bytes(data))))


def test_directory_beyond_the_limit_is_not_read() -> None:
    data = bytearray(samples.zip64_of("a", b"first"))
    at = data.find(b"PK\x06\x06") + 32
    data[at : at + 8] = (1 << 40).to_bytes(8, "little")

    with pytest.raises(MalformedError, match="members in"):
        list(members(reader(bytes(data))))


@pytest.mark.parametrize(("offset", "length"), [(1, 5), (0, 1 << 40), (1 << 40, 5)])
def test_member_that_is_not_there_is_refused(offset: int, length: int) -> None:
    data = samples.zip_of({"a": b"first"})

    with pytest.raises(MalformedError):
        data_offset(reader(data), Member("a", offset, length, is_stored=True))
