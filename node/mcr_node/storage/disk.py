"""The file system as the pack files see it: few calls, so that tests can break every one of them.

`tests.faults.FaultyDisk` stands in for `Disk` and loses what was not synced; nothing else in a chunk store
touches a segment file.
"""

import errno
import functools
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mcr.direct_writes import open_direct, write_at
from mcr.errors import FailedError, OutOfSpaceError
from mcr.model import KIB, MIB, Buffer
from mcr.values import dataclass
from mcr_node.ports import StorageFailure as StorageFailure

_DRAFT_SUFFIX = ".draft"
_NO_SPACE = frozenset((errno.ENOSPC, errno.EDQUOT))
# What a failing medium or a damaged file system answers, or a file that is gone. Everything else (too many
# open files, no permission) says nothing about the bytes on disk.
_DAMAGE = frozenset((errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.ENOENT))
# From here on a stretch is left to a kernel that by itself reads as far ahead of a reader. It takes large
# blocks of memory then, where it takes single pages for a stretch that it is asked for: a checkout of 1 GiB
# from a disk with a window of 8 MiB needed 2.45 instead of 2.85 s.
KERNEL_READS_AHEAD_BYTES_MIN = MIB
_DEVICES_MAX = 16


class UnreadableError(Exception):
    """The medium cannot give back these bytes, or the file is gone; a copy elsewhere has to serve."""


@dataclass(frozen=True, slots=True)
class Handle:
    """An open file; of no use after `Disk.close`.

    Attributes:
        direct: see `mcr.direct_writes`; None for files that are only read.
    """

    path: Path
    descriptor: int
    direct: int | None = None


def _translated(error: OSError, path: Path) -> Exception:
    """Return what to raise for a write that failed."""
    if error.errno in _NO_SPACE:
        return OutOfSpaceError(str(path), os.strerror(error.errno or 0))
    return StorageFailure(f"{path}: {error.strerror}")


def _unreadable(error: OSError, path: Path) -> Exception:
    """Return what to raise for an open or a read that failed."""
    if error.errno in _DAMAGE:
        return UnreadableError(f"{path.name}: {error.strerror}")
    return FailedError(str(path), str(error.strerror))


@functools.lru_cache(_DEVICES_MAX)
def read_ahead_bytes(device: int, system: Path = Path("/sys")) -> int:
    """Return how far the kernel reads ahead on a device; 0 where it does not say.

    Args:
        device: `st_dev` of a file.
        system: where sysfs is.
    """
    name = f"{os.major(device)}:{os.minor(device)}"
    # A partition has the window of its disk.
    for place in (system / "class/bdi" / name, system / "dev/block" / name / "../bdi"):
        with suppress(OSError, ValueError):
            return int((place / "read_ahead_kb").read_text()) * KIB
    return 0


class Disk:
    """The real file system. Stateless, so any number of threads may share it."""

    def make_directory(self, path: Path) -> None:
        """Create a folder and its parents; not an error when it exists.

        Raises:
            OutOfSpaceError, StorageFailure: it could not be made.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _translated(error, path) from error

    def exists(self, path: Path) -> bool:
        """Return whether there is a file or folder at `path`."""
        return path.exists()

    def list_names(self, path: Path) -> list[str]:
        """Return the names in a folder, sorted."""
        return sorted(os.listdir(path))

    def create(self, path: Path) -> Handle:
        """Create an empty file for reading and writing; its name is durable after `sync_directory`.

        Raises:
            OutOfSpaceError: no space for it.
            StorageFailure: it exists, or cannot be made.
        """
        return self._open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)

    def open_writable(self, path: Path) -> Handle:
        """Open a file that exists for reading and writing.

        Raises:
            StorageFailure: it cannot be opened.
        """
        return self._open(path, os.O_RDWR)

    def _open(self, path: Path, flags: int) -> Handle:
        try:
            descriptor = os.open(path, flags | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise _translated(error, path) from error
        return Handle(path, descriptor, open_direct(descriptor))

    def open_readable(self, path: Path) -> Handle:
        """Open a file that exists for reading.

        Raises:
            UnreadableError: it is gone, or the medium fails.
            FailedError: it cannot be opened for a reason that lies elsewhere, such as too many open files.
        """
        try:
            return Handle(path, os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            raise _unreadable(error, path) from error

    def close(self, handle: Handle) -> None:
        """Release a file. Says nothing about durability."""
        os.close(handle.descriptor)
        if handle.direct is not None:
            os.close(handle.direct)

    def pwritev(self, handle: Handle, buffers: Sequence[Buffer], offset: int) -> None:
        """Write all buffers one after the other from `offset`; durable after `fdatasync`.

        Raises:
            OutOfSpaceError: the disk is full; any part may have been written.
            StorageFailure: any part may have been written.
        """
        try:
            write_at(handle.descriptor, handle.direct, buffers, offset)
        except OSError as error:
            raise _translated(error, handle.path) from error

    def pread(self, handle: Handle, length_bytes: int, offset: int) -> bytes:
        """Return `length_bytes` from `offset`, fewer only at the end of the file.

        Raises:
            UnreadableError: the medium fails.
            FailedError: any other reason.
        """
        try:
            data = os.pread(handle.descriptor, length_bytes, offset)
            while 0 < len(data) < length_bytes:
                more = os.pread(handle.descriptor, length_bytes - len(data), offset + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            raise _unreadable(error, handle.path) from error
        return data

    def preadv(self, handle: Handle, buffers: Sequence[bytearray | memoryview], offset: int) -> int:
        """Fill buffers one after the other from `offset`; return the bytes read, as `pread`.

        Raises:
            UnreadableError, FailedError: as `pread`.
        """
        left = [view for buffer in buffers if (view := memoryview(buffer)).nbytes]
        done = 0
        try:
            while left and (count := os.preadv(handle.descriptor, left, offset + done)):
                done += count
                while left and count >= left[0].nbytes:
                    count -= left.pop(0).nbytes
                if count:
                    left[0] = left[0][count:]
        except OSError as error:
            raise _unreadable(error, handle.path) from error
        return done

    def read_ahead(self, handle: Handle, length_bytes: int, offset: int) -> None:
        """Let the kernel read a stretch that is about to be read in order; failures come with `pread`."""
        with suppress(OSError):
            window_bytes = read_ahead_bytes(os.fstat(handle.descriptor).st_dev)
            by_itself = min(length_bytes, window_bytes) >= KERNEL_READS_AHEAD_BYTES_MIN
            advice = os.POSIX_FADV_SEQUENTIAL if by_itself else os.POSIX_FADV_WILLNEED
            os.posix_fadvise(handle.descriptor, offset, length_bytes, advice)

    def size_bytes(self, handle: Handle) -> int:
        """Return the length of a file."""
        return os.fstat(handle.descriptor).st_size

    def truncate(self, handle: Handle, length_bytes: int) -> None:
        """Cut a file; durable after `fdatasync`.

        Raises:
            OutOfSpaceError, StorageFailure: it may or may not be cut.
        """
        try:
            os.ftruncate(handle.descriptor, length_bytes)
        except OSError as error:
            raise _translated(error, handle.path) from error

    def fdatasync(self, handle: Handle) -> None:
        """Make all completed writes to a file durable, and its length.

        Raises:
            StorageFailure: what was written since the last success may be lost, even if it can be read. No
                space is no exception: writeback that found none has dropped the pages all the same.
        """
        try:
            os.fdatasync(handle.descriptor)
        except OSError as error:
            raise StorageFailure(f"{handle.path}: {error.strerror}") from error

    def sync_directory(self, path: Path) -> None:
        """Make creations, renames and removals in a folder durable.

        Raises:
            StorageFailure: they may be lost.
        """
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StorageFailure(f"{path}: {error.strerror}") from error

    def rename(self, source: Path, target: Path) -> None:
        """Rename a file or folder; durable after `sync_directory`.

        Raises:
            OutOfSpaceError, StorageFailure: nothing was renamed.
        """
        try:
            os.rename(source, target)
        except OSError as error:
            raise _translated(error, source) from error

    def unlink(self, path: Path) -> None:
        """Remove a file, if it is there; durable after `sync_directory`.

        Raises:
            StorageFailure: it is still there.
        """
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise _translated(error, path) from error

    def replace(self, path: Path, data: Buffer) -> None:
        """Put a small file in place of what is at `path`, whole or not at all; durable when this returns.

        Raises:
            OutOfSpaceError: what was there still is.
            StorageFailure: either may be there.
        """
        draft = path.with_name(path.name + _DRAFT_SUFFIX)
        self.unlink(draft)
        handle = self.create(draft)
        try:
            self.pwritev(handle, [data], 0)
            self.fdatasync(handle)
        finally:
            self.close(handle)
        self.rename(draft, path)
        self.sync_directory(path.parent)

    def remove_tree(self, path: Path) -> None:
        """Remove a folder and all in it, if it is there; durable after `sync_directory` of its parent.

        Raises:
            StorageFailure: some of it is still there.
        """
        try:
            if path.exists():
                shutil.rmtree(path)
        except OSError as error:
            raise StorageFailure(f"{path}: {error.strerror}") from error

    def free_bytes(self, path: Path) -> int:
        """Return what an ordinary process may still write to the file system that holds `path`."""
        status = os.statvfs(path)
        return status.f_bavail * status.f_frsize
