"""The folder that a version is written into: every operation on it that touches the disk. All of it blocks.

Three promises are kept here. A file appears whole or not at all: it is written under `.mcr-partial`, then
renamed into place. What the folder held is not given up before the disk holds what takes its place: where
there was anything, each file is synced before it is renamed. And nothing outside the folder is ever touched,
whatever links lie in it (`tree`).

In a folder that was empty there is nothing to lose, so the system writes when it likes, unless a sync is
asked for. The first promise then ends with the machine's power: a file may be there and not be whole. The
next checkout finds it, for it hashes what is there.
"""

import fcntl
import os
import stat
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import blake3

from mcr.checkout.batch import Batch
from mcr.checkout.tree import FOLDER_MODE, OPEN_FOLDER, Tree, translated
from mcr.direct_writes import open_direct, write_at, write_cached, write_placed
from mcr.errors import CorruptChunkError, DestinationError, McrError
from mcr.manifest import PARTIAL_FOLDER, Span
from mcr.model import MIB, FileEntry, digest

FILE_MODE, EXECUTABLE_MODE = 0o644, 0o755
LOCK_NAME = "lock"
# Each try loses only to a checkout that ended in the very moment between our open and our lock.
LOCK_TRIES_MAX = 10
# Read and hashed in one step: long enough for all cores to hash it, short enough to be cancelled soon.
HASH_STEP_BYTES = 16 * MIB

# Non-blocking, or a FIFO in the way would keep us waiting for its other end.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class FileDigest:
    """The BLAKE3 of an open file, computed step by step; owns the descriptor."""

    def __init__(self, descriptor: int, size_bytes: int, shown: str) -> None:
        """Begin.

        Args:
            descriptor: of the file, open for reading.
            size_bytes: its size, so that a small file gets a small buffer.
            shown: its path, for messages.
        """
        self.descriptor = descriptor
        self._shown = shown
        threads = blake3.blake3.AUTO if size_bytes >= MIB else 1
        self._hasher = blake3.blake3(max_threads=threads)
        self._buffer = bytearray(min(size_bytes + 1, HASH_STEP_BYTES))
        self._offset_bytes = 0

    def step(self) -> bool:
        """Read and hash some more; tell whether the end is still ahead."""
        # Not mapped into memory: a file that another process shortens meanwhile would kill this one.
        with translated(self._shown):
            count = os.preadv(self.descriptor, [self._buffer], self._offset_bytes)
        self._hasher.update(memoryview(self._buffer)[:count])
        self._offset_bytes += count
        return count > 0

    def digest(self) -> bytes:
        """Return the digest of what was read."""
        return self._hasher.digest()

    def close(self) -> None:
        """Close the file."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = -1

    def __del__(self) -> None:
        # A cancelled caller never gets what its step opened.
        self.close()


_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")


def _on_entry(
    method: Callable[Concatenate["Destination", FileEntry, _Args], _Result],
) -> Callable[Concatenate["Destination", FileEntry, _Args], _Result]:
    """Make a method whose first argument is an entry raise our errors, with its path in them."""

    def on_entry(
        self: "Destination", entry: FileEntry, /, *args: _Args.args, **kwargs: _Args.kwargs
    ) -> _Result:
        with translated(self.tree.shown(entry.path)):
            return method(self, entry, *args, **kwargs)

    on_entry.__doc__ = method.__doc__
    return on_entry


class Destination:
    """One folder, held by one checkout. Methods may be called from several threads, on distinct files.

    All raise DestinationError or OutOfSpaceError, with the path in it, when the system refuses.
    """

    def __init__(self, folder: Path, *, replace: bool, sync: bool) -> None:
        """Prepare; `open` does the work.

        Args:
            folder: where to write.
            replace: remove a file, link or folder of the user that stands where another kind is needed.
            sync: have the disk hold every file in the end: written into a folder that was empty, or right
                already, as an earlier checkout may have left it to the system.
        """
        self.tree = Tree(folder, replace=replace)
        self._syncs_all = sync
        # Whether the disk holds each file before it takes its name; settled by `open`.
        self._syncs = sync
        self._partial = self._lock = -1

    # Opening and closing.

    def open(self) -> None:
        """Open the folder, making it if need be, take its lock, and settle whether files are synced.

        Raises:
            DestinationError: it is no folder, or another checkout is writing into it.
        """
        self.tree.open()
        try:
            with translated(self.tree.shown(PARTIAL_FOLDER)):
                self._take_lock()
            self._syncs = self._syncs_all or not self.tree.is_empty()
        except McrError:
            self._close_lock()
            raise

    def _take_lock(self) -> None:
        for _ in range(LOCK_TRIES_MAX):
            # Gone again between two calls: the checkout that made it has just ended.
            with suppress(FileNotFoundError):
                if self._try_lock():
                    return
            self._close_lock()
        raise DestinationError(self.tree.shown(PARTIAL_FOLDER), "it comes and goes; who is removing it?")

    def _try_lock(self) -> bool:
        with suppress(FileExistsError):
            os.mkdir(PARTIAL_FOLDER, FOLDER_MODE, dir_fd=self.tree.top)
        self._partial = os.open(PARTIAL_FOLDER, OPEN_FOLDER, dir_fd=self.tree.top)
        self._lock = os.open(LOCK_NAME, _WRITE | os.O_CREAT, FILE_MODE, dir_fd=self._partial)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DestinationError(self.tree.shown(""), "another checkout is writing into it") from error
        # Who held it before us removed lock and folder when done; then ours would lock nobody out.
        here, there = (self._lock, LOCK_NAME, self._partial), (self._partial, PARTIAL_FOLDER, self.tree.top)
        return _is_at(*here) and _is_at(*there)

    def _close_lock(self) -> None:
        for descriptor in (self._lock, self._partial):
            if descriptor >= 0:
                os.close(descriptor)
        self._lock = self._partial = -1

    def close(self, *, finished: bool) -> None:
        """Release the folder; removes unfinished files when `finished`, else keeps them for the next try."""
        try:
            if self._lock >= 0:
                self._clear_partial(everything=finished)
        except McrError:
            # After a failure the left-overs say nothing new, and would hide what went wrong.
            if finished:
                raise
        finally:
            self._close_lock()
            self.tree.close()

    def _clear_partial(self, *, everything: bool) -> None:
        with translated(self.tree.shown(PARTIAL_FOLDER)):
            names = set(os.listdir(self._partial)) - {LOCK_NAME}
            for name in names if everything else ():
                os.unlink(name, dir_fd=self._partial)
            if everything or not names:
                # The lock is still ours, so nobody is just making a file in there.
                os.unlink(LOCK_NAME, dir_fd=self._partial)
                os.rmdir(PARTIAL_FOLDER, dir_fd=self.tree.top)

    # What is there already.

    @_on_entry
    def open_same_size(self, entry: FileEntry) -> FileDigest | None:
        """Open the file at the entry's path, to be hashed; None when there is no regular file of its size."""
        folder = self.tree.open_existing(os.path.dirname(entry.path))
        if folder is None:
            return None
        try:
            descriptor = os.open(os.path.basename(entry.path), _READ, dir_fd=folder)
        except OSError:
            # Whatever stands there, it is not the file; it matters again when it is to be replaced.
            return None
        finally:
            os.close(folder)
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and status.st_size == entry.size_bytes:
            return FileDigest(descriptor, entry.size_bytes, self.tree.shown(entry.path))
        os.close(descriptor)
        return None

    @_on_entry
    def keep(self, entry: FileEntry, descriptor: int) -> None:
        """Give an open file that is right already the mode of its entry; make it durable, if all is to be."""
        if stat.S_IMODE(os.fstat(descriptor).st_mode) != _mode(entry):
            os.fchmod(descriptor, _mode(entry))
        if self._syncs_all:
            os.fsync(descriptor)

    @_on_entry
    def is_same_link(self, entry: FileEntry) -> bool:
        """Tell whether the link of an entry is there already."""
        folder = self.tree.open_existing(os.path.dirname(entry.path))
        if folder is None:
            return False
        try:
            return os.readlink(os.path.basename(entry.path), dir_fd=folder) == entry.target
        except OSError:
            return False
        finally:
            os.close(folder)

    # Writing.

    @_on_entry
    def write_whole(self, entry: FileEntry, pieces: Sequence[bytes]) -> None:
        """Write a small file into its partial file and start to write it back; `sync` waits for that."""
        flags = _WRITE | os.O_CREAT | os.O_TRUNC
        descriptor = os.open(partial_name(entry), flags, FILE_MODE, dir_fd=self._partial)
        try:
            os.fchmod(descriptor, _mode(entry))
            if not self._syncs:
                write_cached(descriptor, pieces, 0)
                return
            write_at(descriptor, None, pieces, 0)
            # On Linux this starts the write-back without waiting for it. So the blocks of a whole group of
            # files are allocated before the first sync commits the journal: once for all, not once for each.
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)

    @_on_entry
    def open_partial(self, entry: FileEntry) -> bool:
        """Make the partial file of a large file; tell whether an earlier checkout left one to go on with."""
        descriptor = os.open(partial_name(entry), _WRITE | os.O_CREAT, FILE_MODE, dir_fd=self._partial)
        try:
            os.fchmod(descriptor, _mode(entry))
            if os.fstat(descriptor).st_size == entry.size_bytes:
                return True
            os.ftruncate(descriptor, 0)
            os.ftruncate(descriptor, entry.size_bytes)
            return False
        finally:
            os.close(descriptor)

    @_on_entry
    def missing_spans(self, entry: FileEntry, spans: Sequence[Span]) -> list[Span]:
        """Return those of `spans` whose bytes are not in the partial file yet."""
        descriptor = os.open(partial_name(entry), _READ, dir_fd=self._partial)
        try:
            buffer = memoryview(bytearray(max(span.length_bytes for span in spans)))
            missing: list[Span] = []
            for span in spans:
                piece = buffer[: span.length_bytes]
                count = os.preadv(descriptor, [piece], span.offset_bytes)
                if count != span.length_bytes or digest(piece) != span.id:
                    missing.append(span)
            return missing
        finally:
            os.close(descriptor)

    @_on_entry
    def write_batch(self, entry: FileEntry, batch: Batch, *, leave_holes: bool) -> None:
        """Write chunks of a large file into its partial file.

        With `leave_holes` (the file is new) long runs of zeros are not written.
        """
        descriptor = os.open(partial_name(entry), _WRITE, dir_fd=self._partial)
        direct = open_direct(descriptor) if self._syncs else None
        try:
            for offset_bytes, data in batch.runs(leave_holes=leave_holes):
                if self._syncs:
                    write_placed(descriptor, direct, data, offset_bytes)
                else:
                    # On its way to the disk at once, as those are, it would hold up reading for nothing.
                    write_cached(descriptor, [data], offset_bytes)
        finally:
            os.close(descriptor)
            if direct is not None:
                os.close(direct)

    @_on_entry
    def sync(self, entry: FileEntry) -> None:
        """Make durable what was written of a partial file; nothing where files are not synced.

        After a failed sync the kernel may call pages clean that never reached the disk, and a resumed
        checkout would believe them. So the partial file is removed then.
        """
        if not self._syncs:
            return
        descriptor = os.open(partial_name(entry), _WRITE, dir_fd=self._partial)
        try:
            os.fdatasync(descriptor)
        except OSError:
            os.unlink(partial_name(entry), dir_fd=self._partial)
            raise
        finally:
            os.close(descriptor)

    @_on_entry
    def open_written(self, entry: FileEntry) -> FileDigest:
        """Open a synced partial file so that reading it reads the disk, as far as the kernel lets us."""
        descriptor = os.open(partial_name(entry), _READ, dir_fd=self._partial)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        return FileDigest(descriptor, entry.size_bytes, self.tree.shown(entry.path))

    @_on_entry
    def check_digest(self, entry: FileEntry, actual: bytes) -> None:
        """Hold what was read back against the manifest; a file that differs is removed before it appears.

        Raises:
            CorruptChunkError: names the file.
        """
        if actual == entry.blake3:
            return
        os.unlink(partial_name(entry), dir_fd=self._partial)
        reason = f"{self.tree.shown(entry.path)} reads back with the digest {actual.hex()}"
        raise CorruptChunkError(entry.blake3.hex(), reason)

    @_on_entry
    def finish(self, entry: FileEntry) -> None:
        """Put a written partial file into its place."""
        self.tree.put(partial_name(entry), self._partial, entry.path)

    @_on_entry
    def link(self, entry: FileEntry) -> None:
        """Make a symlink, in place of what is there."""
        name = digest(b"link\0" + entry.path.encode()).hex()
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._partial)
        os.symlink(entry.target, name, dir_fd=self._partial)
        self.tree.put(name, self._partial, entry.path)

    @_on_entry
    def make_folder(self, entry: FileEntry) -> None:
        """Make a folder and those above it."""
        os.close(self.tree.enter(entry.path))

    # The end.

    def extras(self, paths: set[str], folders: set[str], *, remove: bool) -> Generator[int]:
        """See `Tree.extras`."""
        return self.tree.extras(paths, folders, remove=remove)

    def unsynced_folders(self, folders: Iterable[str]) -> list[str]:
        """Return which folders are to be synced, so that names are as durable as files.

        Args:
            folders: of the version.
        """
        changed = self.tree.take_touched()
        if self._syncs_all:
            return sorted({"", *changed, *folders})
        return changed if self._syncs else []

    def sync_folders(self, paths: Sequence[str]) -> None:
        """Make the names in some folders durable."""
        for path in paths:
            with translated(self.tree.shown(path)):
                self.tree.sync(path)

    def sync_above(self) -> None:
        """Make the destination itself durable, where files are."""
        if not self._syncs:
            return
        with translated(self.tree.shown("")):
            self.tree.sync_above(found=self._syncs_all)


def partial_name(entry: FileEntry) -> str:
    """Return the name of a file while it is written.

    From its digest and its path: a resumed checkout finds the same file of the same content again, and two
    files of equal content that are written at the same time do not meet.
    """
    return digest(entry.blake3 + entry.path.encode()).hex()


def _mode(entry: FileEntry) -> int:
    return EXECUTABLE_MODE if entry.executable else FILE_MODE


def _is_at(descriptor: int, name: str, folder: int) -> bool:
    named = os.stat(name, dir_fd=folder, follow_symlinks=False)
    return os.path.samestat(os.fstat(descriptor), named)
