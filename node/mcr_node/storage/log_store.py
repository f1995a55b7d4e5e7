"""The replicated log on RocksDB. Its rows are described in `log_records`, the file beside it in `log_mark`.

An entry is checked whenever it is read. At open only the ends are checked, and what the state has yet to
apply: a command that runs for milliseconds must not read twenty thousand entries first. Nothing is repaired
here: a log with a hole, or one that ends before its mark, is refused, because whoever acknowledged an entry
or cast a vote must not come back without it (Raft §5.2, §5.4).
"""

import copy
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol, TypeVar

from mcr.errors import CorruptStoreError, McrError
from mcr.model import LogIndex
from mcr_node.core.entry import KIND_MAX, LOG_ENTRY_BYTES_MAX, HardState, LogEntry
from mcr_node.storage.database import Changes, Database
from mcr_node.storage.disk import Disk, StorageFailure
from mcr_node.storage.log_mark import LogMark, read_mark, write_mark
from mcr_node.storage.log_records import (
    ENTRY,
    ENTRY_END,
    FLOOR,
    GUARDED,
    HARD,
    IDENTITY,
    LAST,
    Place,
    decode_entry,
    decode_hard,
    decode_place,
    encode_entry,
    encode_hard,
    encode_place,
    entry_key,
)
from mcr_node.storage.log_tail import LogTail

# How far the mark may lag behind: an fsync and a rename in so many entries.
MARK_ENTRIES: Final = 4096

_Found = TypeVar("_Found")


class OpenDatabase(Protocol):
    """How a log opens the database below, as `Database.open` does."""

    def __call__(self, path: Path, *, founding: Changes = ()) -> Database:
        """Open the database, or create it with `founding` in it."""


class RocksLogStore:
    """`ports.LogStore` on one database and one mark."""

    def __init__(
        self,
        database: Database,
        disk: Disk,
        identity: bytes,
        *,
        floor: Place,
        last: Place,
        hard_state: HardState,
        mark: LogMark,
    ) -> None:
        self._database = database
        self._disk = disk
        self._identity = identity
        # Held during a change; readers take it only when what they found does not fit, to rule out a change.
        self._changing = threading.RLock()
        # Guards the fields below, which always fit each other.
        self._lock = threading.Lock()
        self._floor = floor
        self._last = last
        self._hard = hard_state
        self._tail = LogTail(LogIndex(last[0] + 1))
        # Counts truncations: what was the end before one may not be marked after it.
        self._truncations = 0
        # Guards the mark. Taken before `_lock`, after `_changing`.
        self._marking = threading.Lock()
        self._mark = mark
        self._failure: Exception | None = None

    @staticmethod
    def open(
        path: Path,
        identity: bytes,
        *,
        last_at_least: int = 0,
        installed: Place | None = None,
        disk: Disk | None = None,
        open_database: OpenDatabase = Database.open,
    ) -> "RocksLogStore":
        """Open the log in a folder, or make it.

        Args:
            path: the log's own folder; the mark is beside it.
            identity: id of the store it belongs to, not empty.
            last_at_least: index that the state has applied; a log that ends before it lost entries.
            installed: index and term of a snapshot that was installed and to which nothing was applied yet. A
                log that begins before it and lacks that very entry is reset to it: the crash came between
                the two. One that has it is kept, with what follows (Raft §7): this node has acknowledged it.
            disk: writes the mark; the real one by default.
            open_database: opens the database below.

        Raises:
            CorruptStoreError: it is another store's log, lacks files or entries, or holds damaged ones.
            StoreFormatError: it was written by a newer release.
            OutOfSpaceError, StoreBusyError, FailedError: as `Database.open`.
        """
        disk = disk or Disk()
        mark = read_mark(disk, path, identity)
        if not path.is_dir() or not os.listdir(path):
            if mark is None:
                # Before the database: one that says that it is guarded must never be found without a mark.
                disk.make_directory(path.parent)
                mark = LogMark()
                write_mark(disk, path, identity, mark)
            elif mark != LogMark():
                raise CorruptStoreError(str(path), f"the log is gone; it reached {mark.index} at least")
        database = open_database(path, founding=[(IDENTITY, identity), (GUARDED, b"")])
        try:
            log = _load(database, disk, identity, mark)
            log.begin(LogIndex(last_at_least), installed)
        except BaseException:
            database.close()
            raise
        return log

    def write(self, entries: Sequence[LogEntry], hard_state: HardState | None = None) -> None:
        """See `ports.LogStore`.

        Raises:
            OutOfSpaceError: nothing of it is in the log; the store must be reopened first.
            StorageFailure: it may or may not be in the log; the process must end.
        """
        with self._change():
            hard = self._next_hard(hard_state)
            before = self._last
            after = self._place_of(entries) if entries else before
            assert after[1] <= hard.term, "entries of a term that no hard state knows"
            assert hard.commit <= after[0], "what is committed is held"
            changes: list[tuple[bytes, bytes | None]] = [
                (entry_key(entry.index), encode_entry(entry)) for entry in entries
            ]
            if entries and entries[0].index <= before[0]:
                self._lower_mark(LogIndex(entries[0].index - 1))
                changes += _deletions(after[0] + 1, before[0])
            if after != before:
                changes.append((LAST, encode_place(LAST, after)))
            if hard != self._hard:
                changes.append((HARD, encode_hard(hard)))
            if not changes:
                return
            self._database.write(changes)
            with self._lock:
                self._last, self._hard = after, hard
                if entries:
                    self._tail.put(entries)

    def sync(self) -> None:
        """See `ports.LogStore`.

        Raises:
            OutOfSpaceError, CorruptStoreError: a write failed earlier.
        """
        self._sync(MARK_ENTRIES)

    def _sync(self, mark_lag_max: int) -> None:
        with self._failing_for_ever():
            with self._lock:
                last, hard, truncations = self._last, self._hard, self._truncations
            self._database.sync()
            self._raise_mark(last, hard, truncations, mark_lag_max)

    def append(self, entries: Sequence[LogEntry]) -> None:
        """See `ports.LogStore`; raises as `write` and `sync`."""
        if not entries:
            return
        assert entries[0].index == self._last[0] + 1, "entries follow each other"
        term = entries[-1].term
        # The only voter commits what it persists, and needs no vote but its own, which the term implies.
        vote = self._hard.vote if term == self._hard.term else 0
        self.write(entries, HardState(term, vote, entries[-1].index))
        self.sync()

    def hard_state(self) -> HardState:
        """See `ports.LogStore`."""
        return self._hard

    def read(self, first: LogIndex, last: LogIndex, *, bytes_max: int) -> list[LogEntry]:
        """See `ports.LogStore`."""
        if last < first:
            return []
        with self._lock:
            assert self._floor[0] < first, "compacted away"
            assert last <= self._last[0], "beyond the end"
            recent = self._tail.read(first, last, bytes_max)
        if recent is not None:
            return recent
        return self._without_change(lambda: self._read_rows(first, last, bytes_max))

    def _read_rows(self, first: int, last: int, bytes_max: int) -> list[LogEntry]:
        taken: list[LogEntry] = []
        for key, value in self._database.scan(entry_key(first), entry_key(last + 1)):
            entry = decode_entry(key, value, self._database.path)
            bytes_max -= len(entry.data)
            if taken and bytes_max < 0:
                last = taken[-1].index
                break
            taken.append(entry)
        if [entry.index for entry in taken] != list(range(first, last + 1)):
            raise CorruptStoreError(str(self._database.path), f"entries {first} to {last} are not all held")
        return taken

    def term(self, index: LogIndex) -> int:
        """See `ports.LogStore`."""
        with self._lock:
            for known, term in (self._last, self._floor):
                if index == known:
                    return term
            assert self._floor[0] < index, "compacted away"
            assert index < self._last[0], "beyond the end"
            recent = self._tail.get(index)
        if recent is not None:
            return recent.term
        return self._without_change(lambda: self._read_rows(index, index, 0)[0].term)

    def bounds(self) -> tuple[LogIndex, LogIndex]:
        """See `ports.LogStore`."""
        with self._lock:
            return LogIndex(self._floor[0] + 1), self._last[0]

    def last_term(self) -> int:
        """See `ports.LogStore`."""
        return self._last[1]

    def compact(self, through: LogIndex) -> None:
        """See `ports.LogStore`; what was compacted before, or nothing yet, is not an error."""
        with self._change():
            if through <= self._floor[0]:
                return
            assert through <= self._last[0], "beyond the end"
            floor = (through, self.term(through))
            # What the state holds is committed, whether or not the news of it came this way yet.
            hard = self._next_hard(HardState(self._hard.term, self._hard.vote, through))
            # The floor first: entries below it are not looked at, whether or not they are gone yet.
            self._database.write([(FLOOR, encode_place(FLOOR, floor)), (HARD, encode_hard(hard))])
            self.sync()
            with self._lock:
                self._floor, self._hard = floor, hard
                self._tail.forget(through)
            # From the first possible entry: an earlier deletion may have been lost with the power.
            self._database.delete_range(ENTRY, entry_key(through + 1))

    def reset(self, index: LogIndex, term: int, hard_state: HardState | None = None) -> None:
        """See `ports.LogStore`."""
        with self._change():
            hard = self._next_hard(hard_state)
            if hard.term < term:
                hard = HardState(term)
            assert index > self._floor[0], "a snapshot is ahead of the one before"
            assert index >= hard.commit, "a snapshot never takes back what is committed"
            hard = HardState(hard.term, hard.vote, index)
            place = (index, term)
            if index <= self._last[0]:
                # The entry at `index` may be of another term than the one that is marked.
                self._lower_mark(self._floor[0])
            self._database.write(
                [
                    *_deletions(index + 1, self._last[0]),
                    (FLOOR, encode_place(FLOOR, place)),
                    (HARD, encode_hard(hard)),
                    (LAST, encode_place(LAST, place)),
                ]
            )
            with self._lock:
                self._floor = self._last = place
                self._hard = hard
                self._tail = LogTail(LogIndex(index + 1))
            self.sync()
            self._database.delete_range(ENTRY, entry_key(index + 1))

    def verify(self) -> int:
        """Read and check every entry, and return how many there are.

        Raises:
            CorruptStoreError: one is damaged or missing.
        """
        return self._without_change(lambda: self._check(self._floor[0] + 1))

    def close(self) -> None:
        """See `ports.LogStore`; may be called twice."""
        try:
            if self._failure is None and not self._database.closed:
                self._sync(1)
        finally:
            self._database.close()

    @contextmanager
    def _change(self) -> Iterator[None]:
        with self._changing, self._failing_for_ever():
            yield

    @contextmanager
    def _failing_for_ever(self) -> Iterator[None]:
        """Refuse after a failure; note one, for what is on disk is not known after it."""
        if self._failure is not None:
            # A copy: threads that raise one object would write into each other's traceback.
            raise copy.copy(self._failure) from self._failure
        try:
            yield
        except (McrError, StorageFailure) as error:
            self._failure = self._failure or error
            raise

    def _without_change(self, read: Callable[[], _Found]) -> _Found:
        """Read, once more without a change at the same time if what was found does not fit."""
        try:
            return read()
        except CorruptStoreError:
            with self._changing:
                return read()

    def _next_hard(self, wanted: HardState | None) -> HardState:
        if wanted is None:
            return self._hard
        assert wanted.may_follow(self._hard), f"{wanted} takes back {self._hard}"
        return HardState(wanted.term, wanted.vote, max(wanted.commit, self._hard.commit))

    def _place_of(self, entries: Sequence[LogEntry]) -> Place:
        """Return the place of the last entry, having checked that they follow what is held."""
        first = entries[0].index
        assert self._hard.commit < first, "what is committed stays"
        assert first <= self._last[0] + 1, "entries follow each other"
        last, last_term = LogIndex(first - 1), self.term(LogIndex(first - 1))
        for entry in entries:
            assert entry.index == last + 1, "entries follow each other"
            assert entry.term >= max(1, last_term), "terms begin with 1 and never go back"
            assert 0 <= entry.kind <= KIND_MAX
            assert len(entry.data) <= LOG_ENTRY_BYTES_MAX, "a command is bounded where it is made"
            last, last_term = entry.index, entry.term
        return last, last_term

    def _lower_mark(self, index: LogIndex) -> None:
        """Note that entries after `index` are about to be truncated."""
        with self._marking:
            with self._lock:
                self._truncations += 1
            if self._mark.index > index:
                self._put_mark(LogMark(index, self.term(index), self._mark.term, self._mark.vote))

    def _raise_mark(self, last: Place, hard: HardState, truncations: int, lag_max: int) -> None:
        """Note what was synced, if it is time."""
        known = self._mark
        if (hard.term, hard.vote) == (known.term, known.vote) and last[0] - known.index < lag_max:
            # Nearly always, and then without a lock that all who wait for a sync would meet at.
            return
        with self._marking:
            known = self._mark
            promised = (hard.term, hard.vote) != (known.term, known.vote)
            # Of several syncs at once, the one that saw less may come last.
            if promised and not hard.may_follow(HardState(known.term, known.vote)):
                return
            if promised or last[0] - known.index >= lag_max:
                may_rise = truncations == self._truncations and last[0] > known.index
                place = last if may_rise else (known.index, known.entry_term)
                self._put_mark(LogMark(*place, hard.term, hard.vote))

    def _put_mark(self, mark: LogMark) -> None:
        write_mark(self._disk, self._database.path, self._identity, mark)
        self._mark = mark

    def begin(self, applied: LogIndex, installed: Place | None) -> None:
        """Fit the log to the state beside it and check what that has yet to apply; see `open`."""
        if installed is not None and self._floor[0] < installed[0] and not self._holds(installed):
            self.reset(*installed)
        first, last = self.bounds()
        if last < applied:
            raise self._corrupt(f"the log ends at {last}, but the state has applied {applied}")
        self._hard = HardState(self._hard.term, self._hard.vote, max(self._hard.commit, applied))
        if first <= last:
            self._read_rows(first, first, 0)
        beyond = next(self._database.scan(entry_key(last + 1), ENTRY_END), None)
        if beyond is not None:
            raise self._corrupt(f"entries follow the last, {last}")
        self._check(max(first, min(applied + 1, last)))

    def _holds(self, place: Place) -> bool:
        return place[0] <= self._last[0] and self.term(place[0]) == place[1]

    def _check(self, first: int) -> int:
        """Check entries `first` to the last, each against the one before."""
        index, term = first - 1, self._floor[1]
        for key, value in self._database.scan(entry_key(first), ENTRY_END):
            entry = decode_entry(key, value, self._database.path)
            if entry.index != index + 1 or entry.term < term:
                raise self._corrupt(f"entry {entry.index} of term {entry.term} follows {index} of {term}")
            index, term = entry.index, entry.term
        if first <= self._last[0] and (index, term) != self._last:
            raise self._corrupt(
                f"the log ends at {index} of term {term}, not at {self._last[0]} of {self._last[1]}"
            )
        return index + 1 - first

    def _corrupt(self, reason: str) -> CorruptStoreError:
        return CorruptStoreError(str(self._database.path), reason)


def _deletions(first: int, last: int) -> list[tuple[bytes, bytes | None]]:
    return [(entry_key(index), None) for index in range(first, last + 1)]


def _load(database: Database, disk: Disk, identity: bytes, mark: LogMark | None) -> RocksLogStore:
    """Return the log of a database whose own records agree with each other and with the mark."""
    path = database.path
    owner, guarded, floor_record, last_record, hard_record = database.get_many(
        [IDENTITY, GUARDED, FLOOR, LAST, HARD]
    )
    if owner is None:
        raise CorruptStoreError(str(path), "the log has no identity; files of it are gone")
    if owner != identity:
        raise CorruptStoreError(str(path), "the log belongs to another store")
    floor = decode_place(FLOOR, floor_record, path)
    last = decode_place(LAST, last_record, path)
    hard = decode_hard(hard_record, path)
    if last < floor:
        raise CorruptStoreError(str(path), f"the log ends at {last[0]}, below its floor {floor[0]}")
    if guarded is not None:
        if mark is None:
            raise CorruptStoreError(str(path), "the mark of the log is gone")
        if hard is None and last[0] > 0:
            raise CorruptStoreError(str(path), "the log has entries, but no hard state")
    # The log of a single voter, which wrote no hard state: what it persisted is committed.
    hard = hard or HardState(last[1], 0, last[0])
    if hard.commit > last[0] or hard.term < last[1]:
        raise CorruptStoreError(str(path), f"the log ends at {last[0]} of term {last[1]}, but says {hard}")
    if mark is None:
        mark = LogMark(*last, hard.term, hard.vote)
        write_mark(disk, path, identity, mark)
    if guarded is None:
        database.write([(GUARDED, b""), (HARD, encode_hard(hard))])
    log = RocksLogStore(database, disk, identity, floor=floor, last=last, hard_state=hard, mark=mark)
    if last[0] < mark.index or not hard.may_follow(HardState(mark.term, mark.vote)):
        raise CorruptStoreError(
            str(path),
            f"the log ends at {last[0]} with {hard}; it once reached {mark.index} and term {mark.term}",
        )
    if floor[0] <= mark.index and log.term(mark.index) != mark.entry_term:
        raise CorruptStoreError(str(path), f"entry {mark.index} is not of term {mark.entry_term}, as it was")
    return log
