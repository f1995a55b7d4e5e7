"""Writing what raft wants durable: log, hard state and snapshots; blocking, one thread, one sync for many."""

from collections.abc import Callable, Sequence

from mcr.model import LogIndex
from mcr_node.core.entry import HardState
from mcr_node.core.raft import messages
from mcr_node.core.raft.messages import Message, Snapshot
from mcr_node.core.replica import Append
from mcr_node.ports import LogStore, SnapshotSink
from mcr_node.runtime.applying import are_few
from mcr_node.runtime.raft_storage import to_log


class LogWriter:
    """Writes to the log; the only one that does, but for compaction, which shares its thread."""

    def __init__(self, log: LogStore) -> None:
        self._log = log
        # The snapshot of which all bytes are here, by the place that raft knows it by.
        self._sinks: dict[tuple[int, int], SnapshotSink] = {}

    def expect(self, snapshot: Snapshot, sink: SnapshotSink) -> None:
        """Know where the bytes of a snapshot are that raft is about to be told of; forget an earlier one."""
        self._sinks = {(snapshot.index, snapshot.term): sink}

    def is_brief(self, batch: Sequence[Append]) -> bool:
        """Say whether `put` is done as soon as a thread would be reached, and only adds to the log's end.

        The database's binding holds the interpreter's lock while it writes, so a thread would hold the event
        loop up as long.
        """
        if any(append.message.snapshot is not None for append in batch):
            return False
        entries = [entry for append in batch for entry in append.message.entries]
        _, last = self._log.bounds()
        return are_few(entries) and all(entry.index > last for entry in entries[:1])

    def put(self, batch: Sequence[Append], owed: messages.HardState | None = None) -> bool:
        """Write all, in order; return whether raft promises something about it, so that it is to be synced.

        Args:
            batch: what raft handed out.
            owed: to be written before it, see `core.promises`.

        Raises:
            OutOfSpaceError, CorruptStoreError, StorageFailure: nothing is known of the end of the log.
        """
        needs_sync = False
        # What is owed goes into the same write as what comes next, unless that supersedes it: one write is as
        # safe as two in order, and each costs as much as half of applying a command.
        hard = None if owed is None else _hard_state(owed)
        for append in batch:
            message = append.message
            if message.snapshot is not None and hard is not None:
                self._log.write([], hard)
                hard = None
            if message.term or message.vote or message.commit:
                hard = _hard_state(message)
            if message.snapshot is not None:
                snapshot = message.snapshot
                self._sinks.pop((snapshot.index, snapshot.term)).install()
                self._log.reset(LogIndex(snapshot.index), snapshot.term, hard)
                hard = None
            entries = [to_log(entry) for entry in message.entries]
            if entries or hard is not None:
                self._log.write(entries, hard)
                needs_sync = needs_sync or bool(message.responses) or bool(entries)
                hard = None
        return needs_sync

    def sync(self, syncing: Callable[[], None]) -> None:
        """Make durable what was put; `syncing` is called when only the disk is waited for.

        Raises: as `put`.
        """
        syncing()
        self._log.sync()

    def write(
        self, batch: Sequence[Append], owed: messages.HardState | None, syncing: Callable[[], None]
    ) -> None:
        """Put and sync, if it is to be synced; arguments and errors as of these."""
        if self.put(batch, owed):
            self.sync(syncing)


def _hard_state(of: messages.HardState | Message) -> HardState:
    return HardState(of.term, of.vote, LogIndex(of.commit))
