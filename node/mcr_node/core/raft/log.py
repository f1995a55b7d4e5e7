"""The log as the core sees it: what storage holds durably, and on top what it does not hold yet.

Indexes, always: applied <= applying <= committed <= last. The unstable part starts at `offset`; everything in
it below `offset_in_progress` has been handed out to be written, and is waiting for word that it is durable.
"""

from mcr_node.core.raft.config import UNLIMITED
from mcr_node.core.raft.errors import CompactedError, HaltError, UnavailableError
from mcr_node.core.raft.messages import Entry, Snapshot, entry_bytes, is_conf_change
from mcr_node.core.raft.storage import LogStorage, limit_entries


class RaftLog:
    """One node's log. Places are (term, index); a term of None means "not known here"."""

    __slots__ = (
        "applied",
        "applying",
        "applying_bytes",
        "applying_bytes_max",
        "applying_paused",
        "committed",
        "last_index",
        "last_term",
        "offset",
        "offset_in_progress",
        "snapshot",
        "snapshot_in_progress",
        "storage",
        "unstable",
    )

    def __init__(self, storage: LogStorage, applying_bytes_max: int = UNLIMITED) -> None:
        self.storage = storage
        before_first = storage.first_index() - 1
        self.committed = before_first
        # Handed out to be applied, and known to be applied.
        self.applying = before_first
        self.applied = before_first
        self.applying_bytes_max = applying_bytes_max
        self.applying_bytes = 0
        self.applying_paused = False
        # Kept here, for every message asks for them: storage's end moves only by what this object hands out.
        self.last_index = storage.last_index()
        self.last_term = storage.term(self.last_index)
        self.unstable: list[Entry] = []
        self.offset = self.last_index + 1
        self.offset_in_progress = self.offset
        self.snapshot: Snapshot | None = None
        self.snapshot_in_progress = False

    # -- reading -----------------------------------------------------------------------------------

    def first_index(self) -> int:
        """Return the first index whose entry can be read."""
        return self.snapshot.index + 1 if self.snapshot is not None else self.storage.first_index()

    def term(self, index: int) -> int | None:
        """Return the term at `index`, or None where it was compacted away or lies beyond the end."""
        if index == self.last_index:
            return self.last_term
        if index > self.last_index:
            return None
        if index >= self.offset:
            return self.unstable[index - self.offset].term
        if self.snapshot is not None:
            return self.snapshot.term if index == self.snapshot.index else None
        try:
            return self.storage.term(index)
        except CompactedError:
            return None

    def slice(self, low: int, high: int, bytes_max: int) -> tuple[Entry, ...]:
        """Return entries from `low` up to but not including `high`: at least one, then as many as fit.

        Raises:
            CompactedError: `low` is before the first index.
        """
        assert low <= high <= self.last_index + 1
        if low == high:
            return ()
        if low < self.first_index():
            raise CompactedError(f"entries from {low}, the log starts at {self.first_index()}")
        offset = self.offset
        if low >= offset:
            return limit_entries(self.unstable, low - offset, high - offset, bytes_max)
        cut = min(high, offset)
        try:
            stable = self.storage.entries(low, cut, bytes_max)
        except UnavailableError as error:
            raise HaltError(f"storage lost entries it had acknowledged: {error}") from error
        if cut == high or len(stable) < cut - low:
            return stable
        left = bytes_max - sum(map(entry_bytes, stable))
        if left <= 0:
            return stable
        unstable = limit_entries(self.unstable, 0, high - offset, left)
        if entry_bytes(unstable[0]) > left:
            return stable
        return stable + unstable

    def is_up_to_date(self, last_term: int, last_index: int) -> bool:
        """Say whether a log that ends there has all that may be committed in ours (thesis §3.6.1)."""
        return last_term > self.last_term or (last_term == self.last_term and last_index >= self.last_index)

    def find_conflict_by_term(self, index: int, term: int) -> tuple[int, int]:
        """Return the last (index, term) at or before `index` whose term is at most `term`.

        Thesis §3.5, the optimisation of its last paragraph, on either side of the wire: every place skipped
        has a larger term than the other log can have there. A term of 0 in the answer: not known here.
        """
        while index > 0:
            ours = self.term(index)
            if ours is None:
                return index, 0
            if ours <= term:
                return index, ours
            index -= 1
        return 0, 0

    def has_unapplied_conf_change(self) -> bool:
        """Say whether a committed membership change waits to be applied."""
        low = self.applied + 1
        while low <= self.committed:
            # In pages, for the stretch may be long and storage's answers are held in memory.
            page = self.slice(low, self.committed + 1, self.applying_bytes_max)
            if any(map(is_conf_change, page)):
                return True
            low += len(page)
        return False

    # -- growing -----------------------------------------------------------------------------------

    def append(self, entries: tuple[Entry, ...]) -> None:
        """Put `entries` at their indexes; whatever was there and beyond is gone.

        Raises:
            HaltError: that would overwrite committed entries.
        """
        first = entries[0].index
        if first <= self.committed:
            raise HaltError(f"an append at {first} would overwrite entries committed to {self.committed}")
        if first == self.offset + len(self.unstable):
            self.unstable.extend(entries)
        elif first <= self.offset:
            # All that was unstable is overwritten, and some that was stable, perhaps.
            self.unstable = list(entries)
            self.offset = first
            self.offset_in_progress = first
        else:
            # A new list: the old one's tail may be in the hands of a writer.
            self.unstable = [*self.unstable[: first - self.offset], *entries]
            self.offset_in_progress = min(self.offset_in_progress, first)
        last = entries[-1]
        self.last_index, self.last_term = last.index, last.term

    def maybe_append(
        self, previous_index: int, previous_term: int, entries: tuple[Entry, ...], commit: int
    ) -> int | None:
        """Append what a leader sent, if our log matches just before it (thesis §3.5, rules 2 to 5).

        Returns:
            The last index that is now known to match the leader's log, or None where nothing matched.

        Raises:
            HaltError: the leader's entries contradict ours at a committed index.
        """
        if self.term(previous_index) != previous_term:
            return None
        last_matching = previous_index + len(entries)
        if previous_index != self.last_index:
            # Only from the first conflict on: a late, short append must not cut off what came after it.
            entries = self._after_common_prefix(entries)
        if entries:
            self.append(entries)
        # Rule 5: not beyond the last entry of this very append; what follows in our log may yet be
        # overwritten.
        self.commit_to(min(commit, last_matching))
        return last_matching

    def commit_to(self, index: int) -> None:
        """Move the commit index forward; never back.

        Raises:
            HaltError: the log ends before `index`, so it lost entries that it had acknowledged.
        """
        if index <= self.committed:
            return
        if index > self.last_index:
            raise HaltError(f"commit to {index}, but the log ends at {self.last_index}")
        self.committed = index

    def restore(self, snapshot: Snapshot) -> None:
        """Start anew after `snapshot`, which is to be written."""
        self.committed = snapshot.index
        self.snapshot = snapshot
        self.snapshot_in_progress = False
        self.unstable = []
        self.offset = self.offset_in_progress = snapshot.index + 1
        self.last_index, self.last_term = snapshot.index, snapshot.term

    # -- handing out, and hearing back -------------------------------------------------------------

    def next_unstable(self) -> tuple[Entry, ...]:
        """Return the entries not handed out to be written yet."""
        return tuple(self.unstable[self.offset_in_progress - self.offset :])

    def next_snapshot(self) -> Snapshot | None:
        """Return the snapshot not handed out to be written yet."""
        return None if self.snapshot_in_progress else self.snapshot

    def accept_unstable(self) -> None:
        """Note that everything unstable was handed out."""
        self.offset_in_progress = self.offset + len(self.unstable)
        self.snapshot_in_progress = self.snapshot is not None

    def stable_to(self, index: int, term: int) -> None:
        """Hear that everything up to `index` is durable, if `term` says it is still the same entry.

        The entry may have been overwritten since it was handed out, and its successor not be written yet: the
        pair (index, term) names one entry of one leader, so equal terms mean the same log up to there (thesis
        §3.5, log matching).
        """
        position = index - self.offset
        if not 0 <= position < len(self.unstable) or self.unstable[position].term != term:
            return
        del self.unstable[: position + 1]
        self.offset = index + 1
        self.offset_in_progress = max(self.offset_in_progress, self.offset)

    def stable_snapshot_to(self, index: int) -> None:
        """Hear that the snapshot at `index` is durable."""
        if self.snapshot is not None and self.snapshot.index == index:
            self.snapshot = None
            self.snapshot_in_progress = False

    def has_next_committed(self, *, allow_unstable: bool) -> bool:
        """Say whether `next_committed` would give anything."""
        return (
            not self.applying_paused
            and self.snapshot is None
            and self.applying < self._appliable_index(allow_unstable=allow_unstable)
        )

    def next_committed(self, *, allow_unstable: bool) -> tuple[Entry, ...]:
        """Return the entries to apply next, within the limit of bytes under way.

        Args:
            allow_unstable: in synchronous mode the entries of one `Ready` are made durable before they are
                applied; the apply queue of asynchronous mode knows nothing of the append queue.
        """
        if not self.has_next_committed(allow_unstable=allow_unstable):
            return ()
        high = self._appliable_index(allow_unstable=allow_unstable) + 1
        return self.slice(self.applying + 1, high, self.applying_bytes_max - self.applying_bytes)

    def accept_applying(self, entries: tuple[Entry, ...], *, allow_unstable: bool) -> None:
        """Note that `entries` were handed out to be applied."""
        self.applying = entries[-1].index
        self.applying_bytes += sum(map(entry_bytes, entries))
        # If not all fitted, the rest waits for an acknowledgement, even where a little room is left: else
        # every following entry would go out alone.
        self.applying_paused = (
            self.applying_bytes >= self.applying_bytes_max
            or self.applying < self._appliable_index(allow_unstable=allow_unstable)
        )

    def applied_to(self, index: int, size_bytes: int) -> None:
        """Hear that everything up to `index` is applied, `size_bytes` of it from `accept_applying`."""
        if not self.applied <= index <= self.committed:
            raise HaltError(f"applied {index} is not between {self.applied} and the commit {self.committed}")
        self.applied = index
        self.applying = max(self.applying, index)
        self.applying_bytes = max(self.applying_bytes - size_bytes, 0)
        self.applying_paused = self.applying_bytes >= self.applying_bytes_max

    def _appliable_index(self, *, allow_unstable: bool) -> int:
        return self.committed if allow_unstable else min(self.committed, self.offset - 1)

    def _after_common_prefix(self, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
        for position, entry in enumerate(entries):
            if self.term(entry.index) != entry.term:
                return entries[position:]
        return ()
