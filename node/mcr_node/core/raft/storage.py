"""What the core reads of stable storage, and one that lives in memory.

The core never writes: it hands out what must be written (`node.Ready`), and reads back only what it was told
is durable. Reading must be fast: the core asks for the tail of the log while it decides.
"""

from typing import Protocol

from mcr_node.core.raft.errors import CompactedError, SnapshotUnavailableError, UnavailableError
from mcr_node.core.raft.messages import ConfState, Entry, HardState, Snapshot, entry_bytes


class LogStorage(Protocol):
    """The durable log as the core reads it.

    Invariants: indexes are dense; the term at `first_index() - 1` is known (it is the snapshot's); an append
    at index i discards all that was at i and beyond.
    """

    def initial_state(self) -> tuple[HardState, ConfState]:
        """Return hard state and configuration as of the last applied index, at start."""
        ...

    def first_index(self) -> int:
        """Return the first index that `entries` can give; the snapshot's plus one where the log is empty."""
        ...

    def last_index(self) -> int:
        """Return the last index; `first_index() - 1` where the log is empty."""
        ...

    def term(self, index: int) -> int:
        """Return the term of the entry at `index`, from `first_index() - 1` to `last_index()`.

        Raises:
            CompactedError: `index` is too small.
            UnavailableError: `index` is too large.
        """
        ...

    def entries(self, low: int, high: int, bytes_max: int) -> tuple[Entry, ...]:
        """Return entries from `low` up to but not including `high`: at least one, then as many as fit.

        Raises:
            CompactedError: `low` is too small.
            UnavailableError: `high` is too large.
        """
        ...

    def snapshot(self) -> Snapshot:
        """Return a snapshot at or behind the applied index, for a peer that is too far back.

        Raises:
            SnapshotUnavailableError: one is being made; the core asks again.
        """
        ...


class MemoryStorage:
    """A log in memory, for simulations and tests: it keeps what it is given, and forgets all at the end."""

    __slots__ = ("_entries", "_hard_state", "_snapshot", "_start_index", "_start_term")

    def __init__(self, conf_state: ConfState | None = None) -> None:
        self._hard_state = HardState()
        self._snapshot = Snapshot(conf_state=conf_state or ConfState())
        # The place before the first entry, with its term.
        self._start_index = 0
        self._start_term = 0
        self._entries: list[Entry] = []

    def initial_state(self) -> tuple[HardState, ConfState]:
        """Return the hard state last set, and the configuration of the last snapshot."""
        return self._hard_state, self._snapshot.conf_state

    def first_index(self) -> int:
        """See `LogStorage`."""
        return self._start_index + 1

    def last_index(self) -> int:
        """See `LogStorage`."""
        return self._start_index + len(self._entries)

    def term(self, index: int) -> int:
        """See `LogStorage`."""
        if index < self._start_index:
            raise CompactedError(f"term of {index}, the log starts at {self._start_index + 1}")
        if index == self._start_index:
            return self._start_term
        if index > self.last_index():
            raise UnavailableError(f"term of {index}, the log ends at {self.last_index()}")
        return self._entries[index - self._start_index - 1].term

    def entries(self, low: int, high: int, bytes_max: int) -> tuple[Entry, ...]:
        """See `LogStorage`."""
        if low <= self._start_index:
            raise CompactedError(f"entries from {low}, the log starts at {self._start_index + 1}")
        if high > self.last_index() + 1:
            raise UnavailableError(f"entries to {high}, the log ends at {self.last_index()}")
        first = low - self._start_index - 1
        return limit_entries(self._entries, first, first + high - low, bytes_max)

    def snapshot(self) -> Snapshot:
        """See `LogStorage`."""
        if not self._snapshot.index:
            raise SnapshotUnavailableError("none was made yet")
        return self._snapshot

    def set_hard_state(self, hard_state: HardState) -> None:
        """Keep `hard_state`."""
        self._hard_state = hard_state

    def append(self, entries: tuple[Entry, ...]) -> None:
        """Keep `entries`; whatever was at their first index and beyond is gone."""
        if not entries:
            return
        first = entries[0].index
        if first > self.last_index() + 1:
            raise UnavailableError(f"append at {first} leaves a gap after {self.last_index()}")
        skip = max(self._start_index + 1 - first, 0)
        if skip >= len(entries):
            return
        del self._entries[first + skip - self._start_index - 1 :]
        self._entries.extend(entries[skip:])

    def apply_snapshot(self, snapshot: Snapshot) -> None:
        """Start the log anew after `snapshot`; an older one than we have changes nothing."""
        if snapshot.index <= self._snapshot.index:
            return
        self._snapshot = snapshot
        self._start_index, self._start_term = snapshot.index, snapshot.term
        self._entries = []

    def make_snapshot(self, index: int, conf_state: ConfState, data: bytes) -> Snapshot:
        """Remember a snapshot of the state machine at `index`, and return it; the log stays as it is."""
        if index < self._snapshot.index:
            raise CompactedError(f"a snapshot at {index}, behind the one at {self._snapshot.index}")
        self._snapshot = Snapshot(index, self.term(index), conf_state, data)
        return self._snapshot

    def compact(self, index: int) -> None:
        """Drop entries up to and including `index`.

        Raises:
            CompactedError: they are gone already.
            UnavailableError: the log does not reach that far.
        """
        if index <= self._start_index:
            raise CompactedError(f"compact to {index}, the log starts at {self._start_index + 1}")
        term = self.term(index)
        del self._entries[: index - self._start_index]
        self._start_index, self._start_term = index, term


def limit_entries(entries: list[Entry], first: int, end: int, bytes_max: int) -> tuple[Entry, ...]:
    """Return `entries[first:end]` cut where the sum of sizes would pass `bytes_max`, but one at the least."""
    total = 0
    for position in range(first, end):
        total += entry_bytes(entries[position])
        if total > bytes_max and position > first:
            end = position
            break
    return tuple(entries[first:end])
