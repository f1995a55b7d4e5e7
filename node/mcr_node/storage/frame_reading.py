"""Reading one chunk from where the index says that its frame stands."""

from collections.abc import Iterable

from mcr.model import ChunkId
from mcr_node.storage.chunk_index import Location
from mcr_node.storage.disk import Disk
from mcr_node.storage.encodings import Encoding
from mcr_node.storage.frames import FrameError, FrameHeader, check_payload, parse_header, plain_into, plain_of
from mcr_node.storage.segments import SegmentFiles


class FrameReader:
    """Reads frames and proves what they hold; any number of threads may do so at once.

    All methods raise FrameError where the frame is damaged or is another one, UnreadableError where the
    medium fails, FailedError where the reason lies elsewhere.
    """

    def __init__(self, disk: Disk, files: SegmentFiles) -> None:
        self._disk = disk
        self._files = files

    def expect(self, locations: Iterable[Location]) -> None:
        """Let the disk begin to read frames that are wanted soon, neighbours as one stretch."""
        segment, offset, end = 0, 0, 0
        for location in locations:
            if (location.segment, location.offset) != (segment, end):
                if end > offset:
                    self._files.read_ahead(segment, end - offset, offset)
                segment, offset = location.segment, location.offset
            end = location.end
        if end > offset:
            self._files.read_ahead(segment, end - offset, offset)

    def read(self, chunk_id: ChunkId, location: Location) -> bytes:
        """Return the plain bytes."""
        return plain_of(*self._read_frame(chunk_id, location))

    def read_into(self, chunk_id: ChunkId, location: Location, place: memoryview) -> int:
        """Return the chunk's length; its bytes are in `place` where that is as long."""
        if location.plain_bytes != place.nbytes:
            return len(self.read(chunk_id, location))
        if location.encoding is Encoding.RAW:
            self._read_raw(chunk_id, location, place)
        else:
            header, payload = self._read_frame(chunk_id, location)
            plain_into(header, payload, place)
        return place.nbytes

    def _read_frame(self, chunk_id: ChunkId, location: Location) -> tuple[FrameHeader, bytes]:
        with self._files.reading(location.segment) as handle:
            # Two reads, so that the payload arrives as the very object that is returned, without a copy.
            header = _parsed(
                self._disk.pread(handle, location.header_bytes, location.offset), chunk_id, location
            )
            return header, self._disk.pread(
                handle, header.payload_bytes, location.offset + header.header_bytes
            )

    def _read_raw(self, chunk_id: ChunkId, location: Location, place: memoryview) -> None:
        packed = bytearray(location.header_bytes)
        with self._files.reading(location.segment) as handle:
            count = self._disk.preadv(handle, (packed, place), location.offset)
        header = _parsed(packed, chunk_id, location)
        check_payload(header, place[: max(0, count - len(packed))])


def _parsed(packed: bytes | bytearray, chunk_id: ChunkId, location: Location) -> FrameHeader:
    header = parse_header(packed)
    if (header.chunk_id, Location.of(location.segment, location.offset, header)) != (chunk_id, location):
        raise FrameError("another frame stands in its place")
    return header
