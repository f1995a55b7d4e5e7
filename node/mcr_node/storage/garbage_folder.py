"""What garbage collection keeps on disk, in a folder of the store: id sets and the journal of touches.

    garbage/touched-00000012       ids (32 bytes each) that were brought or counted on in round 12
    garbage/keep/a7                ids that begin with a7, of the set `keep`

All of it may be lost: a set is made anew by each run, and without a journal an upload is repeated in part. So
nothing is synced. A torn end is cut when the file is opened again.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from mcr.errors import FailedError, McrError
from mcr.model import DIGEST_BYTES, ChunkId
from mcr_node.storage import store_folder

FOLDER = "garbage"
# Ids kept in memory before they go to their files: 2 MiB, and some 256 ids for each file.
BUFFERED_IDS_MAX = 1 << 16
# A part with so many ids more than it had distinct ones when that was last looked at is made smaller.
REPEATS_MIN = 1 << 14
READ_IDS = 1 << 15
_TOUCHED = "touched-"
# Rounds beyond would not fit the name; one a second would take three years.
_DIGITS = 8


class IdSetFolder:
    """`ports_garbage.IdSet` in 256 files, one for each first byte: ids are digests, so all are alike long."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._buffers: dict[int, bytearray] = {}
        self._buffered = 0
        # Distinct ids in a part when they were last counted.
        self._distinct: dict[int, int] = {}
        self._loaded: tuple[int, set[bytes]] | None = None
        _remove_files(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _translated(path, error) from error

    def add(self, ids: Sequence[ChunkId]) -> None:
        """See IdSet."""
        self._loaded = None
        for one in ids:
            self._buffers.setdefault(one[0], bytearray()).extend(one)
        self._buffered += len(ids)
        if self._buffered >= BUFFERED_IDS_MAX:
            self._spill()

    def _spill(self) -> None:
        buffers, self._buffers, self._buffered = self._buffers, {}, 0
        for first, buffer in buffers.items():
            file = self._part(first)
            try:
                with file.open("ab") as part:
                    part.write(buffer)
                    length = part.tell() // DIGEST_BYTES
            except OSError as error:
                raise _translated(file, error) from error
            if length > 2 * self._distinct.get(first, 0) + REPEATS_MIN:
                self._shrink(first)

    def _shrink(self, first: int) -> None:
        """Write each id of a part once: versions of a model name most of their chunks again and again."""
        file = self._part(first)
        found = self._read(first)
        try:
            file.write_bytes(b"".join(found))
        except OSError as error:
            raise _translated(file, error) from error
        self._distinct[first] = len(found)

    def _part(self, first: int) -> Path:
        return self._path / f"{first:02x}"

    def _read(self, first: int) -> set[bytes]:
        file = self._part(first)
        try:
            data = file.read_bytes()
        except FileNotFoundError:
            data = b""
        except OSError as error:
            raise _translated(file, error) from error
        return _split(data)

    def among(self, ids: Sequence[ChunkId]) -> set[ChunkId]:
        """See IdSet."""
        return {one for one in ids if one in self._with(one[0])}

    def _with(self, first: int) -> set[bytes]:
        if self._loaded is None or self._loaded[0] != first:
            found = self._read(first) | _split(bytes(self._buffers.get(first, b"")))
            self._loaded = first, found
        return self._loaded[1]

    def drop(self) -> None:
        """See IdSet."""
        self._buffers.clear()
        self._buffered, self._loaded = 0, None
        _remove_files(self._path)
        with suppress(OSError):
            self._path.rmdir()


class TouchJournalFiles:
    """`ports_garbage.TouchJournal`, one file a round."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open: tuple[int, int] | None = None

    def append(self, in_round: int, ids: Sequence[ChunkId]) -> None:
        """See TouchJournal."""
        data = b"".join(ids)
        try:
            descriptor = self._descriptor(in_round)
            if os.write(descriptor, data) != len(data):
                # The file system is full; what is there ends in the middle of an id.
                self.close()
                raise FailedError("the journal of garbage collection", "it could be written in part only")
        except OSError as error:
            raise _translated(self._file(in_round), error) from error

    def _descriptor(self, in_round: int) -> int:
        if self._open is not None and self._open[0] == in_round:
            return self._open[1]
        self.close()
        self._path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._file(in_round), os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._open = in_round, descriptor
        whole = os.fstat(descriptor).st_size // DIGEST_BYTES * DIGEST_BYTES
        os.ftruncate(descriptor, whole)
        return descriptor

    def _file(self, in_round: int) -> Path:
        return self._path / f"{_TOUCHED}{in_round:0{_DIGITS}d}"

    def read(self, since_round: int) -> Iterator[list[ChunkId]]:
        """See TouchJournal."""
        for in_round, file in self._rounds():
            if in_round < since_round:
                continue
            try:
                with file.open("rb") as journal:
                    while data := journal.read(READ_IDS * DIGEST_BYTES):
                        yield [ChunkId(one) for one in _split(data)]
            except OSError as error:
                raise _translated(file, error) from error

    def forget(self, before_round: int) -> None:
        """See TouchJournal."""
        for in_round, file in self._rounds():
            if in_round < before_round:
                with suppress(OSError):
                    file.unlink()

    def _rounds(self) -> list[tuple[int, Path]]:
        try:
            names = sorted(file.name for file in self._path.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _translated(self._path, error) from error
        return [
            (int(name.removeprefix(_TOUCHED)), self._path / name)
            for name in names
            if name.startswith(_TOUCHED) and name.removeprefix(_TOUCHED).isdigit()
        ]

    def close(self) -> None:
        """See TouchJournal."""
        if self._open is not None:
            os.close(self._open[1])
            self._open = None


class GarbageFiles:
    """`ports_garbage.GarbageFolder` in a store's folder."""

    def __init__(self, store: Path) -> None:
        self._path = store / FOLDER
        self.journal = TouchJournalFiles(self._path)

    def new_set(self, name: str) -> IdSetFolder:
        """See GarbageFolder."""
        return IdSetFolder(self._path / name)


def _split(data: bytes) -> set[bytes]:
    # A torn end, of a process that was killed, is no id.
    whole = len(data) // DIGEST_BYTES * DIGEST_BYTES
    return {data[start : start + DIGEST_BYTES] for start in range(0, whole, DIGEST_BYTES)}


def _remove_files(path: Path) -> None:
    with suppress(OSError):
        for file in path.iterdir():
            file.unlink()


def _translated(file: Path, error: OSError) -> McrError:
    return store_folder.translated(file, error)
