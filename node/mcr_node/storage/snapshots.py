"""Copies of the state on their way to other nodes, and from them.

One folder holds at most one copy that is sent and one that is received. Neither outlives the process: what a
crash leaves is removed at open, for a copy is made anew in less time than it takes to find out what it lacks.
"""

import re
import threading
from pathlib import Path
from typing import Final

import blake3

from mcr.errors import CorruptStoreError, FailedError
from mcr.model import DIGEST_BYTES, MIB
from mcr_node.ports import SnapshotFile, SnapshotManifest, StatePosition
from mcr_node.storage.disk import Disk, Handle, UnreadableError
from mcr_node.storage.state_store import CONFIGURATION_BYTES_MAX, StateStore

# Far above what metadata of a store needs: 8 MiB tables of a state of that size are this many files.
SNAPSHOT_BYTES_MAX: Final = 64 * 1024 * MIB
SNAPSHOT_FILES_MAX: Final = 10_000
# One range in memory at a time, on either side.
RANGE_BYTES_MAX: Final = 4 * MIB
# What RocksDB and its binding call their files. A name from the network never leads out of the folder.
_FILE_NAME: Final = re.compile(
    r"CURRENT|IDENTITY|rocksdict-config\.json|(MANIFEST|OPTIONS)-[0-9]{1,20}|[0-9]{1,20}\.(sst|log|blob)"
)


class SnapshotFolder:
    """Implements `ports.Snapshots`. Any thread may call it."""

    def __init__(self, path: Path, state: StateStore, disk: Disk) -> None:
        self._path = path
        self._state = state
        self._disk = disk
        self._lock = threading.Lock()
        self._made = 0
        self._exported: SnapshotReader | None = None
        self._receiving: SnapshotWriter | None = None

    @staticmethod
    def open(path: Path, state: StateStore, disk: Disk | None = None) -> "SnapshotFolder":
        """Begin with an empty folder, whatever an earlier process left in it.

        Args:
            path: the folder, on the file system of the state's.
            state: what is copied, and replaced.
            disk: writes the files; the real one by default.

        Raises:
            OutOfSpaceError, StorageFailure: it could not be made.
        """
        disk = disk or Disk()
        disk.remove_tree(path)
        disk.make_directory(path)
        return SnapshotFolder(path, state, disk)

    def export(self) -> "SnapshotReader":
        """See `ports.Snapshots`."""
        with self._lock:
            if self._exported is not None:
                self._disk.remove_tree(self._exported.path)
                self._exported = None
            self._made += 1
            path = self._path / f"export-{self._made}"
            try:
                position = self._state.export(path)
                files = tuple(_described(self._disk, path / name) for name in self._disk.list_names(path))
            except BaseException:
                self._disk.remove_tree(path)
                raise
            self._exported = SnapshotReader(path, SnapshotManifest(position, files), self._disk)
            return self._exported

    def receive(self, manifest: SnapshotManifest) -> "SnapshotWriter":
        """See `ports.Snapshots`."""
        _check(manifest, self._path)
        with self._lock:
            if self._receiving is not None:
                self._receiving.abandon()
            self._made += 1
            path = self._path / f"receive-{self._made}"
            self._disk.make_directory(path)
            self._receiving = SnapshotWriter(path, manifest, self._state, self._disk)
            return self._receiving


class SnapshotReader:
    """Implements `ports.SnapshotSource`."""

    def __init__(self, path: Path, manifest: SnapshotManifest, disk: Disk) -> None:
        self.path = path
        self._manifest = manifest
        self._names = {file.name for file in manifest.files}
        self._disk = disk

    @property
    def manifest(self) -> SnapshotManifest:
        """What it consists of."""
        return self._manifest

    def read(self, name: str, offset: int, length_bytes: int) -> bytes:
        """See `ports.SnapshotSource`; at most RANGE_BYTES_MAX at once."""
        assert name in self._names
        assert 0 <= length_bytes <= RANGE_BYTES_MAX
        try:
            return _read(self._disk, self.path / name, offset, length_bytes)
        except UnreadableError as error:
            if not self._disk.exists(self.path):
                raise FailedError("snapshot", "a newer one took its place; begin again with that") from error
            raise CorruptStoreError(str(self.path / name), str(error)) from error


class SnapshotWriter:
    """Implements `ports.SnapshotSink`. Files come one after the other, each from its start to its end.

    Bytes are hashed as they arrive: a file that is wrong is refused with its last byte, not after the last
    of all files.
    """

    def __init__(self, path: Path, manifest: SnapshotManifest, state: StateStore, disk: Disk) -> None:
        self._path = path
        self._manifest = manifest
        self._state = state
        self._disk = disk
        self._lock = threading.Lock()
        self._abandoned = False
        self._place = 0
        self._offset = 0
        self._hasher = blake3.blake3()
        self._handle: Handle | None = None
        with self._lock:
            self._go_on()

    def wanted(self) -> tuple[str, int] | None:
        """See `ports.SnapshotSink`."""
        with self._lock:
            return self._wanted()

    def _wanted(self) -> tuple[str, int] | None:
        if self._place == len(self._manifest.files):
            return None
        return self._manifest.files[self._place].name, self._offset

    def write(self, name: str, offset: int, data: bytes) -> None:
        """See `ports.SnapshotSink`."""
        with self._lock:
            self._refuse_if_abandoned()
            if self._wanted() != (name, offset):
                raise CorruptStoreError(name, f"bytes from {offset} do not continue {self._wanted()}")
            file = self._manifest.files[self._place]
            if not 0 < len(data) <= min(RANGE_BYTES_MAX, file.size_bytes - offset):
                raise CorruptStoreError(name, f"{len(data)} bytes from {offset} on do not fit")
            assert self._handle is not None
            self._disk.pwritev(self._handle, [data], offset)
            self._hasher.update(data)
            self._offset += len(data)
            self._go_on()

    def verify(self) -> None:
        """See `ports.SnapshotSink`."""
        with self._lock:
            self._refuse_if_incomplete()
            self._state.verify(self._path, self._manifest.position)

    def install(self) -> StatePosition:
        """See `ports.SnapshotSink`."""
        with self._lock:
            self._refuse_if_incomplete()
            self._abandoned = True
            try:
                self._state.install(self._path, self._manifest.position)
            finally:
                # What could not be installed is of no use; what was installed has left the folder.
                self._disk.remove_tree(self._path)
            return self._manifest.position

    def abandon(self) -> None:
        """Remove what has arrived and take no more; not an error after `install`."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        self._abandoned = True
        self._close()
        self._disk.remove_tree(self._path)

    def _refuse_if_abandoned(self) -> None:
        if self._abandoned:
            raise FailedError("snapshot", "it is no longer received; begin again")

    def _refuse_if_incomplete(self) -> None:
        self._refuse_if_abandoned()
        if self._wanted() is not None:
            raise CorruptStoreError("snapshot", f"{self._wanted()} and what follows has not arrived")

    def _go_on(self) -> None:
        """Close files that are complete, empty ones too, and open the next."""
        files = self._manifest.files
        while self._place < len(files):
            file = files[self._place]
            if self._handle is None:
                self._handle = self._disk.create(self._path / file.name)
            if self._offset < file.size_bytes:
                return
            if self._hasher.digest() != file.digest:
                self._end()
                raise CorruptStoreError(file.name, "its bytes are not those of the snapshot")
            # While the rest is on its way: all at its end would keep every commit's sync waiting.
            self._disk.fdatasync(self._handle)
            self._close()
            self._place, self._offset, self._hasher = self._place + 1, 0, blake3.blake3()

    def _close(self) -> None:
        if self._handle is not None:
            self._disk.close(self._handle)
            self._handle = None


def _check(manifest: SnapshotManifest, path: Path) -> None:
    """Refuse a manifest that no export makes, before anything is written for it."""
    position, files = manifest.position, manifest.files
    names = [file.name for file in files]
    problems = {
        "its position is out of bounds": not 0 < position.applied < 2**64
        or not 0 < position.applied_term < 2**64
        or len(position.state_digest) != DIGEST_BYTES
        or len(position.configuration) > CONFIGURATION_BYTES_MAX,
        "it has too many files": len(files) > SNAPSHOT_FILES_MAX,
        "a file has no name of a state's file": not all(map(_FILE_NAME.fullmatch, names)),
        "a file comes twice": len(set(names)) < len(names),
        "a digest or size is out of bounds": any(
            len(file.digest) != DIGEST_BYTES or file.size_bytes < 0 for file in files
        ),
        "it is too large": manifest.bytes_total > SNAPSHOT_BYTES_MAX,
    }
    for reason, applies in problems.items():
        if applies:
            raise CorruptStoreError(str(path), f"the snapshot is refused: {reason}")


def _described(disk: Disk, path: Path) -> SnapshotFile:
    hasher = blake3.blake3()
    size_bytes = 0
    while data := _read(disk, path, size_bytes, RANGE_BYTES_MAX):
        hasher.update(data)
        size_bytes += len(data)
    return SnapshotFile(path.name, size_bytes, hasher.digest())


def _read(disk: Disk, path: Path, offset: int, length_bytes: int) -> bytes:
    handle = disk.open_readable(path)
    try:
        return disk.pread(handle, length_bytes, offset)
    finally:
        disk.close(handle)
