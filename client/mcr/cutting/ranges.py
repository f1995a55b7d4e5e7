"""Reading ranges of a file that may lie about itself: no read leaves the file, small reads share a page."""

from mcr.cutting.spans import MalformedError, ReadAt
from mcr.model import KIB, MIB

# A jump over a tensor's payload costs one small page; a long header read in order soon comes in big ones.
PAGE_BYTES_MIN = 4 * KIB
PAGE_BYTES_MAX = 1 * MIB
# Up to here a step forward counts as reading in order: over a long string, not over a tensor.
SKIP_BYTES_MAX = 64 * KIB


class Reader:
    """A file seen through `ReadAt`, with one page kept.

    Attributes:
        size_bytes: length of the file; nothing behind it is ever asked for.
    """

    def __init__(self, read_at: ReadAt, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._read_at = read_at
        self._page = b""
        self._page_offset = 0
        self._page_bytes = PAGE_BYTES_MIN

    def at(self, offset_bytes: int, length_bytes: int) -> bytes:
        """Return exactly `length_bytes` bytes from `offset_bytes`.

        Raises:
            MalformedError: the range leaves the file, or the file has become shorter.
        """
        start = offset_bytes - self._page_offset
        if start < 0 or start + length_bytes > len(self._page):
            self._turn_to(offset_bytes, length_bytes)
            start = 0
        return self._page[start : start + length_bytes]

    def page(self, offset_bytes: int, length_bytes: int) -> tuple[bytes, int]:
        """Return a stretch that holds at least `length_bytes` from `offset_bytes`, and its own offset.

        Raises:
            MalformedError: as `at`.
        """
        start = offset_bytes - self._page_offset
        if start < 0 or start + length_bytes > len(self._page):
            self._turn_to(offset_bytes, length_bytes)
        return self._page, self._page_offset

    def integer(self, offset_bytes: int, width_bytes: int) -> int:
        """Return the unsigned little-endian integer at `offset_bytes`.

        Raises:
            MalformedError: as `at`.
        """
        return int.from_bytes(self.at(offset_bytes, width_bytes), "little")

    def _turn_to(self, offset_bytes: int, length_bytes: int) -> None:
        if offset_bytes < 0 or length_bytes < 0 or offset_bytes + length_bytes > self.size_bytes:
            raise MalformedError(f"{length_bytes} bytes at {offset_bytes} are not in the file")
        skipped_bytes = offset_bytes - (self._page_offset + len(self._page))
        is_near = self._page_offset <= offset_bytes and skipped_bytes <= SKIP_BYTES_MAX
        self._page_bytes = min(self._page_bytes * 2, PAGE_BYTES_MAX) if is_near else PAGE_BYTES_MIN
        wanted = min(max(length_bytes, self._page_bytes), self.size_bytes - offset_bytes)
        page = self._read_at(offset_bytes, wanted)
        if len(page) < length_bytes:
            raise MalformedError(f"{length_bytes} bytes at {offset_bytes} could not be read")
        self._page, self._page_offset = page, offset_bytes
