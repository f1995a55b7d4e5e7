"""Is a file the one that the parent version has? Reads and hashes on all cores, and stops where it differs.

Places all over the file come first: training leaves whole tensors alone, and where they come first in the
file, it would be read nearly to its end, and all of that once more to be stored.

Nothing is cut: bytes that hash to the ids of the parent's chunks, in their order, are the parent's file. So
its row, with both digests of the whole file, holds for this one, and stretches need not wait for each other.
Whether the store still holds those chunks is asked as well: one that was damaged and set aside is to be
stored again, so such a file does not count as matched.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial

from mcr.blocking import run_blocking, settle
from mcr.errors import CorruptChunkError, MissingChunkError, UnavailableError
from mcr.manifest import FileRow, Span, drain_async, walk_chunks
from mcr.model import CHUNK_BYTES_MAX, MIB, ChunkId, digest
from mcr.scanning import Source, read_exactly
from mcr.transfer import BATCH_CHUNKS_MAX, ChunkTransport
from mcr.values import dataclass

# Small enough to stay in a cache between reading and hashing, large enough to hide the cost of a step.
STRETCH_BYTES = 4 * MIB
STRETCHES_IN_FLIGHT = 4
# Every eighth stretch is looked at first: in 1 GiB, what differs in 32 MiB on end is met in the first eighth
# of the work, and a disk that seeks still reads most of a file in order.
SAMPLED_OF = 8
# So many chunks are put in order at once, which takes some MiB of memory. Of usual ones that is 16 GiB of a
# file; of tiny ones, as tiny tensors make them, less.
CHUNKS_ORDERED_MAX = 16 * 1024
# What becomes of a parent's manifest: parts that are damaged, lost, or on nodes that do not answer.
UNREADABLE = (CorruptChunkError, MissingChunkError, UnavailableError)


class _DiffersError(Exception):
    """A chunk of the file is not the parent's."""


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Neighbouring chunks of the parent's file, as many as one step reads."""

    spans: tuple[Span, ...]
    length_bytes: int

    def compare(self, buffer: bytearray, descriptor: int, source: Source) -> None:
        """Read and hash the same places of another file; raise at the first difference."""
        first = self.spans[0].offset_bytes
        view = memoryview(buffer)[: self.length_bytes]
        read_exactly(descriptor, view, first, source)
        for span in self.spans:
            start = span.offset_bytes - first
            if digest(view[start : start + span.length_bytes]) != span.id:
                raise _DiffersError


async def _stretches(spans: AsyncIterator[Span]) -> AsyncGenerator[_Stretch, None]:
    batch: list[Span] = []
    length_bytes = 0
    async for span in spans:
        batch.append(span)
        length_bytes += span.length_bytes
        if length_bytes >= STRETCH_BYTES:
            yield _Stretch(tuple(batch), length_bytes)
            batch, length_bytes = [], 0
    if batch:
        yield _Stretch(tuple(batch), length_bytes)


async def _parts(stretches: AsyncIterator[_Stretch]) -> AsyncGenerator[list[_Stretch], None]:
    part: list[_Stretch] = []
    chunks = 0
    async for stretch in stretches:
        part.append(stretch)
        chunks += len(stretch.spans)
        if chunks >= CHUNKS_ORDERED_MAX:
            yield part
            part, chunks = [], 0
    yield part


async def _samples_first(parts: AsyncIterator[list[_Stretch]]) -> AsyncGenerator[_Stretch, None]:
    """Yield all stretches, in each part of a file those that are spread over it before the others."""
    async for part in parts:
        for stretch in part[::SAMPLED_OF]:
            yield stretch
        for index, stretch in enumerate(part):
            if index % SAMPLED_OF:
                yield stretch


async def holds_all(transport: ChunkTransport, known: FileRow) -> bool:
    """Return whether the store still holds all chunks of a file of the parent version."""
    batch: list[ChunkId] = []
    try:
        async for span in drain_async(walk_chunks(known), transport.get):
            batch.append(span.id)
            if len(batch) >= BATCH_CHUNKS_MAX // 2:
                if await transport.missing(batch):
                    return False
                batch.clear()
        return not (batch and await transport.missing(batch))
    except UNREADABLE:
        return False


async def match(
    transport: ChunkTransport,
    executor: ThreadPoolExecutor,
    source: Source,
    descriptor: int,
    known: FileRow,
    advance: Callable[[int], None],
) -> bool:
    """Hold a file against a row of the parent's manifest, of the same size.

    Args:
        transport: where the parent's chunks are.
        executor: for reading and hashing.
        source: the file.
        descriptor: of the file, opened.
        known: the row.
        advance: called with the bytes of each stretch that is the same.

    Returns:
        Whether the file is the parent's and the store holds all of it.
    """
    free = [bytearray(STRETCH_BYTES + CHUNK_BYTES_MAX) for _ in range(STRETCHES_IN_FLIGHT)]
    running: deque[tuple[_Stretch, bytearray, asyncio.Task[None]]] = deque()
    unasked: list[ChunkId] = []

    async def finish_first() -> None:
        stretch, buffer, task = running.popleft()
        await task
        free.append(buffer)
        unasked.extend(span.id for span in stretch.spans)
        advance(stretch.length_bytes)

    async def check_held() -> None:
        if unasked and await transport.missing(unasked):
            raise _DiffersError
        unasked.clear()

    try:
        spans = drain_async(walk_chunks(known), transport.get)
        async with (
            aclosing(_stretches(spans)) as in_order,
            aclosing(_parts(in_order)) as parts,
            aclosing(_samples_first(parts)) as stretches,
        ):
            async for stretch in stretches:
                buffer = free.pop()
                compare = partial(stretch.compare, buffer, descriptor, source)
                running.append((stretch, buffer, asyncio.create_task(run_blocking(executor, compare))))
                if not free:
                    await finish_first()
                if len(unasked) >= BATCH_CHUNKS_MAX // 2:
                    await check_held()
        while running:
            await finish_first()
        await check_held()
    except (_DiffersError, *UNREADABLE):
        return False
    finally:
        await settle(task for _, _, task in running)
    return True
