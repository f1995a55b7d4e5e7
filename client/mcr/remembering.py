"""What large files were when they were last read, so that those nobody touched need not be read again.

A file is taken to be what it was when all of device, inode, length, time of change and time of the last write
are as they were then. The time of change cannot be set by programs, and any write moves it; so do git, restic
and Borg decide. Two things are done beside that:

- A program that maps a file and writes to a page which is still dirty from an earlier write leaves no new
  time; once the page was written back, the next write leaves one. So a file is not remembered that was
  written to within `SETTLED_NS` before it was read, twice as long as Linux lets a page be dirty.
- That holds for file systems that are told of the first write to a clean page. tmpfs is not: what was written
  to it through a map leaves no time at all. So only files of those in `TELLING` are remembered, and only
  while pages are written back as soon as usual.
- What is remembered is only the digest of the whole file. It saves reading only where it is that of the
  file which the parent version has under this path, so a wrong memory could make a version stale, never
  inconsistent.

It is a cache: whatever goes wrong with it, files are read. SQLite is loaded when there is something to do.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from mcr.scanning import Source

if TYPE_CHECKING:
    import sqlite3

SETTLED_NS = 60 * 1_000_000_000
# Of vm.dirty_expire_centisecs, 3000 by default: then a page is written back within 35 s.
DIRTY_EXPIRE_CENTISECONDS_MAX = 3000
# File systems whose `page_mkwrite` moves the times, and whose files bear the number of their device.
TELLING = frozenset({"ext4", "xfs"})
_MOUNTS, _DIRTY_EXPIRE = Path("/proc/self/mountinfo"), Path("/proc/sys/vm/dirty_expire_centisecs")
# About 150 bytes each.
FILES_MAX = 200_000
# Another process writes for milliseconds; a commit does not wait longer for a cache.
BUSY_S = 0.5
_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    path BLOB PRIMARY KEY, device INTEGER, inode INTEGER, mtime_ns INTEGER, ctime_ns INTEGER,
    size_bytes INTEGER, blake3 BLOB, noted INTEGER
) WITHOUT ROWID
"""
_FIND = (
    "SELECT blake3 FROM files WHERE path=? AND device=? AND inode=? AND mtime_ns=? AND ctime_ns=? "
    "AND size_bytes=?"
)
_TRIM = "DELETE FROM files WHERE noted < (SELECT noted FROM files ORDER BY noted DESC LIMIT 1 OFFSET ?)"


def default_place() -> Path:
    """Return where files are remembered: `~/.cache/mcr/files-1.sqlite`."""
    return Path(os.path.expanduser("~")) / ".cache" / "mcr" / "files-1.sqlite"


def telling_devices(mountinfo: str, dirty_expire_centiseconds: int) -> frozenset[int]:
    """Return the devices whose files show by their times that they were written to, by any means.

    Args:
        mountinfo: what Linux says in /proc/self/mountinfo; see proc(5).
        dirty_expire_centiseconds: vm.dirty_expire_centisecs.
    """
    if dirty_expire_centiseconds > DIRTY_EXPIRE_CENTISECONDS_MAX:
        return frozenset()
    found: set[int] = set()
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        if after.partition(" ")[0] in TELLING:
            major, _, minor = before.split(" ")[2].partition(":")
            found.add(os.makedev(int(major), int(minor)))
    return frozenset(found)


def _telling_devices_here() -> frozenset[int]:
    try:
        return telling_devices(_MOUNTS.read_text(), int(_DIRTY_EXPIRE.read_text()))
    except (OSError, ValueError, IndexError):
        # Another system than Linux, or one that hides it: nothing is known, so all is read.
        return frozenset()


class FileMemory:
    """The memory of one user on one machine. Methods block for milliseconds."""

    def __init__(
        self,
        place: Path,
        now_ns: Callable[[], int],
        devices: Callable[[], frozenset[int]] = _telling_devices_here,
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            place: the database; made when missing.
            now_ns: the present time, as files are stamped with.
            devices: those whose files may be remembered.
        """
        self._place = place
        self._devices = devices
        self.now_ns = now_ns

    def find(self, sources: Sequence[Source]) -> dict[str, bytes]:
        """Return the BLAKE3 of those files that are as they were when they were read, by `Source.path`."""
        found: dict[str, bytes] = {}
        if not sources or not self._place.exists():
            return found
        import sqlite3

        try:
            with closing(self._open()) as database:
                for source in sources:
                    row = database.execute(_FIND, _key(source)).fetchone()
                    if row is not None and isinstance(row[0], bytes):
                        found[source.path] = row[0]
        except (sqlite3.Error, OSError):
            return {}
        return found

    def note(self, read: Sequence[tuple[Source, bytes, int]]) -> None:
        """Remember files that were read, those that had settled by then.

        Args:
            read: each file, as it was before it was read and after; its BLAKE3; when reading began.
        """
        settled = [
            (*_key(source), digest, began_ns)
            for source, digest, began_ns in read
            if max(source.identity.mtime_ns, source.identity.ctime_ns) + SETTLED_NS <= began_ns
        ]
        devices = self._devices() if settled else frozenset()
        # Of each row, the second is the device; see `_key`.
        settled = [row for row in settled if row[1] in devices]
        if not settled:
            return
        import sqlite3

        try:
            self._place.parent.mkdir(parents=True, exist_ok=True)
            with closing(self._open()) as database, database:
                database.execute(_SCHEMA)
                database.executemany("INSERT OR REPLACE INTO files VALUES (?,?,?,?,?,?,?,?)", settled)
                database.execute(_TRIM, (FILES_MAX - 1,))
        except sqlite3.OperationalError:
            # In use, or nowhere to write: next time.
            return
        except sqlite3.DatabaseError:
            # Damaged; the next commit begins a new one.
            self._place.unlink(missing_ok=True)
        except OSError:
            return

    def _open(self) -> "sqlite3.Connection":
        import sqlite3

        database = sqlite3.connect(self._place, timeout=BUSY_S)
        try:
            # Losing it costs a reading; waiting for the disk would cost each commit.
            database.execute("PRAGMA synchronous=OFF")
        except BaseException:
            # It is damaged, or in use.
            database.close()
            raise
        return database


def _key(source: Source) -> tuple[bytes, int, int, int, int, int]:
    identity = source.identity
    # SQLite's numbers have a sign; inodes of some file systems use all 64 bits.
    device, inode = (number - (1 << 64) if number >= 1 << 63 else number for number in identity[:2])
    path = os.fsencode(source.absolute)
    return path, device, inode, identity.mtime_ns, identity.ctime_ns, identity.size_bytes
