"""Applying committed entries to the state store: blocking, one thread, many entries to a write."""

from collections.abc import Iterable, Iterator, Sequence

from mcr.errors import DivergedError, McrError
from mcr.model import LogIndex
from mcr.values import dataclass
from mcr_node.core.members import Membership, encode_membership
from mcr_node.core.raft.messages import Entry, EntryType, is_conf_change
from mcr_node.core.state import codec
from mcr_node.core.state.apply import Changes, Outcome, apply
from mcr_node.core.state.commands import CheckDigest
from mcr_node.core.state.digest import DIGEST_ENTRIES, DigestWatch, Divergence, next_digest
from mcr_node.core.state.view import Batch
from mcr_node.ports import Fence, StateStore
from mcr_node.runtime.limits import APPLIED_AT_ONCE_BYTES_MAX, APPLIED_AT_ONCE_MAX

# Entries in one write of the state. A write costs as much as applying three commands; but a scan in a batch
# passes over the changes of the batch.
ENTRIES_PER_WRITE_MAX = 64


@dataclass(frozen=True, slots=True)
class _Step:
    """What an entry does to the state as the entries before it left it.

    Attributes:
        check: what it asks to compare.
        digest: after it.
    """

    entry: Entry
    check: CheckDigest | None
    digest: bytes
    outcome: Outcome | None


def are_few(entries: Sequence[Entry]) -> bool:
    """Say whether these are commands that hold up an event loop no longer than the way to a thread would."""
    if len(entries) > APPLIED_AT_ONCE_MAX:
        return False
    size_bytes = 0
    # Asked some six times for each entry.
    for entry in entries:
        if is_conf_change(entry):
            return False
        size_bytes += len(entry.data)
    return size_bytes <= APPLIED_AT_ONCE_BYTES_MAX


class Applier:
    """Writes to the state; the only one that does."""

    def __init__(
        self, state: StateStore, fence: Fence | None = None, *, digest_entries: int = DIGEST_ENTRIES
    ) -> None:
        """Apply to `state`; `fence` keeps in mind, beyond this process, that it is wrong."""
        self._state = state
        self._fence = fence
        self.digest = state.state_digest()
        self.digests = DigestWatch(digest_entries, None if fence is None else fence.divergence())
        # Only while nothing was written since.
        self._foreseen: tuple[Batch, list[_Step]] | None = None

    @property
    def failure(self) -> McrError | None:
        """Why nothing may be applied: the state was found wrong, in this life of the node or one before."""
        found = self.digests.divergence
        return None if found is None else _diverged(found)

    def apply(self, entries: Sequence[Entry]) -> list[Outcome | None]:
        """Apply entries that are no membership changes; return the outcome of each, None for empty ones.

        Raises:
            OutOfSpaceError, CorruptStoreError: some may be applied; the node must open its state again.
            DivergedError: the state is wrong, and is fenced now.
        """
        self._refuse_if_wrong()
        outcomes: list[Outcome | None] = []
        for start in range(0, len(entries), ENTRIES_PER_WRITE_MAX):
            outcomes += self._write(entries[start : start + ENTRIES_PER_WRITE_MAX])
        return outcomes

    def foresee(self, entries: Sequence[Entry]) -> None:
        """Work out what entries will do, before it is known that they are committed; nothing is changed.

        The wait for other nodes is long enough for it. `apply` takes it up, if it is these that are applied
        next.

        Args:
            entries: few, no membership changes, those that follow the last applied.

        Raises:
            CorruptStoreError: as `apply`.
        """
        batch = Batch(self._state.view())
        self._foreseen = batch, list(self._steps(entries, batch))

    def _write(self, entries: Sequence[Entry]) -> list[Outcome | None]:
        foreseen, self._foreseen = self._foreseen, None
        steps: Iterable[_Step]
        if foreseen is not None and [step.entry for step in foreseen[1]] == list(entries):
            batch, steps = foreseen
        else:
            batch = Batch(self._state.view())
            steps = self._steps(entries, batch)
        outcomes: list[Outcome | None] = []
        digest = self.digest
        for step in steps:
            # Before anything that follows it is worked out on a state that may be wrong.
            if step.check is not None:
                self._compare(LogIndex(step.entry.index), step.check)
            digest = step.digest
            self.digests.note(LogIndex(step.entry.index), digest)
            outcomes.append(step.outcome)
        last = entries[-1]
        self._state.write(batch.changes(), LogIndex(last.index), digest, applied_term=last.term)
        self.digest = digest
        return outcomes

    def _steps(self, entries: Sequence[Entry], batch: Batch) -> Iterator[_Step]:
        """Make the changes of entries in `batch`, one by one."""
        digest = self.digest
        for entry in entries:
            assert entry.type is EntryType.NORMAL
            outcome: Outcome | None = None
            check: CheckDigest | None = None
            changes: Changes = []
            if entry.data:
                command = codec.decode(entry.data)
                check = command if isinstance(command, CheckDigest) else None
                outcome, changes = apply(batch, LogIndex(entry.index), command)
            batch.make(changes)
            digest = next_digest(digest, LogIndex(entry.index), changes)
            yield _Step(entry, check, digest, outcome)

    def apply_change(self, entry: Entry, membership: Membership | None) -> None:
        """Apply a membership change, durable at return; None = nothing came of it.

        Durable, for whoever asked for it acts on the answer. A voter that was removed is switched off; were
        the change forgotten by the one voter left, which does not know either what is committed, it would
        wait for the other's vote for ever.

        Raises:
            DivergedError: as `apply`.
        """
        self._refuse_if_wrong()
        self._foreseen = None
        digest = next_digest(self.digest, LogIndex(entry.index), [])
        configuration = None if membership is None else encode_membership(membership)
        self._state.write(
            [], LogIndex(entry.index), digest, applied_term=entry.term, configuration=configuration
        )
        self.digest = digest
        self.digests.note(LogIndex(entry.index), digest)
        if membership is not None:
            self._state.sync()

    def _refuse_if_wrong(self) -> None:
        if self.failure is not None:
            raise self.failure

    def _compare(self, index: LogIndex, command: CheckDigest) -> None:
        found = self.digests.compare(index, command)
        if found is None:
            return
        try:
            # Before anything is applied beyond the entry that told: no later start may serve this state.
            if self._fence is not None:
                self._fence.fence(found)
        except McrError as error:
            # The disk has no room even for that. After a restart the next comparison finds it again.
            raise _diverged(found) from error
        raise _diverged(found)

    def reload(self) -> None:
        """Take up from a snapshot that was installed."""
        self._foreseen = None
        self.digest = self._state.state_digest()
        self.digests.forget()


def _diverged(found: Divergence) -> DivergedError:
    return DivergedError(
        "this node", f"its state differed from that of most voters at log index {found.index}"
    )
