"""The ordered view on disk: rows, applied index and state digest in one RocksDB, changed in one atomic write.

Rows have their own keys (`core.state.keys`), none of which starts with NUL. What the store itself keeps does:

    NUL + "format"      number of this layout, 8 bytes, 1
    NUL + "identity"    of the store this state belongs to
    NUL + "position"    applied index, 8 bytes big-endian, then the state digest, 32 bytes
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mcr.errors import CorruptStoreError, StoreFormatError
from mcr.model import DIGEST_BYTES, LogIndex
from mcr_node.core.state.digest import DIGEST_START
from mcr_node.core.state.view import View
from mcr_node.storage.database import Database

STATE_FORMAT = 1
_OWN = b"\x00"
_FORMAT_KEY = _OWN + b"format"
_IDENTITY_KEY = _OWN + b"identity"
_POSITION_KEY = _OWN + b"position"
_FORMAT = struct.Struct(">Q")
_POSITION = struct.Struct(f">Q{DIGEST_BYTES}s")


class StateStore:
    """Implements `ports.StateStore`. One writer, many readers."""

    def __init__(self, database: Database, applied: LogIndex, state_digest: bytes) -> None:
        self._database = database
        self._view = _DatabaseView(database)
        self._applied = applied
        self._state_digest = state_digest

    @staticmethod
    def open(
        path: Path, identity: bytes, *, open_database: Callable[[Path], Database] = Database.open
    ) -> "StateStore":
        """Open the state in a folder, or make an empty one.

        Args:
            path: folder of the database.
            identity: of the store it belongs to; kept at the first opening, compared later, so that a folder
                copied from another store is not taken for this one's.
            open_database: opens the database below.

        Raises:
            CorruptStoreError: it is damaged, or belongs to another store.
            StoreFormatError: a newer release wrote it.
            OutOfSpaceError: it cannot be opened without some space.
            StoreBusyError: it is open already.
        """
        database = open_database(path)
        try:
            return StateStore(database, *_load(database, path, identity))
        except BaseException:
            database.close()
            raise

    def view(self) -> View:
        """Return the view; it follows later writes. Each get and each scan sees whole batches."""
        return self._view

    def applied(self) -> LogIndex:
        """Return the index of the last entry whose effects are in the view; 0 at the start."""
        return self._applied

    def state_digest(self) -> bytes:
        """Return the running digest at `applied()`, 32 bytes; 32 zero bytes at the start."""
        return self._state_digest

    def write(
        self, changes: Sequence[tuple[bytes, bytes | None]], applied: LogIndex, state_digest: bytes
    ) -> None:
        """Put (or, with None, delete) keys, with the applied index and digest, all or nothing.

        Raises:
            OutOfSpaceError: nothing of it is visible; open the store again before the next write.
        """
        assert applied > self._applied, "entries are applied in the order of the log"
        assert len(state_digest) == DIGEST_BYTES
        assert not any(key.startswith(_OWN) for key, _ in changes), "these keys are the store's own"
        self._database.write([*changes, (_POSITION_KEY, _POSITION.pack(applied, state_digest))])
        self._applied = applied
        self._state_digest = state_digest

    def sync(self) -> None:
        """Make all writes durable.

        Raises:
            StorageFailure: the disk did not sync; the process must end.
        """
        self._database.sync()

    def checkpoint(self, path: Path) -> None:
        """Make a copy, consistent with its applied index, in a folder that does not exist yet.

        Raises:
            OutOfSpaceError: remove what there is of the copy.
        """
        self._database.checkpoint(path)

    def close(self) -> None:
        """Release the files."""
        self._database.close()


def _load(database: Database, path: Path, identity: bytes) -> tuple[LogIndex, bytes]:
    found, owner, position = database.get_many([_FORMAT_KEY, _IDENTITY_KEY, _POSITION_KEY])
    if found is None:
        # A new database holds nothing; one that lost its own keys but holds rows is damaged, not new.
        if any(True for _ in database.scan(b"", b"\xff")):
            raise CorruptStoreError(str(path), "it has rows but no format")
        start = _POSITION.pack(0, DIGEST_START)
        own = [
            (_FORMAT_KEY, _FORMAT.pack(STATE_FORMAT)),
            (_IDENTITY_KEY, identity),
            (_POSITION_KEY, start),
        ]
        database.write(own)
        return LogIndex(0), DIGEST_START
    number = int.from_bytes(found, "big")
    if len(found) != _FORMAT.size or number == 0:
        raise CorruptStoreError(str(path), f"its format is {found.hex()}")
    if number > STATE_FORMAT:
        raise StoreFormatError(str(path), number, STATE_FORMAT)
    if owner != identity:
        raise CorruptStoreError(str(path), "it belongs to another store")
    if position is None or len(position) != _POSITION.size:
        raise CorruptStoreError(str(path), "its position in the log is missing or has a wrong length")
    applied, state_digest = _POSITION.unpack(position)
    return LogIndex(applied), state_digest


class _DatabaseView:
    """The rows of a database as a view."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, key: bytes) -> bytes | None:
        """Return the value at `key`, or None."""
        return self._database.get(key)

    def scan(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Yield start <= key < end; see `View.scan`."""
        return self._database.scan(start, end, reverse=reverse)
