"""Is a file the one that the parent version has? Reads and hashes on all cores, and stops where it differs.

Nothing is cut: bytes that hash to the ids of the parent's chunks, in their order, are the parent's file. So
its row, with both digests of the whole file, holds for this one, and stretches need not wait for each other.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

from mcr.blocking import run_blocking, settle
from mcr.manifest import FileRow, Span, drain_async, walk_chunks
from mcr.model import CHUNK_BYTES_MAX, MIB, Chunk
from mcr.scanning import Source, read_exactly
from mcr.transfer import ChunkTransport, Stored

# Small enough to stay in a core's cache between reading and hashing, large enough to hide the cost of a step.
STRETCH_BYTES = 2 * MIB
STRETCHES_IN_FLIGHT = 4


class _DiffersError(Exception):
    """A chunk of the file is not the parent's."""


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Neighbouring chunks of the parent's file, as many as one step reads."""

    spans: tuple[Span, ...]
    length_bytes: int

    def read(self, buffer: bytearray, descriptor: int, source: Source) -> list[Chunk]:
        """Read and hash the same places of another file."""
        first = self.spans[0].offset_bytes
        view = memoryview(buffer)[: self.length_bytes]
        read_exactly(descriptor, view, first, source)
        chunks: list[Chunk] = []
        for span in self.spans:
            start = span.offset_bytes - first
            chunk = Chunk.of(view[start : start + span.length_bytes])
            if chunk.id != span.id:
                raise _DiffersError
            chunks.append(chunk)
        return chunks


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


async def match(
    transport: ChunkTransport,
    executor: ThreadPoolExecutor,
    source: Source,
    descriptor: int,
    known: FileRow,
    advance: Callable[[int], None],
) -> Stored | None:
    """Hold a file against a row of the parent's manifest, of the same size.

    Args:
        transport: where the parent's chunks are.
        executor: for reading and hashing.
        source: the file.
        descriptor: of the file, opened.
        known: the row.
        advance: called with the bytes of each stretch that is the same.

    Returns:
        None when the file differs. Else what had to be stored: nothing, but for chunks that were damaged and
        set aside, which these bytes heal.
    """
    stored = Stored()
    free = [bytearray(STRETCH_BYTES + CHUNK_BYTES_MAX) for _ in range(STRETCHES_IN_FLIGHT)]
    running: deque[tuple[_Stretch, bytearray, asyncio.Task[Stored]]] = deque()

    async def step(stretch: _Stretch, buffer: bytearray) -> Stored:
        chunks = await run_blocking(executor, partial(stretch.read, buffer, descriptor, source))
        missing = await transport.missing([chunk.id for chunk in chunks])
        return (
            await transport.put([chunk for chunk in chunks if chunk.id in missing]) if missing else Stored()
        )

    async def finish_first() -> Stored:
        stretch, buffer, task = running.popleft()
        healed = await task
        free.append(buffer)
        advance(stretch.length_bytes)
        return healed

    try:
        async with aclosing(_stretches(drain_async(walk_chunks(known), transport.get))) as stretches:
            async for stretch in stretches:
                buffer = free.pop()
                running.append((stretch, buffer, asyncio.create_task(step(stretch, buffer))))
                if not free:
                    stored += await finish_first()
        while running:
            stored += await finish_first()
    except _DiffersError:
        return None
    finally:
        await settle(task for _, _, task in running)
    return stored
