"""A RocksDB database that stops at a chosen durable operation, and its folder as power loss would leave it.

RocksDB syncs its tables and its list of tables itself; only the write-ahead logs hold what a `sync` has yet
to make durable, and they only grow. So the folder after power loss is a copy in which each of them ends where
it did at the last sync, or somewhere behind it.

    faults = Faults(fail_at=3, when="after")
    ... use FaultyDatabase.opener(faults) in place of Database.open, until CrashPoint ...
    image_of(path, faults.synced_wal_bytes, target)
"""

import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from rocksdict import Rdict

from mcr_node.storage.database import Changes, Database
from mcr_node.storage.log_mark import mark_path

# A merge of tables ends; this only bounds a database that never would.
COPIES_MAX = 100


class CrashPoint(BaseException):
    """The process is gone; no error, so that no `except Exception` sees it."""


@dataclass
class Faults:
    """Counts durable operations, of all databases that share it, and says which one is the last.

    Attributes:
        fail_at: number of the operation that crashes, from 1; 0 for none.
        when: whether it has its effect before the crash.
        count: operations so far.
        synced_wal_bytes: how long each write-ahead log was at its last successful sync.
    """

    fail_at: int = 0
    when: Literal["before", "after"] = "before"
    count: int = 0
    synced_wal_bytes: dict[Path, int] = field(default_factory=dict)

    def carry_out(self, operation: Callable[[], None]) -> None:
        """Do one counted operation, or crash."""
        self.count += 1
        if self.count == self.fail_at and self.when == "before":
            raise CrashPoint(f"before operation {self.count}")
        operation()
        if self.count == self.fail_at:
            raise CrashPoint(f"after operation {self.count}")


class _Opener(Protocol):
    def __call__(self, path: Path, *, founding: Changes = ()) -> Database: ...


class FaultyDatabase(Database):
    """A database whose writes and syncs are counted by `Faults`."""

    def __init__(self, path: Path, rdict: Rdict, faults: Faults) -> None:
        super().__init__(path, rdict)
        self._faults = faults
        self._record_synced()

    @staticmethod
    def opener(faults: Faults) -> _Opener:
        """Return what takes the place of `Database.open`."""

        def open_database(path: Path, *, founding: Changes = ()) -> Database:
            opened = Database.open(path, founding=founding)
            return FaultyDatabase(path, opened._opened(), faults)

        return open_database

    def write(self, changes: Changes) -> None:
        """See `Database`."""
        self._faults.carry_out(lambda: super(FaultyDatabase, self).write(changes))

    def delete_range(self, start: bytes, end: bytes) -> None:
        """See `Database`."""
        self._faults.carry_out(lambda: super(FaultyDatabase, self).delete_range(start, end))

    def sync(self) -> None:
        """See `Database`."""
        self._faults.carry_out(self._sync_and_record)

    def _sync_and_record(self) -> None:
        super().sync()
        self._record_synced()

    def _record_synced(self) -> None:
        for wal in self.path.glob("*.log"):
            self._faults.synced_wal_bytes[wal] = wal.stat().st_size


def image_of(
    database_path: Path, synced_wal_bytes: Mapping[Path, int], target: Path, *, unsynced_bytes_kept: int = 0
) -> Path:
    """Copy a database's folder as power loss would leave it, with a log's mark, and return `target`.

    Args:
        database_path: folder of a database, open or not.
        synced_wal_bytes: `Faults.synced_wal_bytes`; a log that is not in it was never synced.
        target: where the copy goes; must not exist.
        unsynced_bytes_kept: how much of what was not synced reached the medium all the same.
    """
    for _ in range(COPIES_MAX):
        before = _sizes(database_path)
        # A background thread may remove a table that it merged, or add one: then this is no moment's image.
        with suppress(shutil.Error):
            shutil.copytree(database_path, target)
            if _sizes(database_path) == before:
                break
        shutil.rmtree(target)
    else:
        raise AssertionError(f"{database_path} never held still")
    mark = mark_path(database_path)
    if mark.exists():
        # Replaced whole and synced by each write of it, so it is never torn.
        shutil.copyfile(mark, mark_path(target))
    for wal in target.glob("*.log"):
        kept = synced_wal_bytes.get(database_path / wal.name, 0) + unsynced_bytes_kept
        if wal.stat().st_size > kept:
            with wal.open("r+b") as file:
                file.truncate(kept)
    return target


def _sizes(path: Path) -> dict[str, int]:
    """Return what tells one moment of a database from another: not the engine's diary."""
    sizes = {}
    for file in path.iterdir():
        with suppress(FileNotFoundError):
            if file.name != "LOG":
                sizes[file.name] = file.stat().st_size
    return sizes
