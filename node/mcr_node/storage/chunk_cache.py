"""The cache of a node: frames in files, one after the other, the oldest file dropped when there is no room.

    path/00000001.cache …           frames as in pack segments (`storage.frames`), raw

There is no index on disk and no sync: what a crash tears off is fetched again. When the cache is opened, the
headers are read; payloads are proved by their ids when they are read, as everywhere. First in, first out:
what a site reads, it reads within minutes, and then seldom again, so an order of use would cost writes for
little.

It never fails its caller. A disk that is full or broken keeps nothing here, and says so by what is not found;
the pack segments on the same disk will tell the operator.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mcr.errors import StoreFormatError
from mcr.model import MIB, Chunk, ChunkId
from mcr.values import dataclass
from mcr_node.ports_cache import ChunkCacheStats
from mcr_node.storage.encodings import Encoding
from mcr_node.storage.frames import (
    HEADER_BYTES_MAX,
    FrameError,
    FrameHeader,
    header_of,
    parse_header,
    plain_of,
)

SUFFIX = ".cache"
# A file is a share of the whole, so that dropping one frees little more than is needed.
SHARES = 8
FILE_BYTES_MIN, FILE_BYTES_MAX = 8 * MIB, 256 * MIB
# Some 150 bytes of memory each; beyond it the oldest file goes, as when there is no room.
CHUNKS_MAX = 1 << 20


@dataclass(slots=True, eq=False)
class _File:
    """One file of frames, open for reading and, if it is the newest, for appending.

    Attributes:
        ids: of the chunks in it.
        readers: who reads it just now; it is closed after the last one.
    """

    number: int
    path: Path
    descriptor: int
    size_bytes: int
    ids: list[ChunkId]
    readers: int = 0
    dropped: bool = False


@dataclass(frozen=True, slots=True)
class _Place:
    file: _File
    offset: int
    header: FrameHeader


class FileChunkCache:
    """`ports_cache.ChunkCache` in a folder. One per folder and process: whoever has the node's lock."""

    def __init__(self, path: Path, bytes_max: Callable[[int], int]) -> None:
        """Open the cache, or make one; see `open`."""
        self._path = path
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        # Held while frames are appended; taken before `_lock`.
        self._writing = threading.Lock()
        self._places: dict[ChunkId, _Place] = {}
        self._files: list[_File] = []
        self._broken = False

    @staticmethod
    def open(path: Path, bytes_max: Callable[[int], int]) -> "FileChunkCache":
        """Open the cache in a folder, or make one; one that cannot be opened is empty and stays so.

        Args:
            path: its own folder.
            bytes_max: what all files may take now, given what they take; asked now and then.
        """
        cache = FileChunkCache(path, bytes_max)
        try:
            path.mkdir(parents=True, exist_ok=True)
            for file in sorted(path.glob(f"*{SUFFIX}")):
                cache._read_headers(file)
        except (OSError, StoreFormatError):
            cache._broken = True
        return cache

    def _read_headers(self, path: Path) -> None:
        if not path.stem.isdigit():
            return
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        length_bytes = os.fstat(descriptor).st_size
        file = _File(int(path.stem), path, descriptor, 0, [])
        while file.size_bytes < length_bytes:
            try:
                header = parse_header(os.pread(descriptor, HEADER_BYTES_MAX, file.size_bytes))
            except FrameError:
                # Torn off, or never written: what comes next is written over it.
                break
            if file.size_bytes + header.frame_bytes > length_bytes:
                break
            self._places[header.chunk_id] = _Place(file, file.size_bytes, header)
            file.ids.append(header.chunk_id)
            file.size_bytes += header.frame_bytes
        self._files.append(file)

    def held(self, ids: Sequence[ChunkId]) -> set[ChunkId]:
        """See ChunkCache."""
        with self._lock:
            return {chunk_id for chunk_id in ids if chunk_id in self._places}

    def get(self, chunk_id: ChunkId) -> bytes | None:
        """See ChunkCache."""
        with self._reading(chunk_id) as place:
            if place is None:
                return None
            header, offset = place.header, place.offset + place.header.header_bytes
            try:
                return plain_of(header, os.pread(place.file.descriptor, header.payload_bytes, offset))
            except (OSError, FrameError):
                with self._lock:
                    if self._places.get(chunk_id) is place:
                        del self._places[chunk_id]
                return None

    @contextmanager
    def _reading(self, chunk_id: ChunkId) -> Iterator[_Place | None]:
        with self._lock:
            place = self._places.get(chunk_id)
            if place is not None:
                place.file.readers += 1
        try:
            yield place
        finally:
            if place is not None:
                with self._lock:
                    place.file.readers -= 1
                    self._close_if_done(place.file)

    def put(self, chunks: Sequence[Chunk]) -> None:
        """See ChunkCache."""
        if self._broken:
            return
        with self._writing:
            with self._lock:
                fresh = {one.id: one for one in chunks if one.id not in self._places}
            try:
                for chunk in fresh.values():
                    self._append(chunk)
            except OSError:
                # Full, most likely: the oldest gives way for whoever comes next, here or in the segments.
                with self._lock:
                    self._drop_oldest()

    def _append(self, chunk: Chunk) -> None:
        header = header_of(chunk.id, Encoding.RAW, chunk.data, memoryview(chunk.data).nbytes)
        file = self._file_for(header.frame_bytes)
        if file is None:
            return
        buffers: list[bytes | memoryview] = [header.pack(), memoryview(chunk.data)]
        if os.pwritev(file.descriptor, buffers, file.size_bytes) != header.frame_bytes:
            # As when nothing was written: the next frame takes the same place.
            return
        with self._lock:
            self._places[chunk.id] = _Place(file, file.size_bytes, header)
            file.ids.append(chunk.id)
            file.size_bytes += header.frame_bytes

    def _file_for(self, frame_bytes: int) -> _File | None:
        """Return the file to append to, after making room; None when there can be none."""
        used_bytes = self._used_bytes()
        bytes_max = self._bytes_max(used_bytes)
        share_bytes = min(max(bytes_max // SHARES, FILE_BYTES_MIN), FILE_BYTES_MAX)
        newest = self._files[-1] if self._files else None
        if newest is not None and newest.size_bytes + frame_bytes > share_bytes:
            newest = None
        with self._lock:
            while self._files and (
                self._used_bytes() + frame_bytes > bytes_max or len(self._places) >= CHUNKS_MAX
            ):
                if self._files[0] is newest:
                    newest = None
                self._drop_oldest()
        if frame_bytes > bytes_max:
            return None
        if newest is None:
            number = self._files[-1].number + 1 if self._files else 1
            path = self._path / f"{number:08d}{SUFFIX}"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            newest = _File(number, path, descriptor, 0, [])
            with self._lock:
                self._files.append(newest)
        return newest

    def _drop_oldest(self) -> None:
        if not self._files:
            return
        file = self._files.pop(0)
        for chunk_id in file.ids:
            place = self._places.get(chunk_id)
            if place is not None and place.file is file:
                del self._places[chunk_id]
        file.dropped = True
        with suppress(OSError):
            file.path.unlink(missing_ok=True)
        self._close_if_done(file)

    @staticmethod
    def _close_if_done(file: _File) -> None:
        if file.dropped and not file.readers and file.descriptor >= 0:
            os.close(file.descriptor)
            file.descriptor = -1

    def _used_bytes(self) -> int:
        return sum(file.size_bytes for file in self._files)

    def stats(self) -> ChunkCacheStats:
        """See ChunkCache."""
        with self._lock:
            used_bytes, count = self._used_bytes(), len(self._places)
        return ChunkCacheStats(count, used_bytes, 0 if self._broken else self._bytes_max(used_bytes))

    def close(self) -> None:
        """See ChunkCache; nobody reads any more."""
        with self._writing, self._lock:
            self._broken = True
            self._places.clear()
            for file in self._files:
                file.dropped = True
                self._close_if_done(file)
            self._files.clear()
