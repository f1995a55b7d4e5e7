"""Some chunks of one large file on their way to disk, in memory as they will lie in the file.

Each chunk is read right to where it is written from: no copy in between, and none to line it up with pages,
which O_DIRECT needs (`mcr.direct_writes`).
"""

from collections.abc import Iterator, Sequence

from mcr.direct_writes import ALIGNMENT_BYTES, aligned_memory
from mcr.manifest import Span
from mcr.model import KIB, ChunkId
from mcr.values import dataclass

# Zeros shorter than this are written, not left out: a hole saves whole pages only.
HOLE_BYTES_MIN = 64 * KIB


def batch_memory(length_bytes: int) -> memoryview:
    """Return memory for batches of up to so many bytes, wherever in their file they begin."""
    return aligned_memory(length_bytes + ALIGNMENT_BYTES)


@dataclass(frozen=True, slots=True)
class Batch:
    """Chunks in file order, and the memory for all that lies between the first and the last.

    Attributes:
        memory: see `batch_memory`.
    """

    spans: Sequence[Span]
    memory: memoryview

    def places(self) -> list[memoryview]:
        """Return where the bytes of each chunk go."""
        return [self._stretch(span.offset_bytes, span.length_bytes) for span in self.spans]

    def firsts(self) -> dict[ChunkId, memoryview]:
        """Return where each chunk goes the first time; it is fetched once, however often it stands there."""
        found: dict[ChunkId, memoryview] = {}
        for span, place in zip(self.spans, self.places(), strict=True):
            found.setdefault(span.id, place)
        return found

    def repeat(self) -> None:
        """Copy what lies at the first places of the chunks to all others; those are as long."""
        firsts = self.firsts()
        for span, place in zip(self.spans, self.places(), strict=True):
            place[:] = firsts[span.id]

    def _stretch(self, offset_bytes: int, length_bytes: int) -> memoryview:
        start = offset_bytes - self.spans[0].offset_bytes // ALIGNMENT_BYTES * ALIGNMENT_BYTES
        assert start + length_bytes <= len(self.memory), "a batch has an end"
        return self.memory[start : start + length_bytes]

    def runs(self, *, leave_holes: bool) -> Iterator[tuple[int, memoryview]]:
        """Yield what to write, and where in the file: the chunks, joined where they adjoin.

        Args:
            leave_holes: without long runs of zeros; the file has none of these bytes yet.
        """
        start = end = self.spans[0].offset_bytes
        for span, place in zip(self.spans, self.places(), strict=True):
            is_hole = leave_holes and _is_zeros(place)
            if is_hole or span.offset_bytes != end:
                if end > start:
                    yield start, self._stretch(start, end - start)
                start = span.offset_bytes + (span.length_bytes if is_hole else 0)
            end = span.offset_bytes + span.length_bytes
        if end > start:
            yield start, self._stretch(start, end - start)


def _is_zeros(data: memoryview) -> bool:
    # Almost all data fails at its first bytes, so the copy and the full count are paid for zeros only.
    return len(data) >= HOLE_BYTES_MIN and not any(data[:64]) and bytes(data).count(0) == len(data)
