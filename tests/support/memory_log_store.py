"""`ports.LogStore` in memory, for worlds that have no disk: writes that were not synced are lost at a crash.

log.write(entries, hard_state)      # log.unsynced == 1
log.crash(kept=0)                   # as if it had never been; kept=1 would have torn nothing off
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mcr.errors import CorruptStoreError
from mcr.model import LogIndex
from mcr_node.core.entry import LOG_ENTRY_BYTES_MAX
from mcr_node.ports import HardState, LogEntry, StorageFailure


@dataclass
class _Content:
    entries: dict[int, LogEntry] = field(default_factory=dict)
    floor: tuple[LogIndex, int] = (LogIndex(0), 0)
    last: LogIndex = LogIndex(0)  # noqa: RUF009 - a number
    hard: HardState = HardState()  # noqa: RUF009 - frozen

    def term(self, index: LogIndex) -> int:
        return self.floor[1] if index == self.floor[0] else self.entries[index].term

    def write(self, entries: Sequence[LogEntry], hard: HardState) -> None:
        if entries:
            for index in range(entries[0].index, self.last + 1):
                del self.entries[index]
            self.entries |= {entry.index: entry for entry in entries}
            self.last = entries[-1].index
        self.hard = hard

    def compact(self, floor: tuple[LogIndex, int]) -> None:
        for index in range(self.floor[0] + 1, floor[0] + 1):
            del self.entries[index]
        self.floor = floor
        self.hard = HardState(self.hard.term, self.hard.vote, max(self.hard.commit, floor[0]))

    def reset(self, place: tuple[LogIndex, int], hard: HardState) -> None:
        self.entries.clear()
        self.floor = place
        self.last = place[0]
        self.hard = hard


class MemoryLogStore:
    """Two contents: as it is, and as it is on the medium; what lies between is a list of writes."""

    def __init__(self) -> None:
        self._now = _Content()
        self._durable = _Content()
        self._pending: list[Callable[[_Content], None]] = []
        self._damaged: set[int] = set()
        # Set by a test: the next sync fails, and everything after it.
        self.sync_fails = False
        self._failed = False

    @property
    def unsynced(self) -> int:
        """How many writes a crash could lose."""
        return len(self._pending)

    def crash(self, kept: int = 0) -> None:
        """Go on as after power loss, with the first `kept` of the unsynced writes."""
        for change in self._pending[:kept]:
            change(self._durable)
        self._pending.clear()
        durable = self._durable
        self._now = _Content(dict(durable.entries), durable.floor, durable.last, durable.hard)
        self._failed = self.sync_fails = False

    def write(self, entries: Sequence[LogEntry], hard_state: HardState | None = None) -> None:
        """See `ports.LogStore`."""
        self._refuse_after_failure()
        now = self._now
        hard = self._next_hard(hard_state)
        last, term = now.last, self.last_term()
        if entries:
            first = entries[0].index
            assert now.hard.commit < first <= now.last + 1, "entries follow each other"
            last, term = LogIndex(first - 1), now.term(LogIndex(first - 1))
        for entry in entries:
            assert entry.index == last + 1, "entries follow each other"
            assert entry.term >= max(1, term), "terms begin with 1 and never go back"
            assert len(entry.data) <= LOG_ENTRY_BYTES_MAX, "a command is bounded where it is made"
            last, term = entry.index, entry.term
        assert term <= hard.term
        assert hard.commit <= last
        kept = tuple(entries)
        self._do(lambda content: content.write(kept, hard))

    def sync(self) -> None:
        """See `ports.LogStore`."""
        self._refuse_after_failure()
        if self.sync_fails:
            self._failed = True
            raise StorageFailure("memory: the sync failed")
        for change in self._pending:
            change(self._durable)
        self._pending.clear()

    def append(self, entries: Sequence[LogEntry]) -> None:
        """See `ports.LogStore`."""
        if not entries:
            return
        assert entries[0].index == self._now.last + 1, "entries follow each other"
        term, hard = entries[-1].term, self._now.hard
        self.write(
            entries, HardState(term, hard.vote if term == hard.term else 0, LogIndex(entries[-1].index))
        )
        self.sync()

    def hard_state(self) -> HardState:
        """See `ports.LogStore`."""
        return self._now.hard

    def read(self, first: LogIndex, last: LogIndex, *, bytes_max: int) -> list[LogEntry]:
        """See `ports.LogStore`."""
        if last < first:
            return []
        assert self._now.floor[0] < first, "compacted away"
        assert last <= self._now.last, "beyond the end"
        taken: list[LogEntry] = []
        for index in range(first, last + 1):
            entry = self._entry(index)
            bytes_max -= len(entry.data)
            if taken and bytes_max < 0:
                break
            taken.append(entry)
        return taken

    def _entry(self, index: int) -> LogEntry:
        if index in self._damaged:
            raise CorruptStoreError("memory", f"entry {index} does not match its checksum")
        return self._now.entries[index]

    def term(self, index: LogIndex) -> int:
        """See `ports.LogStore`."""
        assert self._now.floor[0] <= index <= self._now.last
        return self._now.floor[1] if index == self._now.floor[0] else self._entry(index).term

    def bounds(self) -> tuple[LogIndex, LogIndex]:
        """See `ports.LogStore`."""
        return LogIndex(self._now.floor[0] + 1), self._now.last

    def last_term(self) -> int:
        """See `ports.LogStore`."""
        return self._now.term(self._now.last)

    def compact(self, through: LogIndex) -> None:
        """See `ports.LogStore`."""
        self._refuse_after_failure()
        if through <= self._now.floor[0]:
            return
        assert through <= self._now.last, "beyond the end"
        floor = (through, self.term(through))
        self._do(lambda content: content.compact(floor))
        self.sync()

    def reset(self, index: LogIndex, term: int, hard_state: HardState | None = None) -> None:
        """See `ports.LogStore`."""
        self._refuse_after_failure()
        hard = self._next_hard(hard_state)
        if hard.term < term:
            hard = HardState(term)
        assert index > self._now.floor[0], "a snapshot is ahead of the one before"
        assert index >= hard.commit, "a snapshot never takes back what is committed"
        hard = HardState(hard.term, hard.vote, index)
        self._do(lambda content: content.reset((index, term), hard))
        self.sync()

    def damage(self, index: int) -> None:
        """Make an entry unreadable."""
        self._damaged.add(index)

    def close(self) -> None:
        """See `ports.LogStore`; what is kept survives, as on a disk."""
        if not self._failed:
            self.sync()

    def _do(self, change: Callable[[_Content], None]) -> None:
        change(self._now)
        self._pending.append(change)

    def _next_hard(self, wanted: HardState | None) -> HardState:
        known = self._now.hard
        if wanted is None:
            return known
        assert wanted.may_follow(known), f"{wanted} takes back {known}"
        return HardState(wanted.term, wanted.vote, max(wanted.commit, known.commit))

    def _refuse_after_failure(self) -> None:
        if self._failed:
            raise StorageFailure("memory: an earlier sync failed")
