"""Walking what is to be committed: a file or a folder, as a list of sources in path order.

What is decided here:

- A file is committed under its base name, a folder under the paths inside it.
- Nothing is left out silently, hidden files and `.git` included; but for folders called `.mcr` (an embedded
  store) and `.mcr-partial` (an unfinished checkout), which are never part of a version.
- A symlink that stays inside (`mcr.manifest.check_symlink`) is kept as a link. One that leaves the tree or is
  absolute is followed when it leads to a regular file, as in a Hugging Face cache, where every file of a
  snapshot is a link to ../../blobs. One that leads to a folder outside, or nowhere, is an error: a version
  without the bytes behind it would be a promise that nobody can keep.
- Hard links are separate files with equal content. Empty folders are kept.
- Names are kept byte for byte: composed and decomposed forms of a letter differ, upper and lower case too. A
  name that is not UTF-8 is an error, for no manifest can hold it.
- FIFOs, sockets and devices are errors.

A source remembers the identity of its file (device, inode, times, size), so that a file that changes between
the scan and the end of the commit is noticed, and never committed half old, half new.
"""

import os
import stat
from collections.abc import Iterable
from typing import NamedTuple

from mcr.errors import SourceChangedError, SourceNotFoundError, SourceUnreadableError, UnsafePathError
from mcr.manifest.paths import PARTIAL_FOLDER, STORE_FOLDER, check_path, check_symlink
from mcr.manifest.patterns import PathPattern
from mcr.model import EntryKind
from mcr.values import dataclass

_SPECIAL_KINDS = (
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISBLK, "a block device"),
    (stat.S_ISCHR, "a character device"),
)


class Identity(NamedTuple):
    """What the file system says about a file; any write, rename over it or chmod changes it."""

    device: int
    inode: int
    mtime_ns: int
    ctime_ns: int
    size_bytes: int

    @staticmethod
    def of(status: os.stat_result) -> "Identity":
        """Take the identity out of a stat."""
        return Identity(status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)


@dataclass(frozen=True, slots=True)
class Source:
    """One thing to commit.

    Attributes:
        path: its path in the manifest.
        absolute: where to read it; for a followed link, the file it leads to.
        size_bytes, executable: of a file.
        target: of a symlink, as stored in it.
        identity: at the time of the scan.
    """

    path: str
    absolute: str
    kind: EntryKind
    size_bytes: int
    executable: bool
    target: str
    identity: Identity


def scan(path: str | os.PathLike[str], exclude: Iterable[str] = ()) -> list[Source]:
    """Return all that a commit of `path` holds, sorted by path (UTF-8 bytes).

    Args:
        path: a file or a folder.
        exclude: patterns (`mcr.manifest.PathPattern`) of paths in the folder that are left out.

    Raises:
        SourceNotFoundError: there is nothing at `path`.
        SourceUnreadableError: names the first thing that cannot be committed, and why.
        SourceChangedError: something went away while it was looked at.
    """
    top = os.path.abspath(path)
    if "\0" in top:
        raise SourceNotFoundError(_shown(top))
    try:
        status = os.stat(top)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SourceNotFoundError(_shown(top)) from error
    except OSError as error:
        raise _unreadable(top, error) from error
    if stat.S_ISDIR(status.st_mode):
        patterns = [PathPattern(text) for text in exclude]
        found = [
            source
            for source in _scan_folder(top)
            if not any(pattern.fits(source.path) for pattern in patterns)
        ]
    else:
        name = os.path.basename(top)
        _check_name(name, top)
        found = [_file(name, os.path.realpath(top), top, status)]
    # Code points of str order as the UTF-8 bytes do.
    found.sort(key=lambda source: source.path)
    return found


def _scan_folder(top: str) -> list[Source]:
    found: list[Source] = []
    folders: list[tuple[str, str]] = [("", top)]
    while folders:
        prefix, absolute = folders.pop()
        is_empty = True
        try:
            with os.scandir(absolute) as entries:
                for entry in entries:
                    is_folder = entry.is_dir(follow_symlinks=False)
                    if is_folder and entry.name in {STORE_FOLDER, PARTIAL_FOLDER}:
                        continue
                    is_empty = False
                    path = prefix + entry.name
                    _check_name(path, entry.path)
                    if is_folder:
                        folders.append((path + "/", entry.path))
                    else:
                        found.append(_entry(path, entry))
        except OSError as error:
            raise _unreadable(absolute, error) from error
        if is_empty and prefix:
            status = _stat(absolute, follow_symlinks=False)
            path = prefix.rstrip("/")
            found.append(Source(path, absolute, EntryKind.DIRECTORY, 0, False, "", Identity.of(status)))
    return found


def _entry(path: str, entry: os.DirEntry[str]) -> Source:
    status = _stat(entry.path, follow_symlinks=False)
    if stat.S_ISLNK(status.st_mode):
        return _link(path, entry.path, status)
    return _file(path, entry.path, entry.path, status)


def _link(path: str, absolute: str, status: os.stat_result) -> Source:
    try:
        target = os.readlink(absolute)
    except OSError as error:
        raise SourceChangedError(_shown(absolute), "it is no longer a link") from error
    try:
        behind = os.stat(absolute)
    except FileNotFoundError as error:
        raise SourceUnreadableError(
            _shown(absolute), f"it links to {_shown(target)}, which is not there"
        ) from error
    except OSError as error:
        raise _unreadable(absolute, error) from error
    try:
        check_symlink(path, target)
    except UnsafePathError as error:
        if stat.S_ISREG(behind.st_mode):
            return _file(path, os.path.realpath(absolute), absolute, behind)
        raise SourceUnreadableError(
            _shown(absolute), f"it links to {_shown(target)}, which is not a file: {error.reason}"
        ) from error
    return Source(path, absolute, EntryKind.SYMLINK, 0, False, target, Identity.of(status))


def _file(path: str, absolute: str, named: str, status: os.stat_result) -> Source:
    for is_kind, kind in _SPECIAL_KINDS:
        if is_kind(status.st_mode):
            raise SourceUnreadableError(_shown(named), f"it is {kind}, not a file")
    if not stat.S_ISREG(status.st_mode):
        raise SourceChangedError(_shown(named), "it is no longer a file")
    # Asked now, so that a commit of a thousand files fails at once and not after an hour.
    if not os.access(absolute, os.R_OK):
        raise SourceUnreadableError(_shown(named), "permission denied")
    executable = bool(status.st_mode & stat.S_IXUSR)
    return Source(path, absolute, EntryKind.FILE, status.st_size, executable, "", Identity.of(status))


def _check_name(path: str, absolute: str) -> None:
    try:
        check_path(path)
    except UnsafePathError as error:
        raise SourceUnreadableError(_shown(absolute), error.reason) from error


def _stat(absolute: str, *, follow_symlinks: bool) -> os.stat_result:
    try:
        return os.stat(absolute, follow_symlinks=follow_symlinks)
    except FileNotFoundError as error:
        raise SourceChangedError(_shown(absolute), "it was removed") from error
    except OSError as error:
        raise _unreadable(absolute, error) from error


def _unreadable(absolute: str, error: OSError) -> SourceUnreadableError:
    return SourceUnreadableError(_shown(absolute), (error.strerror or str(error)).lower())


def _shown(path: str) -> str:
    """Return `path` in a form that can be printed even when it is not valid Unicode."""
    return path.encode(errors="backslashreplace").decode()


def open_source(source: Source) -> int:
    """Open a file for reading and return its descriptor, which the caller closes.

    Raises:
        SourceChangedError: it is not the file that was scanned.
        SourceUnreadableError: the system refuses.
    """
    assert source.kind is EntryKind.FILE
    # A followed link was resolved by the scan, so a link here is news. Non-blocking, because what became a
    # FIFO would keep us waiting for a writer; on a regular file it means nothing.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(source.absolute, flags)
    except PermissionError as error:
        raise _unreadable(source.absolute, error) from error
    except OSError as error:
        raise SourceChangedError(_shown(source.absolute), (error.strerror or str(error)).lower()) from error
    try:
        _check_identity(source, os.fstat(descriptor))
    except SourceChangedError:
        os.close(descriptor)
        raise
    return descriptor


def check_unchanged(source: Source) -> None:
    """Look at a source again, after it was read.

    Raises:
        SourceChangedError: it was written, replaced or removed since the scan.
        SourceUnreadableError: the system no longer lets us look.
    """
    _check_identity(source, _stat(source.absolute, follow_symlinks=False))
    # A new link often gets the inode of the one it replaces, within the same tick of the clock.
    if source.kind is EntryKind.SYMLINK and os.readlink(source.absolute) != source.target:
        raise SourceChangedError(_shown(source.absolute), "it links elsewhere now")


def _check_identity(source: Source, status: os.stat_result) -> None:
    before, now = source.identity, Identity.of(status)
    if before == now:
        return
    if (before.device, before.inode) != (now.device, now.inode):
        reason = "it was replaced"
    elif before.size_bytes != now.size_bytes:
        reason = f"it had {before.size_bytes} bytes, now {now.size_bytes}"
    elif before.mtime_ns != now.mtime_ns:
        reason = "it was written to"
    else:
        reason = "its permissions or links changed"
    raise SourceChangedError(_shown(source.absolute), reason)


def read_exactly(descriptor: int, buffer: memoryview, offset_bytes: int, source: Source) -> None:
    """Fill a buffer from a place in an opened source.

    Raises:
        SourceChangedError: the file ends before it.
        SourceUnreadableError: the disk cannot read it.
    """
    done = 0
    while done < len(buffer):
        try:
            count = os.preadv(descriptor, [buffer[done:]], offset_bytes + done)
        except OSError as error:
            raise SourceUnreadableError(source.absolute, error.strerror or str(error)) from error
        if count == 0:
            raise SourceChangedError(source.absolute, "it became shorter")
        done += count
