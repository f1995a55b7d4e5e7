"""The folder of a store: what says that it is one, and the lock that keeps other processes out.

STORE           one line of JSON: format, id, encoding; written last by `create`, so a half-made store is none
lock            held by the process that has the store open; holds its process id
log/ state/     RocksDB: the replicated log, and the view that it gives
chunks/         pack segments and their index
"""

import errno
import fcntl
import json
import os
from pathlib import Path
from typing import Literal, cast

from mcr.errors import (
    AlreadyExistsError,
    CorruptStoreError,
    DestinationError,
    OutOfSpaceError,
    StoreBusyError,
    StoreFormatError,
    StoreNotFoundError,
)
from mcr.values import dataclass

STORE_FORMAT = 1
STORE_ID_BYTES = 16
_MARKER = "STORE"
_LOCK = "lock"

Encoding = Literal["raw", "auto"]


@dataclass(frozen=True, slots=True)
class StoreIdentity:
    """What the marker file says.

    Attributes:
        store_id: 16 bytes, made once; the log and the state carry it too, so that parts of two stores are
            never taken for one.
        encoding: of new chunks.
    """

    store_id: bytes
    encoding: Encoding


def create(path: Path, identity: StoreIdentity) -> None:
    """Make an empty store; durable when this returns.

    Raises:
        AlreadyExistsError: a store or other files are there.
        OutOfSpaceError, DestinationError: it cannot be written.
    """
    try:
        if (path / _MARKER).exists():
            raise AlreadyExistsError("store", str(path))
        path.mkdir(parents=True, exist_ok=True)
        # What an interrupted `create` left behind may be there; anything else is somebody's.
        if any(name not in (_MARKER + ".new", _LOCK) for name in os.listdir(path)):
            raise AlreadyExistsError("folder", str(path), "and is not empty")
        text = json.dumps(
            {"format": STORE_FORMAT, "id": identity.store_id.hex(), "encoding": identity.encoding}
        )
        write_durably(path / _MARKER, text.encode() + b"\n")
        _sync_folder(path.parent)
    except OSError as error:
        raise translated(path, error) from error


def write_durably(target: Path, data: bytes) -> None:
    """Put a small file in its place, whole or not at all; durable when this returns.

    Raises:
        OSError: it cannot be written.
    """
    unfinished = target.with_name(f"{target.name}.new")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        os.write(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(unfinished, target)
    _sync_folder(target.parent)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def translated(path: Path, error: OSError) -> OutOfSpaceError | DestinationError:
    """Return what to raise for a file that cannot be written."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutOfSpaceError(str(path), reason)
    return DestinationError(str(path), reason)


def read(path: Path) -> StoreIdentity:
    """Return the identity of the store at `path`.

    Raises:
        StoreNotFoundError: there is none.
        StoreFormatError: a newer release made it.
        CorruptStoreError: the marker is unreadable.
    """
    marker = path / _MARKER
    try:
        text = marker.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StoreNotFoundError(str(path)) from error
    except OSError as error:
        raise CorruptStoreError(str(marker), error.strerror or str(error)) from error
    try:
        value = json.loads(text)
        store_format = int(value["format"])
        if store_format > STORE_FORMAT:
            raise StoreFormatError(str(path), store_format, STORE_FORMAT)
        store_id, encoding = bytes.fromhex(value["id"]), value["encoding"]
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptStoreError(str(marker), "it is not the marker of a store") from error
    if len(store_id) != STORE_ID_BYTES or encoding not in ("raw", "auto"):
        raise CorruptStoreError(str(marker), "its id or encoding is wrong")
    return StoreIdentity(store_id, cast("Encoding", encoding))


class StoreLock:
    """The lock of an open store. The kernel drops it when the process ends, however it ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise translated(path, error) from error

    def acquire(self) -> None:
        """Take the lock, without waiting.

        Raises:
            StoreBusyError: names the process that has it.
        """
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._descriptor, 32, 0).strip()
            raise StoreBusyError(str(self._path), int(holder) if holder.isdigit() else 0) from error
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError:
            # On a full disk the id cannot be noted; the lock holds all the same.
            return

    def release(self) -> None:
        """Give the lock up; may be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def bytes_free(path: Path) -> int:
    """Return what an ordinary user may still write on the file system of `path`."""
    usage = os.statvfs(path)
    return usage.f_bavail * usage.f_frsize
