"""The durable log as raft reads it: the log store, the configuration in the state, and snapshots of it."""

from collections.abc import Callable

from mcr.model import LogIndex
from mcr_node.core.members import decode_membership
from mcr_node.core.raft.errors import CompactedError, SnapshotUnavailableError, UnavailableError
from mcr_node.core.raft.messages import ConfState, Entry, EntryType, HardState, Snapshot
from mcr_node.core.replica import Replica, config_of
from mcr_node.ports import LogEntry, LogStore, StatePosition, StateStore
from mcr_node.runtime.identity import Self, Timing


class RaftStorage:
    """`core.raft.storage.LogStorage` over the stores of a node.

    Reads happen on the event loop: what is recent, and that is nearly all that raft asks for, lies in the
    memory of the log store.
    """

    def __init__(
        self,
        log: LogStore,
        state: StateStore,
        *,
        conf_at_start: ConfState,
        make_snapshot: Callable[[], StatePosition | None],
    ) -> None:
        """Read through to two stores.

        Args:
            log: entries and hard state.
            state: knows the configuration of the applied index.
            conf_at_start: for a state that has none yet: that of a cluster which begins here.
            make_snapshot: returns what the snapshot ready to be sent is a snapshot of; None while there is
                none, and then one is being made.
        """
        self._log = log
        self._state = state
        self._conf_at_start = conf_at_start
        self._make_snapshot = make_snapshot

    def initial_state(self) -> tuple[HardState, ConfState]:
        """See `LogStorage`."""
        hard = self._log.hard_state()
        conf = decode_membership(self._state.configuration()).conf
        return HardState(hard.term, hard.vote, hard.commit), (
            self._conf_at_start if conf == ConfState() else conf
        )

    def first_index(self) -> int:
        """See `LogStorage`."""
        return self._log.bounds()[0]

    def last_index(self) -> int:
        """See `LogStorage`."""
        return self._log.bounds()[1]

    def term(self, index: int) -> int:
        """See `LogStorage`."""
        first, last = self._log.bounds()
        if index < first - 1:
            raise CompactedError(f"term of {index}, the log starts at {first}")
        if index > last:
            raise UnavailableError(f"term of {index}, the log ends at {last}")
        return self._log.term(LogIndex(index))

    def entries(self, low: int, high: int, bytes_max: int) -> tuple[Entry, ...]:
        """See `LogStorage`."""
        first, last = self._log.bounds()
        if low < first:
            raise CompactedError(f"entries from {low}, the log starts at {first}")
        if high > last + 1:
            raise UnavailableError(f"entries to {high}, the log ends at {last}")
        found = self._log.read(LogIndex(low), LogIndex(high - 1), bytes_max=bytes_max)
        return tuple([from_log(entry) for entry in found])

    def snapshot(self) -> Snapshot:
        """See `LogStorage`."""
        position = self._make_snapshot()
        if position is None:
            raise SnapshotUnavailableError("it is being made")
        conf = decode_membership(position.configuration).conf
        return Snapshot(position.applied, position.applied_term, conf)


def open_replica(
    myself: Self,
    log: LogStore,
    state: StateStore,
    timing: Timing,
    make_snapshot: Callable[[], StatePosition | None],
) -> Replica:
    """Return the replica of a node that takes up from its stores; see `RaftStorage` for `make_snapshot`."""
    membership = decode_membership(state.configuration())
    config = config_of(
        myself.node_id,
        draw=myself.draw,
        applied=state.applied(),
        election_ticks=timing.election_ticks,
        heartbeat_ticks=1,
    )
    storage = RaftStorage(log, state, conf_at_start=myself.at_start.conf, make_snapshot=make_snapshot)
    known, told = (membership, True) if membership.conf != ConfState() else (myself.at_start, False)
    replica = Replica(config, storage, known, is_told=told)
    replica.applied_term = state.applied_term()
    return replica


def from_log(entry: LogEntry) -> Entry:
    """Return an entry as raft has it."""
    return Entry(entry.term, entry.index, EntryType(entry.kind), entry.data)


def to_log(entry: Entry) -> LogEntry:
    """Return an entry as the log has it."""
    return LogEntry(LogIndex(entry.index), entry.term, entry.data, int(entry.type))
