"""The destination of a follower, and the folder beside it with the versions it holds. All of it blocks.

For a destination `serving/` there is `.serving.mcr` beside it:

    lock                        held by the follower
    follow.json                 what it remembers (`record`)
    v12-3fa9c1d2aabbccdd/       the files of a version
    v12-3fa9c1d2aabbccdd.json   its seal: what the folder held when it was complete

Laws:
    A folder without a seal that fits is not complete: it is never switched to, and fetching goes on in it.
    The destination is a link to a sealed folder (or, exchanged, is one), or is not there. One rename makes
    it another one, so whoever opens it gets one version, whole, at any moment, also after a power loss.
    What the destination is, and what it may have to go back to, is never removed.
"""

import fcntl
import json
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mcr.checkout.tree import translated
from mcr.errors import DestinationError
from mcr.following.exchange import exchange
from mcr.following.happenings import Switch
from mcr.following.record import FollowRecord, Held, is_folder_name
from mcr.model import EntryKind, FileEntry

FOLDER_MODE, FILE_MODE = 0o755, 0o644
_LOCK, _RECORD, _NEXT, _TRASH = "lock", "follow.json", "next", "trash-"
_SEAL_SUFFIX = ".json"


class Place:
    """One destination, held by one follower. Methods are called one at a time.

    All raise DestinationError or OutOfSpaceError, with the path in it, when the system refuses.
    """

    def __init__(self, destination: Path, switch: Switch) -> None:
        """Prepare; `open` does the work."""
        # Not resolved: the destination itself is a link.
        self.destination = Path(os.path.abspath(destination))
        self.home = self.destination.parent / f".{self.destination.name}.mcr"
        self._switch = switch
        self._lock = -1

    # Opening and closing.

    def open(self) -> None:
        """Take the destination, and put in order what a killed follower left.

        Raises:
            DestinationError: another follower has it, or something else than a follower's is there.
        """
        with translated(str(self.home)):
            self.home.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
            self._lock = os.open(
                self.home / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE
            )
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DestinationError(str(self.destination), "another follower keeps it") from error
        with translated(str(self.home)):
            self._tidy()
        self._check()

    def close(self) -> None:
        """Let others take it."""
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1

    def _tidy(self) -> None:
        for name in os.listdir(self.home):
            if name.startswith(_TRASH):
                shutil.rmtree(self.home / name)
        with suppress(FileNotFoundError):
            os.unlink(self.home / _NEXT)
        if self._switch is Switch.RENAME:
            # Killed between the exchange and the renaming that follows, a folder bears the other one's name.
            # It is known by its inode, which its seal tells.
            owners = {self._inode_sealed(name): name for name in self._sealed()}
            for name in self._folders():
                owner = owners.get(_inode(self.home / name), name)
                if owner != name:
                    os.rename(self.home / name, self.home / owner)
            _sync_folder(self.home)

    def _check(self) -> None:
        with translated(str(self.destination)):
            try:
                found = os.lstat(self.destination)
            except FileNotFoundError:
                return
        if self.current() is None:
            kind = "folder" if stat.S_ISDIR(found.st_mode) else "file"
            kind = "link" if stat.S_ISLNK(found.st_mode) else kind
            raise DestinationError(
                str(self.destination),
                f"a {kind} is there that this follower did not make (it switches by {self._switch}); "
                "name another destination, or move it away",
            )

    # What is remembered.

    def load(self) -> FollowRecord | None:
        """Return what the follower remembered; None the first time, and when that is damaged."""
        with translated(str(self.home / _RECORD)), suppress(FileNotFoundError):
            return FollowRecord.unpack((self.home / _RECORD).read_bytes())
        return None

    def save(self, record: FollowRecord) -> None:
        """Remember; durable when this returns."""
        with translated(str(self.home / _RECORD)):
            self._write(_RECORD, record.pack())

    def _write(self, name: str, data: bytes) -> None:
        written = self.home / f"{name}.new"
        with written.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(written, self.home / name)
        _sync_folder(self.home)

    # Versions.

    def folder_of(self, held: Held) -> Path:
        """Return where the files of a version are, or are to be written."""
        if self._switch is Switch.RENAME and self.current() == held.folder:
            return self.destination
        return self.home / held.folder

    def is_held(self, held: Held) -> bool:
        """Tell whether a version is here, whole, and as it was when it was sealed.

        Sizes and times are compared, not bytes: a switch must not take as long as reading a model. What a
        program wrote into the folder is noticed by that, and mended by fetching.
        """
        folder = self.folder_of(held)
        with translated(str(folder)):
            seal = self._seal_of(held.folder)
            return seal is not None and seal["files"] == _listing(folder)

    def unseal(self, held: Held) -> Path:
        """Return the folder of a version to write into; it is not complete from now on."""
        folder = self.folder_of(held)
        with translated(str(self.home)):
            if self._seal_of(held.folder) is not None:
                # Damaged, perhaps while the destination is this very folder, which its inode still tells.
                self._write_seal(held, {"inode": _inode(folder), "files": None})
        return folder

    def seal(self, held: Held, entries: Iterable[FileEntry]) -> None:
        """Note that the folder of a version is complete, and what its files are; they were synced."""
        folder = self.folder_of(held)
        digests = {_shown(entry.path): _content(entry) for entry in entries if entry.kind is EntryKind.FILE}
        with translated(str(folder)):
            self._write_seal(held, {"inode": _inode(folder), "files": _listing(folder), "digests": digests})

    def share(self, held: Held, entries: Iterable[FileEntry], others: Iterable[Held]) -> int:
        """Let a version that is being fetched have the files of others that are the same; return how many.

        They are linked, not copied: files of a version are never written in place. What is linked is read and
        compared with its digest by the fetch like what was there before.
        """
        folder = self.folder_of(held)
        wanted = {_content(entry): entry for entry in entries if entry.kind is EntryKind.FILE}
        shared = 0
        with translated(str(folder)):
            for other in others:
                seal = self._seal_of(other.folder)
                if other == held or seal is None:
                    continue
                rows = {row[0]: row for row in seal["files"] or ()}
                for shown, content in seal.get("digests", {}).items():
                    entry = wanted.get(content)
                    source = os.path.join(self.folder_of(other), _path(shown))
                    if entry is None or not _is_as_sealed(source, rows.get(shown)):
                        continue
                    target = os.path.join(folder, entry.path)
                    os.makedirs(os.path.dirname(target), FOLDER_MODE, exist_ok=True)
                    # There already, or a file system without links: it is fetched then.
                    with suppress(OSError):
                        os.link(source, target)
                        shared += 1
                        del wanted[content]
        return shared

    def _write_seal(self, held: Held, seal: Mapping[str, object]) -> None:
        self._write(held.folder + _SEAL_SUFFIX, json.dumps(seal).encode())

    def prune(self, kept: Iterable[Held]) -> int:
        """Remove all versions but those, and what the destination is; return how many went."""
        names = {held.folder for held in kept} | {self.current()}
        gone = 0
        with translated(str(self.home)):
            for name in self._folders():
                if name not in names:
                    # Out of the way first: killed on the way, nothing half removed looks like a version.
                    trash = self.home / (_TRASH + name)
                    os.rename(self.home / name, trash)
                    shutil.rmtree(trash)
                    gone += 1
            for name in self._sealed():
                if name not in names:
                    os.unlink(self.home / (name + _SEAL_SUFFIX))
        return gone

    def _folders(self) -> Iterator[str]:
        return (n for n in sorted(os.listdir(self.home)) if is_folder_name(n) and (self.home / n).is_dir())

    def _sealed(self) -> Iterator[str]:
        names = (n.removesuffix(_SEAL_SUFFIX) for n in os.listdir(self.home) if n.endswith(_SEAL_SUFFIX))
        return (name for name in sorted(names) if is_folder_name(name))

    def _seal_of(self, name: str) -> dict[str, Any] | None:
        try:
            found = json.loads((self.home / (name + _SEAL_SUFFIX)).read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return found if isinstance(found, dict) and {"inode", "files"} <= found.keys() else None

    def _inode_sealed(self, name: str) -> tuple[int, ...]:
        seal = self._seal_of(name)
        return () if seal is None else tuple(seal["inode"])

    # Switching.

    def current(self) -> str | None:
        """Return the folder name of the version that the destination is; None when it is none."""
        with translated(str(self.destination)):
            try:
                if self._switch is Switch.SYMLINK:
                    there, name = os.path.split(os.readlink(self.destination))
                    return name if there == self.home.name and is_folder_name(name) else None
                inode = _inode(self.destination)
            except FileNotFoundError:
                return None
            except OSError as error:
                # EINVAL: it is no link.
                if isinstance(error, PermissionError):
                    raise
                return None
            return next((n for n in self._sealed() if inode and self._inode_sealed(n) == inode), None)

    def switch(self, held: Held) -> None:
        """Let the destination be a version that is held; durable when this returns."""
        before = self.current()
        if before == held.folder:
            return
        with translated(str(self.destination)):
            match self._switch:
                case Switch.SYMLINK:
                    # Relative, so that the folder around both can move.
                    with suppress(FileNotFoundError):
                        os.unlink(self.home / _NEXT)
                    os.symlink(os.path.join(self.home.name, held.folder), self.home / _NEXT)
                    os.rename(self.home / _NEXT, self.destination)
                case Switch.RENAME if before is None:
                    os.rename(self.home / held.folder, self.destination)
                case Switch.RENAME:
                    exchange(self.home / held.folder, self.destination)
                    os.rename(self.home / held.folder, self.home / before)
            _sync_folder(self.destination.parent)
            _sync_folder(self.home)

    def clear(self) -> None:
        """Let the destination be nothing: the first version of all failed."""
        before = self.current()
        if before is None:
            return
        with translated(str(self.destination)):
            match self._switch:
                case Switch.SYMLINK:
                    os.unlink(self.destination)
                case Switch.RENAME:
                    os.rename(self.destination, self.home / before)
            _sync_folder(self.destination.parent)


def _inode(path: Path) -> tuple[int, ...]:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return ()
    return (found.st_dev, found.st_ino)


def _listing(folder: Path) -> list[object]:
    """Return path, kind, size and time of every file and link below a folder."""
    rows: list[object] = []
    try:
        walk = list(os.walk(folder, onerror=_raise))
    except FileNotFoundError:
        return rows
    for here, folders, files in walk:
        for name in files + [name for name in folders if os.path.islink(os.path.join(here, name))]:
            path = os.path.join(here, name)
            found = os.lstat(path)
            shown = _shown(os.path.relpath(path, folder))
            rows.append([shown, found.st_mode, found.st_size, found.st_mtime_ns])
    return sorted(rows, key=str)


def _shown(path: str) -> str:
    # JSON has no place for names that are not Unicode.
    return os.fsencode(path).hex()


def _path(shown: str) -> str:
    return os.fsdecode(bytes.fromhex(shown))


def _content(entry: FileEntry) -> str:
    """Return what files have in common that may be one: their bytes and their mode."""
    return f"{entry.blake3.hex()}{'x' if entry.executable else ''}"


def _is_as_sealed(path: str, row: list[object] | None) -> bool:
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return row is not None and row[1:] == [found.st_mode, found.st_size, found.st_mtime_ns]


def _raise(error: OSError) -> None:
    raise error


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
