"""From a folder to stored chunks and a manifest: read, cut, hash, hand over; bounded memory, one pass.

Three lanes share each window of a file, so that two cores are busy and no byte is read twice: chunks are
hashed and stored, while the file's SHA-256 and its BLAKE3 go on window by window. A file whose chunk ids turn
out to be those of the parent version skips the two file digests: equal ids are equal bytes, so the parent's
digests hold. At the first difference the file is read again with all lanes.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import blake3

from mcr.blocking import run_blocking, settle
from mcr.errors import SourceUnreadableError
from mcr.manifest import (
    FileRow,
    ManifestBuilder,
    ManifestSummary,
    drain_async,
    walk_files,
)
from mcr.matching import UNREADABLE, holds_all, match
from mcr.model import Chunk, ChunkId, ChunkRef, EntryKind, FileEntry, Tensor
from mcr.scanning import Source, check_unchanged, open_source, read_exactly
from mcr.transfer import ChunkTransport, Stored
from mcr.values import dataclass

if TYPE_CHECKING:
    from mcr import cutting
    from mcr.remembering import FileMemory

# Files up to this size are read whole, many to one step; larger ones go window by window.
SMALL_FILE_BYTES_MAX = 1024 * 1024
GROUP_BYTES_MAX = 8 * 1024 * 1024
GROUP_FILES_MAX = 256
# Groups and windows under way at once. Six windows of 8 MiB keep three lanes on two cores busy.
GROUPS_IN_FLIGHT = 3
WINDOWS_IN_FLIGHT = 6
NODES_BUFFERED_MAX = 64


@dataclass(frozen=True, slots=True)
class CommitProgress:
    """How far a commit is; `phase` is scan, read or commit."""

    phase: str
    bytes_done: int
    bytes_total: int
    files_done: int
    files_total: int


@dataclass(frozen=True, slots=True)
class Uploaded:
    """A manifest whose chunks are all stored and synced, and what storing them took (nodes not counted)."""

    manifest: ManifestSummary
    stored: Stored


class Hasher(Protocol):
    """What hashlib and blake3 have in common."""

    def update(self, data: memoryview, /) -> object:
        """Take more bytes."""


@dataclass(slots=True)
class _Window:
    """One stretch of a large file in memory, cut into pieces. The buffer is used again for a later one."""

    buffer: bytearray
    offset_bytes: int
    end_bytes: int
    pieces: list[cutting.Piece]

    @staticmethod
    def read(
        buffer: bytearray, descriptor: int, source: Source, plan: cutting.CutPlan, offset_bytes: int
    ) -> _Window:
        # Imported late, as below: a commit of files that are known to be unchanged does without it.
        from mcr import cutting

        length_bytes = min(len(buffer), source.size_bytes - offset_bytes)
        view = memoryview(buffer)[:length_bytes]
        read_exactly(descriptor, view, offset_bytes, source)
        is_last = offset_bytes + length_bytes == source.size_bytes
        pieces = cutting.cut_window(plan, offset_bytes, view, is_last=is_last)
        end_bytes = pieces[-1].offset_bytes + pieces[-1].length_bytes
        assert end_bytes > offset_bytes, "a window must make progress"
        return _Window(buffer, offset_bytes, end_bytes, pieces)

    def data(self) -> memoryview:
        """The bytes that the pieces cover."""
        return memoryview(self.buffer)[: self.end_bytes - self.offset_bytes]

    def chunks(self) -> list[Chunk]:
        """Hash every piece; blocks."""
        data = self.data()
        chunks: list[Chunk] = []
        for piece in self.pieces:
            start = piece.offset_bytes - self.offset_bytes
            chunks.append(
                Chunk.of(data[start : start + piece.length_bytes], element_bytes=piece.element_bytes)
            )
        return chunks


_Work = Callable[[_Window], Coroutine[Any, Any, list[Chunk]]]


class _Lane:
    """One digest over a whole file, fed window by window, in order, while other lanes do other things."""

    def __init__(self, executor: ThreadPoolExecutor, hasher: Hasher) -> None:
        self._executor = executor
        self._hasher = hasher
        # asyncio.Lock serves those who wait in the order they came, which is the order of the windows.
        self._turn = asyncio.Lock()
        self._offset_bytes = 0

    async def update(self, window: _Window) -> None:
        async with self._turn:
            assert window.offset_bytes == self._offset_bytes, "windows are hashed in file order"
            await run_blocking(self._executor, lambda: self._hasher.update(window.data()))
            self._offset_bytes = window.end_bytes


class _Known:
    """The files of the parent version, met in path order beside the sources; holds one row at a time."""

    def __init__(self, transport: ChunkTransport, parent: ChunkId | None, under: str) -> None:
        self._rows: AsyncIterator[FileRow] | None = None
        if parent is not None:
            self._rows = drain_async(walk_files(parent, under=under), transport.get)
        self._row: FileRow | None = None

    async def find(self, source: Source) -> FileRow | None:
        """Return the parent's row of the same path and size, if it is a file."""
        while self._rows is not None and (self._row is None or self._row.entry.path < source.path):
            try:
                self._row = await anext(self._rows, None)
            except UNREADABLE:
                # The parent is a short cut, and nothing that a new version needs.
                self._row = None
            if self._row is None:
                self._rows = None
        row = self._row
        if row is None or row.entry.path != source.path:
            return None
        same = row.entry.kind is EntryKind.FILE is source.kind and row.entry.size_bytes == source.size_bytes
        return row if same else None


def _is_large(source: Source) -> bool:
    return source.kind is EntryKind.FILE and source.size_bytes > SMALL_FILE_BYTES_MAX


def _check_all(sources: Sequence[Source]) -> None:
    for source in sources:
        check_unchanged(source)


@dataclass(slots=True)
class _Hashed:
    """One small file, ready to be stored."""

    row: FileRow | None
    entry: FileEntry
    chunks: list[Chunk]
    tensors: list[Tensor]


class TensorDigests:
    """Collects the digests of a file's tensors while its pieces go by in order."""

    def __init__(self, plan: cutting.CutPlan) -> None:
        self._plan = plan
        self._digests: dict[int, blake3.blake3] = {}

    def add(self, piece: cutting.Piece, chunk_id: ChunkId) -> None:
        """Note the id of the next piece."""
        if piece.tensor >= 0:
            self._digests.setdefault(piece.tensor, blake3.blake3()).update(chunk_id)

    def finish(self) -> list[Tensor]:
        """Return all tensors of the plan; an empty one has the digest of no ids."""
        return [
            Tensor(
                name=span.name,
                dtype=span.dtype,
                shape=span.shape,
                offset_bytes=span.offset_bytes,
                length_bytes=span.length_bytes,
                digest=self._digests.get(index, blake3.blake3()).digest(),
            )
            for index, span in enumerate(self._plan.tensors)
        ]


def _plan(descriptor: int, source: Source) -> cutting.CutPlan:
    from mcr import cutting

    def read_at(offset_bytes: int, length_bytes: int) -> bytes:
        try:
            return os.pread(descriptor, length_bytes, offset_bytes)
        except OSError as error:
            raise SourceUnreadableError(source.absolute, error.strerror or str(error)) from error

    return cutting.plan(read_at, source.size_bytes, source.path)


def _entry(source: Source, plan: cutting.CutPlan, blake3_digest: bytes, sha256_digest: bytes) -> FileEntry:
    return FileEntry(
        path=source.path,
        kind=EntryKind.FILE,
        size_bytes=source.size_bytes,
        executable=source.executable,
        blake3=blake3_digest,
        sha256=sha256_digest,
        format=plan.format,
    )


def _hash_small(source: Source, known: FileRow | None) -> _Hashed:
    from mcr import cutting

    descriptor = open_source(source)
    try:
        data = bytearray(source.size_bytes)
        view = memoryview(data)
        read_exactly(descriptor, view, 0, source)
        plan = _plan(descriptor, source)
    finally:
        os.close(descriptor)
    pieces = cutting.cut_window(plan, 0, view, is_last=True) if data else []
    tensors = TensorDigests(plan)
    chunks: list[Chunk] = []
    for piece in pieces:
        end = piece.offset_bytes + piece.length_bytes
        chunk = Chunk.of(view[piece.offset_bytes : end], element_bytes=piece.element_bytes)
        tensors.add(piece, chunk.id)
        chunks.append(chunk)
    if known is not None and known.entry.chunks_root is None:
        same = [ref.id for ref in known.chunks] == [chunk.id for chunk in chunks]
        if same and known.entry.format == plan.format:
            return _Hashed(replace(known, entry=_touch(known, source)), known.entry, chunks, [])
    entry = _entry(source, plan, blake3.blake3(data).digest(), hashlib.sha256(data).digest())
    return _Hashed(None, entry, chunks, tensors.finish())


def _touch(known: FileRow, source: Source) -> FileEntry:
    return replace(known.entry, executable=source.executable)


class Uploader:
    """Stores the files of one commit. Use once."""

    def __init__(
        self,
        transport: ChunkTransport,
        executor: ThreadPoolExecutor,
        progress: Callable[[CommitProgress], None] | None,
        memory: FileMemory | None = None,
    ) -> None:
        """Prepare; `memory` tells which files need not be read."""
        self._transport = transport
        self._memory = memory
        self._remembered: dict[str, bytes] = {}
        self._read: list[tuple[Source, bytes, int]] = []
        self._executor = executor
        self._progress = progress
        self._stored = Stored()
        self._nodes: list[Chunk] = []
        self._builder = ManifestBuilder(self._nodes.append)
        self._bytes_done = self._bytes_total = 0
        self._files_done = self._files_total = 0

    async def upload(self, sources: Sequence[Source], parent: ChunkId | None, under: str = "") -> Uploaded:
        """Store all files and the manifest over them; durable when this returns.

        Args:
            sources: in path order.
            parent: manifest root of the version they are probably similar to.
            under: file or folder that all sources are or lie in; only this of the parent is read.

        Raises:
            SourceChangedError, SourceUnreadableError, SourceNotFoundError: names the file.
            OutOfSpaceError: what was stored stays; a repeated commit does not send it again.
        """
        self._bytes_total = sum(source.size_bytes for source in sources)
        self._files_total = len(sources)
        known = _Known(self._transport, parent, under)
        if self._memory is not None and parent is not None:
            large = [source for source in sources if _is_large(source)]
            self._remembered = await run_blocking(self._executor, partial(self._memory.find, large))
        groups: deque[asyncio.Task[list[_Hashed]]] = deque()
        group: list[tuple[Source, FileRow | None]] = []
        group_bytes = 0
        try:
            for source in sources:
                row = await known.find(source)
                is_large = _is_large(source)
                if group and (
                    is_large
                    or group_bytes + source.size_bytes > GROUP_BYTES_MAX
                    or len(group) >= GROUP_FILES_MAX
                ):
                    groups.append(asyncio.create_task(self._group(group)))
                    group, group_bytes = [], 0
                while groups and (is_large or len(groups) >= GROUPS_IN_FLIGHT):
                    await self._add_group(groups)
                if is_large:
                    await self._add_large(source, row)
                else:
                    group.append((source, row))
                    group_bytes += source.size_bytes
            if group:
                groups.append(asyncio.create_task(self._group(group)))
            while groups:
                await self._add_group(groups)
        finally:
            await settle(groups)
        summary = self._builder.finish()
        await self._flush_nodes(0)
        await run_blocking(self._executor, lambda: _check_all(sources))
        self._report("commit")
        await self._transport.sync()
        if self._memory is not None and self._read:
            await run_blocking(self._executor, partial(self._memory.note, self._read))
        return Uploaded(summary, self._stored)

    async def _put(self, chunks: Sequence[Chunk]) -> None:
        stored = await self._transport.put(chunks)
        # After the await: others add to the sum meanwhile.
        self._stored += stored

    async def _group(self, group: Sequence[tuple[Source, FileRow | None]]) -> list[_Hashed]:
        def work() -> list[_Hashed]:
            return [
                _hash_small(source, row)
                if source.kind is EntryKind.FILE
                else _Hashed(None, FileEntry(source.path, source.kind, target=source.target), [], [])
                for source, row in group
            ]

        hashed = await run_blocking(self._executor, work)
        chunks = [chunk for item in hashed for chunk in item.chunks]
        if chunks:
            await self._put(chunks)
        return hashed

    async def _add_group(self, groups: deque[asyncio.Task[list[_Hashed]]]) -> None:
        for item in await groups.popleft():
            if item.row is not None:
                self._builder.add_row(item.row)
            else:
                refs = [ChunkRef(chunk.id, len(chunk.data)) for chunk in item.chunks]
                self._builder.add(item.entry, refs, item.tensors)
            self._bytes_done += item.entry.size_bytes
            self._files_done += 1
        self._report("read")
        await self._flush_nodes(NODES_BUFFERED_MAX)

    async def _add_large(self, source: Source, known: FileRow | None) -> None:
        if known is not None and await self._is_untouched(source, known):
            self._builder.add_row(replace(known, entry=_touch(known, source)))
            self._advance(source.size_bytes)
            self._finish_file()
            return
        began_ns = 0 if self._memory is None else self._memory.now_ns()
        digest = await self._read_file(source, known)
        self._read.append((source, digest, began_ns))
        self._finish_file()
        await self._flush_nodes(NODES_BUFFERED_MAX)

    async def _is_untouched(self, source: Source, known: FileRow) -> bool:
        remembered = self._remembered.get(source.path) == known.entry.blake3
        # One that was damaged and set aside is to be stored again.
        return remembered and await holds_all(self._transport, known)

    async def _read_file(self, source: Source, known: FileRow | None) -> bytes:
        """Add a large file by reading it; return its BLAKE3."""
        descriptor = await run_blocking(self._executor, partial(open_source, source))
        bytes_before = self._bytes_done
        try:
            if known is not None:
                if await match(self._transport, self._executor, source, descriptor, known, self._advance):
                    self._builder.add_row(replace(known, entry=_touch(known, source)))
                    return known.entry.blake3
                self._bytes_done = bytes_before
            plan = await run_blocking(self._executor, partial(_plan, descriptor, source))
            return await self._read_large(source, descriptor, plan)
        finally:
            os.close(descriptor)

    def _finish_file(self) -> None:
        self._files_done += 1
        self._report("read")

    async def _read_large(self, source: Source, descriptor: int, plan: cutting.CutPlan) -> bytes:
        sha256, whole = hashlib.sha256(), blake3.blake3()
        lanes = [_Lane(self._executor, sha256), _Lane(self._executor, whole)]
        refs = self._builder.chunk_list()
        tensors = TensorDigests(plan)

        async def work(window: _Window) -> list[Chunk]:
            tasks = [asyncio.create_task(lane.update(window)) for lane in lanes]
            try:
                chunks = await run_blocking(self._executor, window.chunks)
                await self._put(chunks)
                for task in tasks:
                    await task
            finally:
                await settle(tasks)
            return chunks

        async with aclosing(self._windows(source, descriptor, plan, work)) as windows:
            async for window, chunks in windows:
                for piece, chunk in zip(window.pieces, chunks, strict=True):
                    refs.add(ChunkRef(chunk.id, piece.length_bytes))
                    tensors.add(piece, chunk.id)
                self._advance(window.end_bytes - window.offset_bytes)
                await self._flush_nodes(NODES_BUFFERED_MAX)
        entry = _entry(source, plan, whole.digest(), sha256.digest())
        self._builder.add(entry, refs.finish(), tensors.finish())
        return entry.blake3

    async def _windows(
        self,
        source: Source,
        descriptor: int,
        plan: cutting.CutPlan,
        work: _Work,
    ) -> AsyncGenerator[tuple[_Window, list[Chunk]], None]:
        """Read and cut a file window by window, with several under way; results come in file order."""
        from mcr import cutting

        # No more memory than the file needs: fresh memory costs more to touch than to hash.
        window_bytes = min(cutting.WINDOW_BYTES, source.size_bytes)
        window_count = min(WINDOWS_IN_FLIGHT, -(-source.size_bytes // window_bytes))
        free = [bytearray(window_bytes) for _ in range(window_count)]
        running: deque[tuple[_Window, asyncio.Task[list[Chunk]]]] = deque()
        offset_bytes = 0
        try:
            while offset_bytes < source.size_bytes or running:
                if offset_bytes < source.size_bytes and free:
                    read = partial(_Window.read, free.pop(), descriptor, source, plan, offset_bytes)
                    window = await run_blocking(self._executor, read)
                    offset_bytes = window.end_bytes
                    running.append((window, asyncio.create_task(work(window))))
                    if not running[0][1].done():
                        continue
                window, task = running.popleft()
                yield window, await task
                free.append(window.buffer)
        finally:
            await settle(task for _, task in running)

    def _advance(self, length_bytes: int) -> None:
        self._bytes_done += length_bytes
        self._report("read")

    def _report(self, phase: str) -> None:
        if self._progress is not None:
            self._progress(
                CommitProgress(
                    phase, self._bytes_done, self._bytes_total, self._files_done, self._files_total
                )
            )

    async def _flush_nodes(self, keep: int) -> None:
        if len(self._nodes) > keep:
            nodes, self._nodes[:] = list(self._nodes), []
            await self._transport.put(nodes)
