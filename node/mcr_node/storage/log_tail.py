"""The newest entries of a log in memory, so that a leader sends what it wrote without reading it."""

from collections.abc import Sequence
from typing import Final

from mcr.model import MIB, LogIndex
from mcr_node.core.entry import LogEntry

TAIL_BYTES_MAX: Final = 16 * MIB
# What an entry costs besides its data: object, numbers and its place in the list, generously.
ENTRY_OVERHEAD_BYTES: Final = 200
# Cut back to this share at once: taking single entries off the front would move the whole list each time.
_SHARE_KEPT: Final = 0.75


class LogTail:
    """Entries without gaps up to the last of the log, bounded by bytes; may be empty. Not thread-safe."""

    def __init__(self, next_index: LogIndex, *, bytes_max: int = TAIL_BYTES_MAX) -> None:
        """Begin empty before `next_index`."""
        self._first: int = next_index
        self._entries: list[LogEntry] = []
        self._bytes = 0
        self._bytes_max = bytes_max

    def put(self, entries: Sequence[LogEntry]) -> None:
        """Put entries in place of all from the first of them on."""
        first = entries[0].index
        if first <= self._first:
            self._first, self._entries, self._bytes = first, [], 0
        else:
            assert first <= self._first + len(self._entries), "entries follow each other"
            self._bytes -= sum(map(_weight, self._entries[first - self._first :]))
            del self._entries[first - self._first :]
        self._entries.extend(entries)
        self._bytes += sum(map(_weight, entries))
        if self._bytes > self._bytes_max:
            self._shrink(int(self._bytes_max * _SHARE_KEPT))

    def forget(self, through: LogIndex) -> None:
        """Drop entries up to and including `through`."""
        self._drop(min(max(0, through + 1 - self._first), len(self._entries)))

    def get(self, index: LogIndex) -> LogEntry | None:
        """Return an entry, None if it is not here."""
        place = index - self._first
        return self._entries[place] if 0 <= place < len(self._entries) else None

    def read(self, first: LogIndex, last: LogIndex, bytes_max: int) -> list[LogEntry] | None:
        """Return entries as `LogStore.read` does, None if the first is not here."""
        place = first - self._first
        if not 0 <= place < len(self._entries):
            return None
        taken: list[LogEntry] = []
        for entry in self._entries[place : last + 1 - self._first]:
            bytes_max -= len(entry.data)
            if taken and bytes_max < 0:
                break
            taken.append(entry)
        return taken

    def _shrink(self, bytes_kept: int) -> None:
        count, freed = 0, 0
        while self._bytes - freed > bytes_kept:
            freed += _weight(self._entries[count])
            count += 1
        self._drop(count)

    def _drop(self, count: int) -> None:
        self._bytes -= sum(map(_weight, self._entries[:count]))
        del self._entries[:count]
        self._first += count


def _weight(entry: LogEntry) -> int:
    return len(entry.data) + ENTRY_OVERHEAD_BYTES
