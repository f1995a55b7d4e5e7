"""Disks that forget at a power cut what was not synced: the log of a node, and its state.

A write is seen by its own node at once; a crash keeps some first part of the unsynced writes. Each write is
atomic, as a batch of the database is; what the real stores do with torn bytes is tested with them.
"""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field, replace

from mcr.model import LogIndex
from mcr_node.core.members import Membership, decode_membership, encode_membership
from mcr_node.core.raft.errors import CompactedError, SnapshotUnavailableError, UnavailableError
from mcr_node.core.raft.messages import ConfState, Entry, HardState, Snapshot
from mcr_node.core.raft.storage import limit_entries
from mcr_node.core.state.digest import DIGEST_START
from mcr_node.core.state.memory import MemoryView
from mcr_node.core.state.view import View
from mcr_node.ports import StatePosition

Rows = tuple[tuple[bytes, bytes], ...]
Changes = Sequence[tuple[bytes, bytes | None]]


@dataclass(slots=True)
class LogContent:
    """What a log holds: hard state, the place before the first entry, and the entries."""

    hard: HardState = field(default_factory=HardState)
    floor: int = 0
    floor_term: int = 0
    entries: list[Entry] = field(default_factory=list)

    @property
    def last(self) -> int:
        return self.floor + len(self.entries)

    def term(self, index: int) -> int:
        assert self.floor <= index <= self.last
        return self.floor_term if index == self.floor else self.entries[index - self.floor - 1].term

    def holds(self, index: int, term: int) -> bool:
        """Say whether the entry is here, or is in the state that the log follows."""
        return index <= self.floor or (index <= self.last and self.term(index) == term)

    def write(self, entries: Sequence[Entry], hard: HardState | None) -> None:
        if entries:
            first = entries[0].index
            assert self.floor < first <= self.last + 1, "entries follow each other"
            assert first > self.hard.commit, "what is committed is never overwritten"
            del self.entries[first - self.floor - 1 :]
            self.entries.extend(entries)
        if hard is not None:
            assert hard.term >= self.hard.term, "terms never go back"
            assert hard.term > self.hard.term or self.hard.vote in (0, hard.vote), "a vote is cast once"
            assert hard.commit <= self.last, "what is committed is held"
            self.hard = replace(hard, commit=max(hard.commit, self.hard.commit))
        assert self.entries[-1].term <= self.hard.term if self.entries else True, "a term is known before it"

    def reset(self, index: int, term: int, hard: HardState | None) -> None:
        kept = hard or self.hard
        assert kept.term >= self.hard.term, "terms never go back"
        assert index >= self.hard.commit, "a snapshot never takes back what is committed"
        self.hard = HardState(max(kept.term, term), kept.vote if kept.term >= term else 0, index)
        self.floor, self.floor_term, self.entries = index, term, []


class LogDisk:
    """`core.raft.storage.LogStorage`; survives its node."""

    def __init__(self, state: "StateDisk", conf_at_start: ConfState) -> None:
        applied, term = state.applied(), state.applied_term()
        self.durable = LogContent(HardState(term, 0, applied), applied, term)
        self.now = LogContent(HardState(term, 0, applied), applied, term)
        self._conf_at_start = conf_at_start
        self._pending: list[Callable[[LogContent], None]] = []
        self._state = state
        self.make_snapshot: Callable[[], StatePosition | None] = lambda: None

    # ---- writing ----

    def write(self, entries: Sequence[Entry], hard: HardState | None) -> None:
        def work(content: LogContent) -> None:
            content.write(entries, hard)

        work(self.now)
        self._pending.append(work)

    def reset(self, index: int, term: int, hard: HardState | None) -> None:
        """Start anew after a snapshot; durable at once."""
        self.sync()
        for content in (self.now, self.durable):
            content.reset(index, term, hard)

    def compact(self, through: int) -> None:
        """Forget the entries up to `through`; durable at once."""
        self.sync()
        for content in (self.now, self.durable):
            assert content.floor < through <= content.last
            content.hard = replace(content.hard, commit=max(content.hard.commit, through))
            term = content.term(through)
            del content.entries[: through - content.floor]
            content.floor, content.floor_term = through, term

    def sync(self) -> None:
        for work in self._pending:
            work(self.durable)
        self._pending.clear()

    @property
    def unsynced(self) -> int:
        return len(self._pending)

    def crash(self, kept: int) -> None:
        """Lose power; so many of the unsynced writes reached the disk all the same."""
        for work in self._pending[:kept]:
            work(self.durable)
        self._pending.clear()
        self.now = copy(self.durable)
        self.now.entries = list(self.durable.entries)

    def begin(self, installed: tuple[int, int]) -> None:
        """Fit the log to the state beside it, as the real one does when it is opened."""
        if installed[0] > self.now.floor:
            self.reset(*installed, None)
        applied = self._state.applied()
        assert applied >= self.now.floor, "the log forgets only what the state holds durably"
        assert applied <= self.now.last, "the state never runs ahead of the log"
        for content in (self.now, self.durable):
            content.hard = replace(content.hard, commit=max(content.hard.commit, applied))

    # ---- LogStorage ----

    def initial_state(self) -> tuple[HardState, ConfState]:
        conf = decode_membership(self._state.configuration()).conf
        return self.now.hard, self._conf_at_start if conf == ConfState() else conf

    def first_index(self) -> int:
        return self.now.floor + 1

    def last_index(self) -> int:
        return self.now.last

    def term(self, index: int) -> int:
        if index < self.now.floor:
            raise CompactedError(f"term of {index}, the log starts at {self.now.floor + 1}")
        if index > self.now.last:
            raise UnavailableError(f"term of {index}, the log ends at {self.now.last}")
        return self.now.term(index)

    def entries(self, low: int, high: int, bytes_max: int) -> tuple[Entry, ...]:
        if low <= self.now.floor:
            raise CompactedError(f"entries from {low}, the log starts at {self.now.floor + 1}")
        if high > self.now.last + 1:
            raise UnavailableError(f"entries to {high}, the log ends at {self.now.last}")
        first = low - self.now.floor - 1
        return limit_entries(self.now.entries, first, first + high - low, bytes_max)

    def snapshot(self) -> Snapshot:
        position = self.make_snapshot()
        if position is None:
            raise SnapshotUnavailableError("it is being made")
        return Snapshot(
            position.applied, position.applied_term, decode_membership(position.configuration).conf
        )


_EMPTY = StatePosition(LogIndex(0), 0, DIGEST_START, b"")


class StateDisk:
    """`ports.StateStore` for the applier; survives its node, less what was not synced."""

    def __init__(self, seeded_with: Membership | None = None) -> None:
        """Begin empty, or as if a snapshot of an empty state with these members had been installed."""
        self._view = MemoryView()
        self._position = _EMPTY
        if seeded_with is not None:
            self._position = StatePosition(LogIndex(1), 1, DIGEST_START, encode_membership(seeded_with))
        self._durable_rows: dict[bytes, bytes] = {}
        self._durable_position = self._position
        self._pending: list[tuple[Changes, StatePosition]] = []
        # Place of the last snapshot that replaced the state; durable with it.
        self.installed = (0, 0)

    def view(self) -> View:
        return self._view

    def position(self) -> StatePosition:
        return self._position

    def applied(self) -> LogIndex:
        return self._position.applied

    def applied_term(self) -> int:
        return self._position.applied_term

    def state_digest(self) -> bytes:
        return self._position.state_digest

    def configuration(self) -> bytes:
        return self._position.configuration

    def durable_configuration(self) -> bytes:
        return self._durable_position.configuration

    def write(
        self,
        changes: Changes,
        applied: LogIndex,
        state_digest: bytes,
        *,
        applied_term: int,
        configuration: bytes | None = None,
    ) -> None:
        assert applied > self._position.applied, "an entry is applied once"
        assert applied_term >= self._position.applied_term
        self._view.write(changes)
        known = configuration if configuration is not None else self._position.configuration
        self._position = StatePosition(applied, applied_term, state_digest, known)
        self._pending.append((changes, self._position))

    @property
    def last_changes(self) -> Changes:
        """What the last write changed; not synced yet."""
        return self._pending[-1][0]

    def sync(self) -> None:
        self._keep(len(self._pending))

    @property
    def unsynced(self) -> int:
        return len(self._pending)

    def crash(self, kept: int) -> None:
        """Lose power; so many of the unsynced writes reached the disk all the same."""
        self._keep(kept)
        self._take_up()

    def rows(self) -> Rows:
        return tuple(self._view.scan(b"", b"\xff" * 64))

    def install(self, rows: Rows, position: StatePosition) -> None:
        """Replace the state by a snapshot; durable at once."""
        self._pending.clear()
        self._durable_rows = dict(rows)
        self._durable_position = position
        self.installed = (position.applied, position.applied_term)
        self._take_up()

    def close(self) -> None:
        pass

    def _keep(self, count: int) -> None:
        for changes, position in self._pending[:count]:
            for key, value in changes:
                if value is None:
                    self._durable_rows.pop(key, None)
                else:
                    self._durable_rows[key] = value
            self._durable_position = position
        self._pending.clear()

    def _take_up(self) -> None:
        self._view = MemoryView()
        self._view.write(sorted(self._durable_rows.items()))
        self._position = self._durable_position
