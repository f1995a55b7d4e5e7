"""Applying committed entries to the state store: blocking, one thread, many entries to a write."""

from collections.abc import Sequence

from mcr.model import LogIndex
from mcr_node.core.members import Membership, encode_membership
from mcr_node.core.raft.messages import Entry, EntryType
from mcr_node.core.state import codec
from mcr_node.core.state.apply import Changes, Outcome, apply
from mcr_node.core.state.digest import next_digest
from mcr_node.core.state.view import Overlay
from mcr_node.ports import StateStore

# Entries in one write of the state. A write costs as much as applying three commands; but a scan in a batch
# passes over the changes of the batch.
ENTRIES_PER_WRITE_MAX = 64


class Applier:
    """Writes to the state; the only one that does."""

    def __init__(self, state: StateStore) -> None:
        self._state = state
        self.digest = state.state_digest()

    def apply(self, entries: Sequence[Entry]) -> list[Outcome | None]:
        """Apply entries that are no membership changes; return the outcome of each, None for empty ones.

        Raises:
            OutOfSpaceError, CorruptStoreError: some may be applied; the node must open its state again.
        """
        outcomes: list[Outcome | None] = []
        for start in range(0, len(entries), ENTRIES_PER_WRITE_MAX):
            outcomes += self._write(entries[start : start + ENTRIES_PER_WRITE_MAX])
        return outcomes

    def _write(self, entries: Sequence[Entry]) -> list[Outcome | None]:
        overlay = Overlay(self._state.view())
        outcomes: list[Outcome | None] = []
        digest = self.digest
        for entry in entries:
            assert entry.type is EntryType.NORMAL
            outcome: Outcome | None = None
            changes: Changes = []
            if entry.data:
                outcome, changes = apply(overlay, LogIndex(entry.index), codec.decode(entry.data))
            for key, value in changes:
                if value is None:
                    overlay.delete(key)
                else:
                    overlay.put(key, value)
            digest = next_digest(digest, LogIndex(entry.index), changes)
            outcomes.append(outcome)
        last = entries[-1]
        self._state.write(overlay.changes(), LogIndex(last.index), digest, applied_term=last.term)
        self.digest = digest
        return outcomes

    def apply_change(self, entry: Entry, membership: Membership | None) -> None:
        """Apply a membership change; None = nothing came of it."""
        digest = next_digest(self.digest, LogIndex(entry.index), [])
        configuration = None if membership is None else encode_membership(membership)
        self._state.write(
            [], LogIndex(entry.index), digest, applied_term=entry.term, configuration=configuration
        )
        self.digest = digest

    def reload(self) -> None:
        """Take up from a snapshot that was installed."""
        self.digest = self._state.state_digest()
