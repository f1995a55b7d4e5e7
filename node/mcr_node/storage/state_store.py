"""The ordered view on disk: rows and what they are the state of, in one RocksDB, changed in one atomic write.

Rows have their own keys (`core.state.keys`), none of which starts with NUL. What the store itself keeps does:

    NUL + "format"          number of this layout, 8 bytes, 2
    NUL + "identity"        of the store this state belongs to
    NUL + "position"        u64 applied index, 32 bytes state digest, u64 term of the applied entry
    NUL + "configuration"   the members as of the applied index, opaque; absent until there is one
    NUL + "base"            u64 index, u64 term: of the snapshot this state began with; absent if with none
    NUL + "diverged"        how it was found to be wrong (`core.state.digest`); absent while it was not

Format 1, which is still read and becomes 2 with the first write, has a position without term, no
configuration and no base.

A state that was received takes this one's place by renames beside the folder:

    state.new       whole, verified, synced: from the moment it has this name it is the state
    state.old       the one before; only ever removed
"""

import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from mcr.errors import CorruptStoreError, DivergedError, StoreFormatError
from mcr.model import DIGEST_BYTES, KIB, LogIndex
from mcr_node.core.state.digest import DIGEST_START, Divergence, decode_divergence, encode_divergence
from mcr_node.core.state.view import View
from mcr_node.ports import StatePosition
from mcr_node.storage.database import Changes, Database
from mcr_node.storage.disk import Disk

STATE_FORMAT: Final = 2
CONFIGURATION_BYTES_MAX: Final = 64 * KIB
# Keys that no other one comes before.
_OWN: Final = b"\x00"
_OWN_END: Final = b"\x01"
_FORMAT_KEY: Final = _OWN + b"format"
_IDENTITY_KEY: Final = _OWN + b"identity"
_POSITION_KEY: Final = _OWN + b"position"
_CONFIGURATION_KEY: Final = _OWN + b"configuration"
_BASE_KEY: Final = _OWN + b"base"
_DIVERGED_KEY: Final = _OWN + b"diverged"
_FORMAT: Final = struct.Struct(">Q")
_POSITION: Final = struct.Struct(f">Q{DIGEST_BYTES}sQ")
_POSITION_WITHOUT_TERM: Final = struct.Struct(f">Q{DIGEST_BYTES}s")
_BASE: Final = struct.Struct(">QQ")
_START: Final = StatePosition(LogIndex(0), 0, DIGEST_START, b"")

Place = tuple[LogIndex, int]


class StateStore:
    """Implements `ports.StateStore` and `ports.Fence`. One writer, many readers."""

    def __init__(
        self, database: Database, identity: bytes, disk: Disk, open_database: Callable[[Path], Database]
    ) -> None:
        self._identity = identity
        self._disk = disk
        self._open_database = open_database
        # Held by whatever changes the state, and while a copy of it is made.
        self._changing = threading.RLock()
        # Held for each read, and while one database takes another's place; after `_changing`.
        self._reading = threading.Lock()
        # Held by whoever replaces or closes the database, before the others, and by who copies it: that takes
        # long.
        self._keeping = threading.Lock()
        self._view = _StateView(self)
        self._path = database.path
        self._adopt(database)

    def _adopt(self, database: Database) -> None:
        self._database = database
        self._format, self._position, self._base = _load(database, self._identity)
        self._divergence = _divergence_in(database)

    @staticmethod
    def open(
        path: Path,
        identity: bytes,
        *,
        disk: Disk | None = None,
        open_database: Callable[[Path], Database] = Database.open,
    ) -> "StateStore":
        """Open the state in a folder, or make an empty one; finish an installation that was under way.

        Args:
            path: folder of the database.
            identity: of the store it belongs to; kept at the first opening, compared later, so that a folder
                copied from another store is not taken for this one's.
            disk: renames folders; the real one by default.
            open_database: opens the database below.

        Raises:
            CorruptStoreError: it is damaged, or belongs to another store.
            StoreFormatError: a newer release wrote it.
            OutOfSpaceError: it cannot be opened without some space.
            StoreBusyError: it is open already.
        """
        disk = disk or Disk()
        _finish_installation(disk, path)
        database = open_database(path)
        try:
            return StateStore(database, identity, disk, open_database)
        except BaseException:
            database.close()
            raise

    def view(self) -> View:
        """Return the view; it follows later writes. Each get and each scan sees whole batches."""
        return self._view

    def position(self) -> StatePosition:
        """See `ports.StateStore`."""
        return self._position

    def applied(self) -> LogIndex:
        """See `ports.StateStore`."""
        return self._position.applied

    def applied_term(self) -> int:
        """See `ports.StateStore`."""
        return self._position.applied_term

    def state_digest(self) -> bytes:
        """See `ports.StateStore`."""
        return self._position.state_digest

    def configuration(self) -> bytes:
        """See `ports.StateStore`."""
        return self._position.configuration

    def installed(self) -> Place | None:
        """Return index and term of the snapshot this state is, None once an entry was applied to it.

        The log may still be from before the snapshot: a crash came between installing it and `reset`.
        """
        return self._base if self._base is not None and self._base[0] == self._position.applied else None

    def write(
        self,
        changes: Changes,
        applied: LogIndex,
        state_digest: bytes,
        *,
        applied_term: int,
        configuration: bytes | None = None,
    ) -> None:
        """See `ports.StateStore`.

        Raises:
            OutOfSpaceError: nothing of it is visible; open the store again before the next write.
        """
        assert len(state_digest) == DIGEST_BYTES
        assert not changes or min(changes)[0] >= _OWN_END, "these keys are the store's own"
        assert len(configuration or b"") <= CONFIGURATION_BYTES_MAX
        with self._changing:
            before = self._position
            assert applied > before.applied, "entries are applied in the order of the log"
            assert applied_term >= before.applied_term, "terms never go back"
            own: list[tuple[bytes, bytes | None]] = [
                (_POSITION_KEY, _POSITION.pack(applied, state_digest, applied_term))
            ]
            after = StatePosition(applied, applied_term, state_digest, before.configuration)
            if configuration is not None:
                own.append((_CONFIGURATION_KEY, configuration))
                after = replace(after, configuration=configuration)
            if self._format != STATE_FORMAT:
                own.append((_FORMAT_KEY, _FORMAT.pack(STATE_FORMAT)))
            self._database.write([*changes, *own])
            self._format = STATE_FORMAT
            self._position = after

    def fence(self, divergence: Divergence) -> None:
        """See `ports.Fence`."""
        with self._changing:
            self._divergence = divergence
            self._database.write([(_DIVERGED_KEY, encode_divergence(divergence))])
            self._database.sync()

    def divergence(self) -> Divergence | None:
        """See `ports.Fence`."""
        return self._divergence

    def sync(self) -> None:
        """Make all writes durable.

        Raises:
            StorageFailure: the disk did not sync; the process must end.
        """
        with self._changing:
            self._database.sync()

    def export(self, path: Path) -> StatePosition:
        """Make a copy in a folder that does not exist yet, and return what it is the state of.

        Cheap, for tables are hard links; durable only after its files and folder are synced.

        Raises:
            OutOfSpaceError: remove what there is of the copy.
            DivergedError: it is fenced; nobody else shall have it.
        """
        with self._keeping:
            # While others write; what they add until the copy is made is little.
            self._database.flush()
            return self._copy(path)

    def _copy(self, path: Path) -> StatePosition:
        with self._changing:
            if self._divergence is not None:
                raise DivergedError("this node", "its state is wrong, so it gives none away")
            self._database.checkpoint(path)
            return self._position

    def install(self, staged: Path, expected: StatePosition) -> None:
        """Put a state made by `export`, of any node, in the place of this one; durable at return.

        All or nothing: after a crash, `open` finds this state or the other. Views follow; a scan under way
        fails with FailedError, for its rows are gone.

        Args:
            staged: the folder, on the file system of this one. It is consumed.
            expected: what it must be the state of.

        Raises:
            CorruptStoreError: it is damaged, or not what was expected; this state is as it was.
            StoreFormatError: a newer release made it; this state is as it was.
            OutOfSpaceError: this state is as it was.
            StorageFailure: the process must end.
        """
        with self._keeping, self._changing:
            if self._divergence is None:
                assert expected.applied > self.applied(), "a snapshot never takes back what was applied"
            self._prepare(staged, expected)
            self._disk.rename(staged, _beside(self._path, ".new"))
            self._disk.sync_directory(staged.parent)
            # From here on the other one is the state, whatever happens.
            self._disk.sync_directory(self._path.parent)
            with self._reading:
                self._database.close()
                _finish_installation(self._disk, self._path)
                self._adopt(self._open_database(self._path))

    @staticmethod
    def verify(staged: Path, expected: StatePosition) -> None:
        """Say whether `install` would take this; nothing is replaced.

        Raises:
            CorruptStoreError, StoreFormatError: see `install`.
        """
        database = Database.open(staged)
        try:
            _check_position(database, expected)
        finally:
            database.close()

    def _prepare(self, staged: Path, expected: StatePosition) -> None:
        """Make a received database this store's own, and durable."""
        database = Database.open(staged)
        try:
            found = _check_position(database, expected)
            if _divergence_in(database) is not None:
                raise CorruptStoreError(str(staged), "it was found to be wrong where it comes from")
            base = _BASE.pack(found.applied, found.applied_term)
            database.write([(_IDENTITY_KEY, self._identity), (_BASE_KEY, base)])
        finally:
            database.close()
        for name in self._disk.list_names(staged):
            handle = self._disk.open_writable(staged / name)
            try:
                self._disk.fdatasync(handle)
            finally:
                self._disk.close(handle)
        self._disk.sync_directory(staged)

    def belong_to(self, identity: bytes) -> None:
        """Make it the state of another store, which has a log of its own; durable at return.

        Raises:
            OutOfSpaceError: it is as it was.
        """
        with self._changing:
            self._database.write([(_IDENTITY_KEY, identity), (_BASE_KEY, None)])
            self._database.sync()
            self._identity, self._base = identity, None

    def close(self) -> None:
        """Release the files."""
        with self._keeping, self._changing, self._reading:
            self._database.close()

    def _get(self, key: bytes) -> bytes | None:
        with self._reading:
            return self._database.get(key)

    def _scan(self, start: bytes, end: bytes, *, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
        with self._reading:
            return self._database.scan(start, end, reverse=reverse)


class _StateView:
    """The rows of whatever database is the state, as a view."""

    def __init__(self, store: StateStore) -> None:
        self.get = store._get  # noqa: SLF001 - one noun in two classes: what may read, and what may write
        self._scan = store._scan  # noqa: SLF001

    def scan(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Yield start <= key < end; see `View.scan`."""
        return self._scan(start, end, reverse=reverse)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _finish_installation(disk: Disk, path: Path) -> None:
    """Take over a state that was installed, and remove the one before; may be repeated from any step."""
    new, old = _beside(path, ".new"), _beside(path, ".old")
    if disk.exists(new):
        if disk.exists(path):
            disk.remove_tree(old)
            disk.rename(path, old)
            # Else the second rename could be durable without the first, on a file system that reorders.
            disk.sync_directory(path.parent)
        disk.rename(new, path)
        disk.sync_directory(path.parent)
    if disk.exists(old):
        disk.remove_tree(old)
        disk.sync_directory(path.parent)


def _load(database: Database, identity: bytes | None) -> tuple[int, StatePosition, Place | None]:
    """Return format, position and base of a state; begin one that is empty.

    Args:
        database: of the state.
        identity: None accepts another store's, and does not begin one.
    """
    path = database.path
    found, owner, position, configuration, base = database.get_many(
        [_FORMAT_KEY, _IDENTITY_KEY, _POSITION_KEY, _CONFIGURATION_KEY, _BASE_KEY]
    )
    if found is None:
        # A new database holds nothing; one that lost its own keys but holds rows is damaged, not new.
        if identity is None or any(True for _ in database.scan(b"", b"\xff")):
            raise CorruptStoreError(str(path), "it has rows but no format")
        start = _POSITION.pack(_START.applied, _START.state_digest, _START.applied_term)
        own = [
            (_FORMAT_KEY, _FORMAT.pack(STATE_FORMAT)),
            (_IDENTITY_KEY, identity),
            (_POSITION_KEY, start),
        ]
        database.write(own)
        return STATE_FORMAT, _START, None
    number = int.from_bytes(found, "big")
    if len(found) != _FORMAT.size or number == 0:
        raise CorruptStoreError(str(path), f"its format is {found.hex()}")
    if number > STATE_FORMAT:
        raise StoreFormatError(str(path), number, STATE_FORMAT)
    if identity not in (None, owner):
        raise CorruptStoreError(str(path), "it belongs to another store")
    layout = _POSITION if number == STATE_FORMAT else _POSITION_WITHOUT_TERM
    if position is None or len(position) != layout.size:
        raise CorruptStoreError(str(path), "its position in the log is missing or has a wrong length")
    applied, state_digest, *term = layout.unpack(position)
    if base is not None and len(base) != _BASE.size:
        raise CorruptStoreError(str(path), "the place of its snapshot has a wrong length")
    return (
        number,
        StatePosition(LogIndex(applied), term[0] if term else 0, state_digest, configuration or b""),
        _unpack_base(base),
    )


def _check_position(database: Database, expected: StatePosition) -> StatePosition:
    _, found, _ = _load(database, None)
    if found != expected:
        raise CorruptStoreError(
            str(database.path), f"it is the state at {found.applied}, not at {expected.applied}, or differs"
        )
    return found


def _divergence_in(database: Database) -> Divergence | None:
    found = database.get(_DIVERGED_KEY)
    return None if found is None else decode_divergence(found)


def _unpack_base(base: bytes | None) -> Place | None:
    if base is None:
        return None
    index, term = _BASE.unpack(base)
    return LogIndex(index), term
