"""`ports.LogStore` in memory: the smallest thing that keeps its promises."""

from collections.abc import Sequence

from mcr.errors import CorruptStoreError
from mcr.model import LogIndex
from mcr_node.ports import LOG_ENTRY_BYTES_MAX, LogEntry


class MemoryLogStore:
    """A log that is gone with the process; `damage` stands in for what disks do."""

    def __init__(self) -> None:
        self._entries: dict[int, LogEntry] = {}
        self._floor = 0
        self._last = 0
        self._last_term = 0
        self._damaged: set[int] = set()

    def append(self, entries: Sequence[LogEntry]) -> None:
        """See `ports.LogStore`."""
        for entry in entries:
            assert entry.index == self._last + 1, "entries follow each other"
            assert entry.term >= self._last_term, "terms never go back"
            assert len(entry.data) <= LOG_ENTRY_BYTES_MAX, "a command is bounded where it is made"
            self._entries[entry.index] = entry
            self._last, self._last_term = entry.index, entry.term

    def read(self, first: LogIndex, last: LogIndex) -> list[LogEntry]:
        """See `ports.LogStore`."""
        assert self._floor < first, "compacted away"
        assert last <= self._last, "beyond the end"
        if self._damaged.intersection(range(first, last + 1)):
            raise CorruptStoreError("memory", "an entry does not match its checksum")
        return [self._entries[index] for index in range(first, last + 1)]

    def bounds(self) -> tuple[LogIndex, LogIndex]:
        """See `ports.LogStore`."""
        return LogIndex(self._floor + 1), LogIndex(self._last)

    def last_term(self) -> int:
        """Return the term of the last entry, compacted or not; 0 for a new log."""
        return self._last_term

    def compact(self, through: LogIndex) -> None:
        """See `ports.LogStore`."""
        if through <= self._floor:
            return
        assert through <= self._last, "beyond the end"
        for index in range(self._floor + 1, through + 1):
            del self._entries[index]
        self._floor = through

    def damage(self, index: int) -> None:
        """Make an entry unreadable."""
        self._damaged.add(index)

    def close(self) -> None:
        """See `ports.LogStore`; what is kept survives, as on a disk."""
