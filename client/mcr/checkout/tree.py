"""Folders of a destination, walked component by component on descriptors, so that no link is followed."""

import os
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from errno import EDQUOT, ELOOP, ENOSPC, ENOTDIR
from pathlib import Path

from mcr.errors import DestinationError, OutOfSpaceError
from mcr.manifest import PARTIAL_FOLDER, STORE_FOLDER

FOLDER_MODE = 0o755

OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OURS = frozenset((STORE_FOLDER, PARTIAL_FOLDER))


@contextmanager
def translated(shown: str) -> Iterator[None]:
    """Raise what the system refuses as our errors, with the path `shown` in them."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        if error.errno in {ENOSPC, EDQUOT}:
            raise OutOfSpaceError(shown, reason) from error
        raise DestinationError(shown, reason) from error


class Tree:
    """The folders of one destination. Several threads may use it at once."""

    def __init__(self, folder: Path, *, replace: bool) -> None:
        """Prepare; `open` does the work.

        Args:
            folder: may itself be a link to a folder; only below it no link is followed.
            replace: remove a file, link or folder of the user that stands where another kind is needed.
        """
        self._folder = folder
        self._replace = replace
        self._made: list[Path] = []
        self.top = -1
        # Folders in which a name changed; synced at the end, each once.
        self._touched: dict[str, None] = {}
        # Files and links of the user that stood in the way.
        self.removed = 0

    def open(self) -> None:
        """Open the folder, making it and those above it.

        Raises:
            DestinationError: it is no folder, or cannot be made.
        """
        with translated(self.shown("")):
            self._made = [here for here in (self._folder, *self._folder.parents) if not here.exists()]
            self._folder.mkdir(parents=True, exist_ok=True)
            self.top = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def is_empty(self) -> bool:
        """Tell whether the folder holds nothing of the user's: stores and unfinished checkouts do not count.

        Raises:
            DestinationError: it may not be read.
        """
        with translated(self.shown("")), os.scandir(self.top) as found:
            return all(each.name in _OURS for each in found)

    def close(self) -> None:
        """Release the folder, if it was opened."""
        if self.top >= 0:
            os.close(self.top)
        self.top = -1

    def shown(self, path: str) -> str:
        """Return `path` as messages show it."""
        return str(self._folder / path).encode(errors="backslashreplace").decode()

    def open_existing(self, path: str) -> int | None:
        """Open the folder at `path`, which the caller closes; None when it is not there, or behind a link."""
        descriptor = os.dup(self.top)
        for name in path.split("/") if path else ():
            try:
                below = os.open(name, OPEN_FOLDER, dir_fd=descriptor)
            except OSError as error:
                if error.errno in {ELOOP, ENOTDIR} or isinstance(error, FileNotFoundError):
                    return None
                raise
            finally:
                os.close(descriptor)
            descriptor = below
        return descriptor

    def enter(self, path: str) -> int:
        """Open the folder at `path`, making what is missing; the caller closes it.

        Raises:
            DestinationError: a file or link stands where a folder must be, and may not be replaced.
        """
        descriptor = os.dup(self.top)
        above = ""
        for name in path.split("/") if path else ():
            try:
                below = self._enter_one(descriptor, name, above)
            finally:
                os.close(descriptor)
            descriptor = below
            above = f"{above}/{name}" if above else name
        return descriptor

    def _enter_one(self, folder: int, name: str, above: str) -> int:
        try:
            return os.open(name, OPEN_FOLDER, dir_fd=folder)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in {ENOTDIR, ELOOP}:
                raise
            if not self._replace:
                shown = self.shown(os.path.join(above, name))
                raise DestinationError(
                    shown, "the version has a folder here; remove what is in the way"
                ) from error
            os.unlink(name, dir_fd=folder)
            self.removed += 1
        # Another thread may be making it too.
        with suppress(FileExistsError):
            os.mkdir(name, FOLDER_MODE, dir_fd=folder)
        self._touched[above] = None
        return os.open(name, OPEN_FOLDER, dir_fd=folder)

    def put(self, name: str, source: int, path: str) -> None:
        """Move `name` out of the folder `source` to `path`, in place of the file or link there.

        Raises:
            DestinationError: a folder stands there that is not empty, and may not be replaced.
        """
        above, base = os.path.dirname(path), os.path.basename(path)
        folder = self.enter(above)
        try:
            try:
                os.rename(name, base, src_dir_fd=source, dst_dir_fd=folder)
            except IsADirectoryError:
                self._clear(folder, base, path)
                os.rename(name, base, src_dir_fd=source, dst_dir_fd=folder)
        finally:
            os.close(folder)
        self._touched[above] = None

    def _clear(self, folder: int, name: str, path: str) -> None:
        with suppress(OSError):
            os.rmdir(name, dir_fd=folder)
            return
        if not self._replace:
            raise DestinationError(self.shown(path), "a folder that is not empty is in the way; remove it")
        # First all is looked at, so that nothing is gone when the answer is no.
        for _, names, _, _ in os.fwalk(name, dir_fd=folder, onerror=_raise):
            if STORE_FOLDER in names:
                raise DestinationError(self.shown(path), "a folder with a store in it is in the way; move it")
        for _, names, files, inside in os.fwalk(name, topdown=False, dir_fd=folder, onerror=_raise):
            links = [below for below in names if _is_link(below, inside)]
            for file in files + links:
                os.unlink(file, dir_fd=inside)
                self.removed += 1
            for below in names:
                if below not in links:
                    os.rmdir(below, dir_fd=inside)
        os.rmdir(name, dir_fd=folder)

    def extras(self, paths: set[str], folders: set[str], *, remove: bool) -> Generator[int]:
        """Go through all folders and yield, for each, how many files and links in it are not in the version.

        Stores and unfinished checkouts are not looked at.

        Args:
            paths: of all files and links of the version.
            folders: of the version, empty or not.
            remove: unlink those files, and at the end folders that are not in the version and hold nothing.
        """
        emptied: list[str] = []
        # Without `remove` a folder that may not be read is no reason to fail: its files are not ours.
        onerror = _raise if remove else None
        with translated(self.shown("")):
            for here, names, files, inside in os.fwalk(".", dir_fd=self.top, onerror=onerror):
                prefix = "" if here == "." else here.removeprefix("./") + "/"
                links = {name for name in names if _is_link(name, inside)}
                candidates = [name for name in files if name not in _OURS] + sorted(links - _OURS)
                names[:] = [name for name in names if name not in _OURS and name not in links]
                extra = [name for name in candidates if prefix + name not in paths]
                if remove:
                    for name in extra:
                        os.unlink(name, dir_fd=inside)
                        self._touched[prefix.rstrip("/")] = None
                    emptied += [prefix + name for name in names if prefix + name not in folders]
                yield len(extra)
            for path in reversed(emptied):
                # Not empty means that it holds a store.
                with suppress(OSError):
                    os.rmdir(path, dir_fd=self.top)
                    self._touched[os.path.dirname(path)] = None

    def take_touched(self) -> list[str]:
        """Return the folders that must be synced for all changes of names to be durable."""
        touched, self._touched = list(self._touched), {}
        return touched

    def sync(self, path: str) -> None:
        """Make the names in the folder at `path` durable."""
        descriptor = self.open_existing(path)
        if descriptor is None:
            return
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def sync_above(self, *, found: bool) -> None:
        """Make the folders durable that had to be made for the destination; itself too if it was `found`."""
        for made in self._made or ([self._folder] if found else []):
            descriptor = os.open(made.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _is_link(name: str, folder: int) -> bool:
    return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)


def _raise(error: OSError) -> None:
    raise error
