"""A chunk index made anew from the segments, for whoever cannot trust the one that is there."""

from collections.abc import Callable
from pathlib import Path

from mcr_node.storage.chunk_index import KeyValues
from mcr_node.storage.chunk_store import PackChunkStore
from mcr_node.storage.database import Database
from mcr_node.storage.disk import Disk
from mcr_node.storage.recovery import RecoveryReport, move_aside


def rebuild_index(
    path: Path, *, disk: Disk, open_database: Callable[[Path], KeyValues] = Database.open
) -> RecoveryReport:
    """Make a new index for the chunk store in `path`, which nobody has open, by reading all its segments.

    The old index is kept beside it. Chunks that were removed and not yet compacted away come back, as
    garbage.

    Raises:
        OutOfSpaceError, StorageFailure: it could not be written; run it again.
        StoreFormatError: a newer release wrote a segment.
    """
    if disk.exists(path / "index"):
        move_aside(path / "index", disk)
    store = PackChunkStore.open(path, encoding="raw", disk=disk, open_database=open_database)
    store.close()
    return store.recovered
