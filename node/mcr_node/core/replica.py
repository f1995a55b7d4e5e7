"""The rules of the log of one voter: what is persisted, what may be applied, what may be answered.

Pure: entries come in as events, effects go out as values, and the runner carries them out in order. The
order is the safety case: an entry is applied only after it is durable in the log, and answered only after
it is applied.

Positions, each at or behind the one before it:

    last >= persisted >= applied

With one voter the majority is the voter itself: an entry is committed once it is persisted (Raft §5.3).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mcr.model import LogIndex

PROPOSALS_PER_BATCH_MAX = 256
LOG_ENTRY_BYTES_MAX = 2 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One entry of the replicated log.

    Attributes:
        index: from 1, without gaps.
        term: of the leader that made it, from 1.
        data: an encoded command (`core.state.codec`), up to LOG_ENTRY_BYTES_MAX.
    """

    index: LogIndex
    term: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Persist:
    """Write these entries to the log and sync them; then report `persisted`."""

    entries: tuple[LogEntry, ...]


@dataclass(frozen=True, slots=True)
class Apply:
    """Apply the entries first..last to the view, in order; answer each as soon as it is applied."""

    first: LogIndex
    last: LogIndex


class Replica:
    """The log of one voter.

    A restarted voter starts a new term: entries that it persisted but did not answer are committed all the
    same, and a reader can tell from the term which run wrote an entry.
    """

    def __init__(self, *, last: LogIndex, last_term: int, applied: LogIndex) -> None:
        assert applied <= last, "the state is ahead of the log"
        self.term = last_term + 1
        self.last = last
        self.persisted = last
        self.applied = applied

    def recover(self) -> Apply | None:
        """Return what must be applied again at the start: what is in the log but not in the state."""
        if self.applied == self.last:
            return None
        return Apply(LogIndex(self.applied + 1), self.last)

    def propose(self, commands: Sequence[bytes]) -> Persist:
        """Give each command its place in the log."""
        assert 0 < len(commands) <= PROPOSALS_PER_BATCH_MAX
        entries = tuple(
            LogEntry(LogIndex(self.last + offset), self.term, data)
            for offset, data in enumerate(commands, start=1)
        )
        self.last = entries[-1].index
        return Persist(entries)

    def on_persisted(self, index: LogIndex) -> Apply:
        """Note that the log is durable up to `index`."""
        assert self.persisted < index <= self.last
        first = LogIndex(self.persisted + 1)
        self.persisted = index
        return Apply(first, index)

    def on_applied(self, index: LogIndex) -> None:
        """Note that the view holds the effects of every entry up to `index`."""
        assert index == self.applied + 1, "entries are applied one by one, in order"
        assert index <= self.persisted, "only durable entries are applied"
        self.applied = index
