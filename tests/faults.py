"""A disk that fails on command and forgets what was not synced.

`FaultyDisk` does everything for real and keeps a model beside it: what of each file is durable, and what was
written since. From the model it makes the folder as power loss would leave it. Its ordered store,
`FaultyDatabase`, counts its operations together with those of the disk, so "fail at operation 1, 2, 3 …"
walks through both.

    disk = FaultyDisk(root, fail_at=7)
    ... use it until PowerCutError ...
    image = disk.image_after_power_loss(target, keep="torn", seed=1)
    ... open a store on FaultyDisk(image.path, rows=image.rows) ...
"""

import random
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mcr.model import Buffer
from mcr_node.storage.disk import Disk, Handle, StorageFailure

Rows = dict[bytes, bytes]
Batch = Sequence[tuple[bytes, bytes | None]]
Keep = Literal["none", "all", "torn"]


class PowerCutError(Exception):
    """The machine is off: nothing that is called from here on has an effect."""


@dataclass(slots=True)
class _File:
    """One file, whatever its name: what is durable, and the writes since, a truncation as (length, None)."""

    durable: bytes = b""
    unsynced: list[tuple[int, bytes | None]] = field(default_factory=list)

    def content(self, writes: Sequence[tuple[int, bytes | None]]) -> bytes:
        data = bytearray(self.durable)
        for offset, written in writes:
            if written is None:
                del data[offset:]
                continue
            # A write beyond the end leaves a hole of zeros.
            data.extend(bytes(max(0, offset + len(written) - len(data))))
            data[offset : offset + len(written)] = written
        return bytes(data)

    def torn_writes(self, chance: random.Random) -> list[tuple[int, bytes | None]]:
        """Choose which unsynced writes reached the medium, whole or in part, whatever their order."""
        kept: list[tuple[int, bytes | None]] = []
        for offset, written in self.unsynced:
            fate = chance.choice(("whole", "lost", "part"))
            if fate == "whole" or (fate == "part" and written is None):
                kept.append((offset, written))
            elif fate == "part" and written:
                start, end = sorted((chance.randint(0, len(written)), chance.randint(0, len(written))))
                kept.append((offset + start, written[start:end]))
        return kept


@dataclass(frozen=True, slots=True)
class Image:
    """What is left after power loss: a folder, and the rows of its ordered store."""

    path: Path
    rows: Rows


class FaultyDisk(Disk):
    """A real disk below `root` whose operations can fail, and which can say what power loss leaves.

    Folders are durable when made; names in them are not until the folder is synced.
    """

    def __init__(
        self,
        root: Path,
        *,
        rows: Rows | None = None,
        fail_at: int | None = None,
        when: Literal["before", "after"] = "before",
        failure: Callable[[str], Exception] | None = None,
    ) -> None:
        """Count from 1 and fail at one operation.

        Args:
            root: below it lies all that an image holds.
            rows: what the ordered store holds at the start.
            fail_at: number of the operation that fails; None never fails.
            when: whether it fails without having an effect, or after it.
            failure: makes the error that is raised once; None cuts the power, for good.
        """
        self.operations = 0
        self.journal: list[str] = []
        self.off = False
        # Name of an operation of which the next one fails.
        self.fail_next: str | None = None
        self.fail_at = fail_at
        self.failure = failure
        self._root = root
        self._when = when
        self._lock = threading.RLock()
        self._names: dict[Path, _File] = {}
        self._durable_names: dict[Path, _File] = {}
        self._database = FaultyDatabase(self, dict(rows or {}))

    @contextmanager
    def operation(self, name: str) -> Iterator[None]:
        """Do one counted operation, or fail."""
        with self._lock:
            if self.off:
                raise PowerCutError(f"{name} after the power went")
            self.operations += 1
            self.journal.append(name)
            fails = self.operations == self.fail_at or name == self.fail_next
            if fails:
                self.fail_next = None
            if fails and self._when == "before":
                self._fail(name)
            yield
            if fails:
                self._fail(name)

    def _fail(self, name: str) -> None:
        if self.failure is not None:
            raise self.failure(name)
        self.off = True
        raise PowerCutError(f"{name} was operation {self.operations}")

    def open_database(self, path: Path) -> "FaultyDatabase":
        """Open the one ordered store there is."""
        path.mkdir(exist_ok=True)
        return self._database

    def _known(self, path: Path) -> _File:
        """Return the model of a file; one that was there before is durable as it is."""
        if path not in self._names:
            self._names[path] = self._durable_names[path] = _File(path.read_bytes())
        return self._names[path]

    def create(self, path: Path) -> Handle:
        """See `Disk`."""
        with self.operation("create"):
            handle = super().create(path)
            self._names[path] = _File()
            return handle

    def open_writable(self, path: Path) -> Handle:
        """See `Disk`; not counted."""
        with self._lock:
            self._known(path)
            return super().open_writable(path)

    def pwritev(self, handle: Handle, buffers: Sequence[Buffer], offset: int) -> None:
        """See `Disk`."""
        with self.operation("pwritev"):
            super().pwritev(handle, buffers, offset)
            self._known(handle.path).unsynced.append((offset, b"".join(buffers)))

    def truncate(self, handle: Handle, length_bytes: int) -> None:
        """See `Disk`."""
        with self.operation("truncate"):
            super().truncate(handle, length_bytes)
            self._known(handle.path).unsynced.append((length_bytes, None))

    def fdatasync(self, handle: Handle) -> None:
        """See `Disk`. Nothing is flushed for real, which keeps thousands of runs fast.

        One that fails drops what it should have written, as Linux does: it can be read, and is never durable.
        """
        file = self._known(handle.path)
        try:
            with self.operation("fdatasync"):
                file.durable = file.content(file.unsynced)
                file.unsynced.clear()
        except StorageFailure:
            file.unsynced.clear()
            raise

    def sync_directory(self, path: Path) -> None:
        """See `Disk`."""
        with self.operation("sync_directory"):
            for name in [name for name in self._durable_names if name.parent == path]:
                del self._durable_names[name]
            self._durable_names |= {name: file for name, file in self._names.items() if name.parent == path}

    def unlink(self, path: Path) -> None:
        """See `Disk`."""
        with self.operation("unlink"):
            if path.exists():
                self._known(path)
                del self._names[path]
            super().unlink(path)

    def rename(self, source: Path, target: Path) -> None:
        """See `Disk`."""
        with self.operation("rename"):
            super().rename(source, target)

    def replace(self, path: Path, data: Buffer) -> None:
        """See `Disk`. One step: its own steps are such that power loss leaves the old or the new."""
        with self.operation("replace"):
            Disk().replace(path, data)

    def image_after_power_loss(self, target: Path, *, keep: Keep, seed: int = 0) -> Image:
        """Write below `target` what is left when the power goes now.

        Args:
            target: a folder to make.
            keep: of what was not synced, nothing, everything (only the process died), or a random part of it.
            seed: of the random part.
        """
        chance = random.Random(seed)
        with self._lock:
            shutil.copytree(self._root, target)
            for path in self._names.keys() | self._durable_names.keys():
                (target / path.relative_to(self._root)).unlink(missing_ok=True)
            for path in sorted(self._names.keys() | self._durable_names.keys()):
                file, durable = self._names.get(path), self._durable_names.get(path)
                chosen = {"none": durable, "all": file, "torn": chance.choice((file, durable))}[keep]
                if chosen is not None:
                    writes = {"none": [], "all": chosen.unsynced, "torn": chosen.torn_writes(chance)}[keep]
                    (target / path.relative_to(self._root)).write_bytes(chosen.content(writes))
            return Image(target, self._database.rows_after_power_loss(keep, chance))


class FaultyDatabase:
    """An ordered store in memory that is as durable as `storage.database.Database`: a log, synced or not."""

    def __init__(self, disk: FaultyDisk, rows: Rows) -> None:
        self._disk = disk
        self._durable = dict(rows)
        self._unsynced: list[Batch] = []
        self.rows = dict(rows)

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return values."""
        return [self.rows.get(key) for key in keys]

    def write(self, changes: Batch) -> None:
        """Write a batch, unsynced."""
        with self._disk.operation("index write"):
            _apply(self.rows, changes)
            self._unsynced.append(list(changes))

    def sync(self) -> None:
        """Make all batches durable."""
        with self._disk.operation("index sync"):
            for batch in self._unsynced:
                _apply(self._durable, batch)
            self._unsynced.clear()

    def scan(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Yield rows in order."""
        for key in sorted(self.rows, reverse=reverse):
            if start <= key < end:
                yield key, self.rows[key]

    def close(self) -> None:
        """Do nothing: the rows stay for the image."""

    def rows_after_power_loss(self, keep: Keep, chance: random.Random) -> Rows:
        """Return the rows that are left. Of a log, what is torn is a tail."""
        kept = {"none": 0, "all": len(self._unsynced), "torn": chance.randint(0, len(self._unsynced))}[keep]
        rows = dict(self._durable)
        for batch in self._unsynced[:kept]:
            _apply(rows, batch)
        return rows


def _apply(rows: Rows, batch: Batch) -> None:
    for key, value in batch:
        if value is None:
            rows.pop(key, None)
        else:
            rows[key] = value
