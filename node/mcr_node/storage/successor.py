"""The folder of a new cluster, made beside what it takes the place of.

successor.new/      being made; removed by the next try
successor/          whole and synced: from the moment it has this name, the folder is the new cluster's, and
                    whoever opens it first moves the pieces to their places
before-recovery/    what they took the place of: the log, the state and the markers of the old cluster

The chunks are no part of it: they have no cluster, only content.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from mcr_node.storage.disk import Disk
from mcr_node.storage.store_folder import StoreLock

_UNFINISHED: Final = "successor.new"
_READY: Final = "successor"
KEPT: Final = "before-recovery"
# In this order, so that a folder whose marker is the new one has everything else.
_PIECES: Final = ("log", "log.mark", "state", "NODE", "STORE")


def make(path: Path, disk: Disk, fill: Callable[[Path], None]) -> None:
    """Make the folder's successor, all or nothing; `move` puts it in place. The caller holds the lock.

    Args:
        path: the folder of the old cluster's node.
        disk: renames and syncs.
        fill: makes every piece in the folder that it is given, which does not exist yet.

    Raises:
        McrError, StorageFailure: the folder is the old cluster's, or the next to open it finishes this.
    """
    unfinished = path / _UNFINISHED
    disk.remove_tree(unfinished)
    fill(unfinished)
    assert all(disk.exists(unfinished / name) for name in _PIECES)
    _sync_tree(disk, unfinished)
    disk.remove_tree(path / KEPT)
    disk.rename(unfinished, path / _READY)
    disk.sync_directory(path)


def finish(path: Path, disk: Disk | None = None) -> None:
    """Finish what a crash interrupted; nearly always there is nothing to do.

    Raises:
        StoreBusyError: another process does it.
        OutOfSpaceError, StorageFailure: repeat it.
    """
    disk = disk or Disk()
    if not disk.exists(path / _READY):
        return
    lock = StoreLock(path)
    try:
        lock.acquire()
        if disk.exists(path / _READY):
            move(path, disk)
    finally:
        lock.release()


def move(path: Path, disk: Disk) -> None:
    """Put each piece in its place; may be repeated from any step.

    The caller holds the store's lock, and has closed its log and state: they would write to files that have
    the names of theirs, and are not theirs.
    """
    ready, kept = path / _READY, path / KEPT
    disk.make_directory(kept)
    for name in _PIECES:
        if not disk.exists(ready / name):
            continue
        if disk.exists(path / name):
            disk.rename(path / name, kept / name)
            # Else the second rename could be durable without the first, on a file system that reorders.
            disk.sync_directory(kept)
            disk.sync_directory(path)
        disk.rename(ready / name, path / name)
        disk.sync_directory(path)
    disk.remove_tree(ready)
    disk.sync_directory(path)


def _sync_tree(disk: Disk, path: Path) -> None:
    for name in disk.list_names(path):
        if (path / name).is_dir():
            _sync_tree(disk, path / name)
            continue
        handle = disk.open_writable(path / name)
        try:
            disk.fdatasync(handle)
        finally:
            disk.close(handle)
    disk.sync_directory(path)
