"""Reading frames: what the disk is told of before it is asked."""

from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from mcr_node.storage.chunk_index import Location
from mcr_node.storage.disk import Disk
from mcr_node.storage.encodings import Encoding
from mcr_node.storage.frame_reading import FrameReader
from mcr_node.storage.segments import SegmentFiles


class Told:
    """Segment files that keep what they are told of."""

    def __init__(self) -> None:
        self.stretches: list[tuple[int, int, int]] = []

    def read_ahead(self, number: int, length_bytes: int, offset: int) -> None:
        self.stretches.append((number, offset, offset + length_bytes))


def told(locations: list[Location]) -> list[tuple[int, int, int]]:
    files = Told()
    FrameReader(Disk(), cast("SegmentFiles", files)).expect(locations)
    return files.stretches


def after(location: Location, payload_bytes: int) -> Location:
    return Location(location.segment, location.end, payload_bytes, payload_bytes, Encoding.RAW)


def test_neighbours_are_read_as_one_stretch() -> None:
    first = Location(1, 8, 100, 100, Encoding.RAW)
    second = after(first, 50)
    apart = Location(1, second.end + 1, 10, 10, Encoding.RAW)
    elsewhere = Location(2, apart.end, 10, 10, Encoding.RAW)

    assert told([first, second, apart, elsewhere]) == [
        (1, first.offset, second.end),
        (1, apart.offset, apart.end),
        (2, elsewhere.offset, elsewhere.end),
    ]
    assert told([]) == []


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 20), st.integers(0, 5)), max_size=20))
def test_every_byte_of_every_frame_is_told_and_no_other(places: list[tuple[int, int, int]]) -> None:
    locations = [
        Location(segment, place * 10, payload_bytes, payload_bytes, Encoding.RAW)
        for segment, place, payload_bytes in places
    ]

    told_bytes = {(segment, at) for segment, begin, end in told(locations) for at in range(begin, end)}

    assert told_bytes == {(one.segment, at) for one in locations for at in range(one.offset, one.end)}
