"""Finding the frames of a segment again, also after a damaged stretch."""

from collections.abc import Iterator

from mcr.errors import StoreFormatError
from mcr.model import MIB
from mcr.values import dataclass
from mcr_node.storage.disk import Disk, Handle, UnreadableError
from mcr_node.storage.frames import (
    HEADER_BYTES_MAX,
    MAGIC,
    FrameError,
    FrameHeader,
    check_payload,
    parse_header,
    plain_of,
)

SEARCH_BYTES = MIB
# What a file system reads and loses at a time.
PAGE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Found:
    """A whole frame in a segment."""

    offset: int
    header: FrameHeader
    payload: bytes


@dataclass(frozen=True, slots=True)
class Stretch:
    """Bytes of a segment that are no whole frame: damaged, torn, or never written.

    Attributes:
        header: of the frame that starts there, where that much is readable.
    """

    offset: int
    length_bytes: int
    header: FrameHeader | None
    reason: str

    @property
    def end(self) -> int:
        """The offset after its last byte."""
        return self.offset + self.length_bytes


def scan(disk: Disk, handle: Handle, start: int, end: int) -> Iterator[Found | Stretch]:
    """Yield what stands between two offsets, in order and without gaps; `start` must be where a frame starts.

    After a damaged stretch the next frame is where the damaged one's header says or, failing that, at the
    next valid header. Bytes found by such a search may be part of a payload that merely looks like a frame,
    so from there on a frame counts only if its bytes hash to its id.

    Raises:
        StoreFormatError: a newer release wrote frames here.
        FailedError: the file cannot be read for a reason that lies elsewhere.
    """
    offset, sure = start, True
    while offset < end:
        header = None
        try:
            header = _read_header(disk, handle, offset, end)
            payload = disk.pread(handle, header.payload_bytes, offset + header.header_bytes)
            check_payload(header, payload)
            if not sure:
                plain_of(header, payload)
        except (FrameError, UnreadableError) as error:
            following = _resume_at(disk, handle, offset, end, header)
            sure = sure and header is not None and following == offset + header.frame_bytes
            yield Stretch(offset, following - offset, header, str(error))
            offset = following
        else:
            yield Found(offset, header, payload)
            offset += header.frame_bytes


def _read_header(disk: Disk, handle: Handle, offset: int, end: int) -> FrameHeader:
    try:
        header = parse_header(disk.pread(handle, min(HEADER_BYTES_MAX, end - offset), offset))
    except StoreFormatError as error:
        raise StoreFormatError(str(handle.path), error.found, error.supported) from error
    if offset + header.frame_bytes > end:
        raise FrameError("it ends within its payload")
    return header


def _resume_at(disk: Disk, handle: Handle, offset: int, end: int, header: FrameHeader | None) -> int:
    if header is not None:
        following = offset + header.frame_bytes
        if following == end:
            return end
        try:
            _read_header(disk, handle, following, end)
        except (FrameError, UnreadableError):
            pass
        else:
            return following
    return _search(disk, handle, offset + 1, end)


def _search(disk: Disk, handle: Handle, start: int, end: int) -> int:
    """Return the offset of the next valid header, or `end`."""
    while start < end:
        window = _read_what_can_be(disk, handle, min(SEARCH_BYTES, end - start), start)
        at = window.find(MAGIC)
        while at >= 0:
            try:
                parse_header(window[at : at + HEADER_BYTES_MAX])
            except (FrameError, StoreFormatError):
                at = window.find(MAGIC, at + 1)
            else:
                return start + at
        # Windows overlap, so that a header on a border is whole in one of them.
        start += SEARCH_BYTES - HEADER_BYTES_MAX
    return end


def _read_what_can_be(disk: Disk, handle: Handle, length_bytes: int, offset: int) -> bytes:
    """Return bytes with zeros for what the medium cannot give back."""
    try:
        return disk.pread(handle, length_bytes, offset)
    except UnreadableError:
        if length_bytes <= PAGE_BYTES:
            return bytes(length_bytes)
    pieces = range(0, length_bytes, PAGE_BYTES)
    return b"".join(
        _read_what_can_be(disk, handle, min(PAGE_BYTES, length_bytes - at), offset + at) for at in pieces
    )
