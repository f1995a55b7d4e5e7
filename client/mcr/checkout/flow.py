"""Writing a version into a folder: what is fetched and written when, and what is left alone.

The manifest is walked twice. The first pass checks all of it, so a damaged or hostile one writes nothing, and
says what there is to do; the second does it. Small files travel in groups, one fetch and one disk step for
many; large files in batches of chunks, with several batches in flight, so that fetching, writing and
syncing overlap. Memory is bounded by these batches, whatever the size of the version.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

from mcr.blocking import run_blocking
from mcr.checkout.batch import Batch, batch_memory
from mcr.checkout.destination import Destination, FileDigest
from mcr.errors import CorruptChunkError, PathNotFoundError
from mcr.manifest import FileRow, PathPattern, Span, drain_async, walk_chunks, walk_files
from mcr.model import MIB, ChunkId, EntryKind, FileEntry
from mcr.values import dataclass

# One fetch: long enough to hide its cost, short enough that several fit in memory.
BATCH_BYTES_MAX = 8 * MIB
BATCH_CHUNKS_MAX = 1024
# Together at most 64 MiB between store and disk; half of it being fetched while the other half is written.
BATCHES_IN_FLIGHT = 6
SMALL_FILE_BYTES_MAX = 1 * MIB
GROUP_FILES_MAX = 128
# Groups and large files under way. More large files at once would only make the disk seek.
TASKS_IN_FLIGHT = 4
# Two to write, one to sync, one to look at what is there already.
WORKERS = 4
# Synced while more arrives, so that the last sync is short; not so much that all batches wait for it.
SYNC_BYTES = 32 * MIB
FOLDERS_PER_STEP = 64
EXTRAS_PER_STEP = 64

_Result = TypeVar("_Result")


class ChunkReader(Protocol):
    """Where chunks come from; `mcr.transfer.ChunkTransport` is one."""

    async def get(self, ids: Sequence[ChunkId]) -> list[bytes]:
        """Return the plain bytes of each id, verified, in the order asked for."""

    async def get_into(self, ids: Sequence[ChunkId], places: Sequence[memoryview]) -> list[int]:
        """Write the plain bytes of each id to its place, if that is as long; return how long they are."""


@dataclass(frozen=True, slots=True)
class CheckoutProgress:
    """How far a checkout is. What was there already counts as done."""

    bytes_done: int
    bytes_total: int
    files_done: int
    files_total: int


@dataclass(frozen=True, slots=True)
class CheckoutResult:
    """What a checkout did.

    Attributes:
        files_written, files_unchanged: files and links of the version; together all that were asked for.
        files_deleted: files and links removed because the version does not have them.
        bytes_written: put on disk by this call, without what an interrupted one had written before.
        bytes_total: of all files asked for.
        extra_files: files and links in the folder that the version does not have, and that were left.
    """

    files_written: int
    files_unchanged: int
    files_deleted: int
    bytes_written: int
    bytes_total: int
    extra_files: int


async def checkout(
    reader: ChunkReader,
    root: ChunkId,
    destination: Path,
    *,
    include: Sequence[str] = (),
    verify: bool = False,
    delete: bool = False,
    sync: bool = False,
    progress: Callable[[CheckoutProgress], None] | None = None,
    reference: str = "",
) -> CheckoutResult:
    """Write a version into a folder, bit-exact; files that are right already are left alone.

    Interrupted anywhere, it leaves whole files, and unfinished ones under `.mcr-partial` that the next
    checkout goes on with.

    Args:
        reader: gives verified chunks; may be called again before it has answered.
        root: of the version's manifest.
        destination: the folder; made when missing.
        include: patterns (`mcr.manifest.PathPattern`); what fits any of them is written. By default all.
        verify: read each written file back from disk and compare its digest before it appears; takes a sync.
        delete: remove files that the version does not have, and whatever else is in its way.
        sync: return only when the disk holds every file asked for, those too that were right already.
            Without, a file that is written is synced before it takes its name where the folder held anything.
            In an empty one the system then writes when it likes; after a loss of power files may be there
            that are not whole, which the next checkout finds.
        progress: called on the event loop.
        reference: how the user named the version, for messages.

    Raises:
        PathNotFoundError: a pattern fits nothing; nothing was written.
        DestinationError, OutOfSpaceError: names the path; repeat to go on.
        CorruptChunkError, MissingChunkError: nothing wrong was written.
    """
    plan = await _plan(reader, root, [PathPattern(text) for text in include], reference)
    target = Destination(destination, replace=delete, sync=sync or verify)
    finished = False
    try:
        # Left before the target is closed: it waits for steps that still run and use its descriptors.
        with ThreadPoolExecutor(WORKERS, thread_name_prefix="mcr-checkout") as executor:
            await run_blocking(executor, target.open)
            work = _Checkout(reader, root, plan, target, executor, verify=verify, progress=progress)
            result = await work.run(delete=delete)
            finished = True
    except BaseExceptionGroup as group:
        raise _first(group) from None
    finally:
        target.close(finished=finished)
    return result


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error that ended a task group; those that followed from it say less."""
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner


@dataclass(slots=True)
class _Plan:
    """What the first pass found.

    Attributes:
        paths: of all files and links of the version, asked for or not.
        folders: of the version, empty or not.
    """

    patterns: Sequence[PathPattern]
    paths: set[str] = field(default_factory=set)
    folders: set[str] = field(default_factory=set)
    files_total: int = 0
    bytes_total: int = 0

    def includes(self, path: str) -> bool:
        return not self.patterns or any(pattern.fits(path) for pattern in self.patterns)


async def _plan(reader: ChunkReader, root: ChunkId, patterns: Sequence[PathPattern], reference: str) -> _Plan:
    plan = _Plan(patterns)
    unused = list(patterns)
    async for row in drain_async(walk_files(root), reader.get):
        path = row.entry.path
        folder = os.path.dirname(path)
        if row.entry.kind is EntryKind.DIRECTORY:
            folder = path
        else:
            plan.paths.add(path)
        while folder and folder not in plan.folders:
            plan.folders.add(folder)
            folder = os.path.dirname(folder)
        unused = [pattern for pattern in unused if not pattern.fits(path)]
        if plan.includes(path):
            plan.files_total += row.entry.kind is not EntryKind.DIRECTORY
            plan.bytes_total += row.entry.size_bytes
    if unused:
        raise PathNotFoundError(reference or root.hex()[:12], unused[0].text)
    return plan


class _Checkout:
    """One checkout under way. Its counters are only touched on the event loop."""

    def __init__(
        self,
        reader: ChunkReader,
        root: ChunkId,
        plan: _Plan,
        target: Destination,
        executor: ThreadPoolExecutor,
        *,
        verify: bool,
        progress: Callable[[CheckoutProgress], None] | None,
    ) -> None:
        self._reader = reader
        self._root = root
        self._plan = plan
        self._target = target
        self._executor = executor
        self._verify = verify
        self._progress = progress
        self._batches = asyncio.Semaphore(BATCHES_IN_FLIGHT)
        # Memory for batches of large files that none is in just now.
        self._memory: list[memoryview] = []
        self._tasks = asyncio.Semaphore(TASKS_IN_FLIGHT)
        self._written = self._unchanged = self._bytes_written = self._bytes_done = 0

    async def run(self, *, delete: bool) -> CheckoutResult:
        async with asyncio.TaskGroup() as group:
            async for rows in self._groups():
                await self._tasks.acquire()
                large = len(rows) == 1 and not _is_small(rows[0])
                step = self._write_large(rows[0]) if large else self._write_group(rows)
                group.create_task(step).add_done_callback(lambda _: self._tasks.release())
        extra = deleted = 0
        walk = self._target.extras(self._plan.paths, self._plan.folders, remove=delete)
        with closing(walk):
            while counts := await self._step(lambda: list(islice(walk, EXTRAS_PER_STEP))):
                extra += sum(counts)
        if delete:
            extra, deleted = 0, extra
        await self._sync_folders()
        return CheckoutResult(
            files_written=self._written,
            files_unchanged=self._unchanged,
            files_deleted=deleted + self._target.tree.removed,
            bytes_written=self._bytes_written,
            bytes_total=self._plan.bytes_total,
            extra_files=extra,
        )

    async def _groups(self) -> AsyncIterator[list[FileRow]]:
        """Yield the rows asked for: a large file alone, small ones together."""
        group: list[FileRow] = []
        group_bytes = 0
        async for row in drain_async(walk_files(self._root), self._reader.get):
            if not self._plan.includes(row.entry.path):
                continue
            if not _is_small(row):
                yield [row]
                continue
            if group and (
                group_bytes + row.entry.size_bytes > BATCH_BYTES_MAX or len(group) == GROUP_FILES_MAX
            ):
                yield group
                group, group_bytes = [], 0
            group.append(row)
            group_bytes += row.entry.size_bytes
        if group:
            yield group

    async def _step(self, work: Callable[[], _Result]) -> _Result:
        return await run_blocking(self._executor, work)

    # Small files, links and folders.

    async def _write_group(self, rows: list[FileRow]) -> None:
        async with self._batches:
            changed = await self._step(lambda: [row for row in rows if not self._is_same(row.entry)])
            ids = list(dict.fromkeys(ref.id for row in changed for ref in row.chunks))
            found = await self._fetch(ids) if ids else {}
            await self._step(lambda: self._put_group(changed, found))
        folders = sum(row.entry.kind is EntryKind.DIRECTORY for row in rows)
        folders_changed = sum(row.entry.kind is EntryKind.DIRECTORY for row in changed)
        self._written += len(changed) - folders_changed
        self._unchanged += len(rows) - folders - (len(changed) - folders_changed)
        self._bytes_written += sum(row.entry.size_bytes for row in changed)
        self._advance(sum(row.entry.size_bytes for row in rows))

    def _is_same(self, entry: FileEntry) -> bool:
        match entry.kind:
            case EntryKind.FILE:
                found = self._target.open_same_size(entry)
                if found is None:
                    return False
                with closing(found):
                    return self._is_right(entry, found)
            case EntryKind.SYMLINK:
                return self._target.is_same_link(entry)
            case EntryKind.DIRECTORY:
                return False

    def _is_right(self, entry: FileEntry, found: FileDigest) -> bool:
        while found.step():
            pass
        if found.digest() != entry.blake3:
            return False
        self._target.keep(entry, found.descriptor)
        return True

    def _put_group(self, rows: Iterable[FileRow], found: dict[ChunkId, bytes]) -> None:
        files: list[FileEntry] = []
        for row in rows:
            entry = row.entry
            match entry.kind:
                case EntryKind.FILE:
                    self._target.write_whole(entry, _pieces(row, found))
                    files.append(entry)
                case EntryKind.SYMLINK:
                    self._target.link(entry)
                case EntryKind.DIRECTORY:
                    self._target.make_folder(entry)
        for entry in files:
            self._target.sync(entry)
            if self._verify:
                with closing(self._target.open_written(entry)) as written:
                    while written.step():
                        pass
                    self._target.check_digest(entry, written.digest())
            self._target.finish(entry)

    # Large files.

    async def _write_large(self, row: FileRow) -> None:
        entry = row.entry
        if await self._is_same_large(entry):
            self._unchanged += 1
            self._advance(entry.size_bytes)
            return
        resumed = await self._step(lambda: self._target.open_partial(entry))
        unsynced_bytes = 0
        syncing: asyncio.Task[None] | None = None
        # The kernel takes one writer of a file at a time; others would spin, and hold up those that hash.
        writing = asyncio.Lock()
        async with asyncio.TaskGroup() as group:
            async for spans in self._spans(row):
                # Taken here and not in the task, or all batches of a large file would be tasks at once.
                await self._batches.acquire()
                batch = self._write_batch(entry, spans, writing, resumed=resumed)
                group.create_task(batch).add_done_callback(lambda _: self._batches.release())
                unsynced_bytes += sum(span.length_bytes for span in spans)
                if unsynced_bytes >= SYNC_BYTES and (syncing is None or syncing.done()):
                    syncing = group.create_task(self._sync(entry))
                    unsynced_bytes = 0
        await self._sync(entry)
        if self._verify:
            await self._verify_large(entry)
        await self._step(lambda: self._target.finish(entry))
        self._written += 1
        self._advance(0)

    async def _is_same_large(self, entry: FileEntry) -> bool:
        found = await self._step(lambda: self._target.open_same_size(entry))
        if found is None:
            return False
        with closing(found):
            if await self._digest(found) != entry.blake3:
                return False
            await self._step(lambda: self._target.keep(entry, found.descriptor))
            return True

    async def _verify_large(self, entry: FileEntry) -> None:
        with closing(await self._step(lambda: self._target.open_written(entry))) as written:
            actual = await self._digest(written)
        await self._step(lambda: self._target.check_digest(entry, actual))

    async def _digest(self, file: FileDigest) -> bytes:
        while await self._step(file.step):
            pass
        return file.digest()

    async def _spans(self, row: FileRow) -> AsyncIterator[list[Span]]:
        spans: list[Span] = []
        spans_bytes = 0
        async for span in drain_async(walk_chunks(row), self._reader.get):
            if spans and (
                spans_bytes + span.length_bytes > BATCH_BYTES_MAX or len(spans) == BATCH_CHUNKS_MAX
            ):
                yield spans
                spans, spans_bytes = [], 0
            spans.append(span)
            spans_bytes += span.length_bytes
        if spans:
            yield spans

    async def _write_batch(
        self, entry: FileEntry, spans: Sequence[Span], writing: asyncio.Lock, *, resumed: bool
    ) -> None:
        missing = spans
        if resumed:
            missing = await self._step(lambda: self._target.missing_spans(entry, spans))
        if missing:
            memory = self._memory.pop() if self._memory else batch_memory(BATCH_BYTES_MAX)
            batch = Batch(missing, memory)
            firsts = batch.firsts()
            found = await self._reader.get_into(list(firsts), list(firsts.values()))
            lengths = dict(zip(firsts, found, strict=True))
            for span in missing:
                _check_length(span.id, lengths[span.id], span.length_bytes)
            if len(firsts) < len(missing):
                await self._step(batch.repeat)
            async with writing:
                await self._step(lambda: self._target.write_batch(entry, batch, leave_holes=not resumed))
            self._memory.append(memory)
        self._bytes_written += sum(span.length_bytes for span in missing)
        self._advance(sum(span.length_bytes for span in spans))

    async def _sync(self, entry: FileEntry) -> None:
        await self._step(lambda: self._target.sync(entry))

    # Both.

    async def _fetch(self, ids: Sequence[ChunkId]) -> dict[ChunkId, bytes]:
        return dict(zip(ids, await self._reader.get(ids), strict=True))

    async def _sync_folders(self) -> None:
        touched = self._target.unsynced_folders(self._plan.folders)
        for start in range(0, len(touched), FOLDERS_PER_STEP):
            await self._step(partial(self._target.sync_folders, touched[start : start + FOLDERS_PER_STEP]))
        await self._step(self._target.sync_above)

    def _advance(self, count_bytes: int) -> None:
        self._bytes_done += count_bytes
        if self._progress is not None:
            done = self._written + self._unchanged
            self._progress(
                CheckoutProgress(self._bytes_done, self._plan.bytes_total, done, self._plan.files_total)
            )


def _is_small(row: FileRow) -> bool:
    return row.entry.size_bytes <= SMALL_FILE_BYTES_MAX and row.entry.chunks_root is None


def _pieces(row: FileRow, found: dict[ChunkId, bytes]) -> list[bytes]:
    for ref in row.chunks:
        _check_length(ref.id, len(found[ref.id]), ref.length_bytes)
    return [found[ref.id] for ref in row.chunks]


def _check_length(chunk_id: ChunkId, found_bytes: int, said_bytes: int) -> None:
    if found_bytes != said_bytes:
        # The chunk is itself, so it is the manifest that lies; to write it would shift what follows.
        reason = f"it has {found_bytes} bytes, the manifest says {said_bytes}"
        raise CorruptChunkError(chunk_id.hex(), reason)
