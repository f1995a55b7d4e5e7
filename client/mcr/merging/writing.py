"""A plan carried out: the chunks and the manifest of a merged version.

Nothing is written to a file. A merged file goes by once, in batches of a few MiB: what is taken keeps its
chunks and is only read for the digests of the whole file; what is computed becomes chunks of the sizes that a
commit of the finished file would give, so both have one manifest. Strategies that have to know a whole tensor
first read it again. Memory is that of some batches, however large a tensor is.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import blake3

from mcr import cutting
from mcr.blocking import run_blocking, settle
from mcr.cutting.spans import ELEMENT_BYTES, ELEMENT_BYTES_OTHER
from mcr.manifest import FileRow, ManifestBuilder, ManifestSummary, drain_async, walk_chunks, walk_files
from mcr.merging.planning import Combined, Computed, FilePlan, Piece, Plan, Taken
from mcr.model import Chunk, ChunkId, ChunkRef, EntryKind, FileEntry, Tensor
from mcr.tensors.merging import TensorMerge, begin
from mcr.transfer import ChunkTransport, Stored
from mcr.values import dataclass

# Blocks of one side that are in memory at once: 8 MiB, of at most three sides and the result.
BLOCKS_AT_ONCE = 8
NODES_BUFFERED_MAX = 64

Progress = Callable[[int], None]
"""Called with the bytes of the result that were made since the last call."""


@dataclass(frozen=True, slots=True)
class Merged:
    """The manifest of a merged version, and what storing its new chunks took."""

    manifest: ManifestSummary
    stored: Stored


class Sink:
    """Where new chunks go. This one keeps none: to compute a merge again, nothing need be stored."""

    def __init__(self) -> None:
        self.stored = Stored()

    async def put(self, chunks: Sequence[Chunk]) -> None:
        """Take chunks; their buffers are free again when this returns."""

    async def sync(self) -> None:
        """Make all that was put durable."""


class StoreSink(Sink):
    """New chunks are stored."""

    def __init__(self, transport: ChunkTransport) -> None:
        super().__init__()
        self._transport = transport

    async def put(self, chunks: Sequence[Chunk]) -> None:
        """See Sink."""
        stored = await self._transport.put(chunks)
        self.stored += stored

    async def sync(self) -> None:
        """See Sink."""
        await self._transport.sync()


@dataclass(frozen=True, slots=True)
class _Batch:
    """Neighbouring chunks of the result, and which of them are new."""

    refs: list[ChunkRef]
    data: list[bytes]
    new: list[Chunk]


class Writer:
    """Makes the manifest of one merged version. Use once."""

    def __init__(
        self,
        transport: ChunkTransport,
        executor: ThreadPoolExecutor,
        sink: Sink,
        progress: Progress | None = None,
    ) -> None:
        self._get = transport.get
        self._executor = executor
        self._sink = sink
        self._progress = progress
        self._nodes: list[Chunk] = []
        self._builder = ManifestBuilder(self._nodes.append)

    async def write(self, ours: ChunkId, plan: Plan) -> Merged:
        """Store what is new; durable when this returns.

        Args:
            ours: manifest that the plan's changes are made to.
            plan: complete.

        Raises:
            InvalidArgumentError: a path is a file of one side and a folder of the other, or a tensor holds
                numbers that its strategy cannot compute with.
            OutOfSpaceError: what was stored stays.
        """
        changes = sorted(plan.changes.items())
        at = 0
        async for row in drain_async(walk_files(ours), self._get):
            while at < len(changes) and changes[at][0] < row.entry.path:
                await self._add(changes[at][1])
                at += 1
            if at < len(changes) and changes[at][0] == row.entry.path:
                await self._add(changes[at][1])
                at += 1
            else:
                await self._add(row)
        for _, change in changes[at:]:
            await self._add(change)
        summary = self._builder.finish()
        await self._flush_nodes(0)
        await self._sink.sync()
        return Merged(summary, self._sink.stored)

    async def _add(self, change: FilePlan) -> None:
        match change:
            case None:
                return
            case FileRow():
                self._builder.add_row(change)
            case Combined():
                await self._add_combined(change)
        await self._flush_nodes(NODES_BUFFERED_MAX)

    async def _add_combined(self, file: Combined) -> None:
        sha256, whole = hashlib.sha256(), blake3.blake3()
        refs = self._builder.chunk_list()
        size_bytes = 0
        tensors: list[Tensor] = []
        hashing: asyncio.Task[None] | None = None

        async def hash_all(data: list[bytes]) -> None:
            def of(update: Callable[[bytes], object]) -> None:
                for part in data:
                    update(part)

            async with asyncio.TaskGroup() as both:
                both.create_task(run_blocking(self._executor, lambda: of(sha256.update)))
                both.create_task(run_blocking(self._executor, lambda: of(whole.update)))

        try:
            async for piece, batches in self._parts(file):
                digest, start = blake3.blake3(), size_bytes
                async for batch in batches:
                    for ref in batch.refs:
                        refs.add(ref)
                        digest.update(ref.id)
                        size_bytes += ref.length_bytes
                    if batch.new:
                        await self._sink.put(batch.new)
                    if hashing is not None:
                        await hashing
                    # The next batch is fetched and computed meanwhile.
                    hashing = asyncio.create_task(hash_all(batch.data))
                    if self._progress is not None:
                        self._progress(sum(ref.length_bytes for ref in batch.refs))
                    await self._flush_nodes(NODES_BUFFERED_MAX)
                if piece is not None:
                    dtype, shape = piece.form
                    tensors.append(
                        Tensor(piece.name, dtype, shape, start, size_bytes - start, digest.digest())
                    )
            if hashing is not None:
                await hashing
        finally:
            if hashing is not None:
                await settle([hashing])
        entry = FileEntry(
            file.path,
            EntryKind.FILE,
            size_bytes=size_bytes,
            executable=file.executable,
            blake3=whole.digest(),
            sha256=sha256.digest(),
            format=file.format,
        )
        self._builder.add(entry, refs.finish(), tensors)

    async def _parts(self, file: Combined) -> AsyncIterator[tuple[Piece | None, AsyncIterator[_Batch]]]:
        """Yield the stretches of the result in file order: a piece, or None for what is around them."""
        if file.around is None:
            yield None, self._literal(file.head, beside_tensors=bool(file.pieces))
            for piece in file.pieces:
                yield piece, self._piece(piece)
            return
        row, by_name = file.around.row, {piece.name: piece for piece in file.pieces}
        at = 0
        for tensor in file.around.in_order():
            if at < tensor.offset_bytes:
                yield None, self._copied(row, at, tensor.offset_bytes)
            piece = by_name[tensor.name]
            yield piece, self._piece(piece)
            at = tensor.offset_bytes + tensor.length_bytes
        if at < row.entry.size_bytes:
            yield None, self._copied(row, at, row.entry.size_bytes)

    async def _literal(self, data: bytes, *, beside_tensors: bool) -> AsyncIterator[_Batch]:
        view = memoryview(data)
        pieces = cutting.cut_gap(view, beside_tensors=beside_tensors)
        chunks = [Chunk.of(data[each.offset_bytes :][: each.length_bytes]) for each in pieces]
        yield _Batch([ChunkRef(chunk.id, len(chunk.data)) for chunk in chunks], [data], chunks)

    async def _copied(self, row: FileRow, start: int, stop: int) -> AsyncIterator[_Batch]:
        async for refs in self._refs(row, start, stop):
            yield _Batch(refs, await self._get([ref.id for ref in refs]), [])

    async def _refs(self, row: FileRow, start: int, stop: int) -> AsyncIterator[list[ChunkRef]]:
        """Yield the chunks of a stretch, some at a time; cutting never crosses the border of a tensor."""
        if start == stop:
            return
        refs: list[ChunkRef] = []
        async for span in drain_async(walk_chunks(row, start=start, stop=stop), self._get):
            refs.append(ChunkRef(span.id, span.length_bytes))
            if len(refs) == BLOCKS_AT_ONCE:
                yield refs
                refs = []
        if refs:
            yield refs

    async def _piece(self, piece: Piece) -> AsyncIterator[_Batch]:
        match piece.source:
            case Taken(row, tensor):
                start = tensor.offset_bytes
                async for batch in self._copied(row, start, start + tensor.length_bytes):
                    yield batch
            case Computed() as source:
                async for batch in self._computed(source):
                    yield batch

    async def _computed(self, source: Computed) -> AsyncIterator[_Batch]:
        tensor = source.ours.tensor
        machine = begin(source.strategy, tensor.dtype, tensor.shape)
        sides = [source.ours, source.theirs]
        if machine.needs_base:
            assert source.base is not None, "`obstacle` was asked"
            sides.append(source.base)
        for _ in range(machine.passes):
            async for blocks in self._blocks(sides):
                await run_blocking(self._executor, partial(_look, machine, blocks))
            machine.end_pass()
        width_bytes = ELEMENT_BYTES.get(tensor.dtype, ELEMENT_BYTES_OTHER)
        async for blocks in self._blocks(sides):
            chunks = await run_blocking(self._executor, partial(_merge, machine, blocks, width_bytes))
            refs = [ChunkRef(chunk.id, len(chunk.data)) for chunk in chunks]
            yield _Batch(refs, [bytes(chunk.data) for chunk in chunks], chunks)

    async def _blocks(self, sides: Sequence[Taken]) -> AsyncIterator[list[list[bytes]]]:
        """Yield some blocks of every side at a time: tensors of one length are cut alike."""
        streams = [
            self._refs(
                side.row, side.tensor.offset_bytes, side.tensor.offset_bytes + side.tensor.length_bytes
            )
            for side in sides
        ]
        async for refs in streams[0]:
            others = [await anext(stream) for stream in streams[1:]]
            yield list(
                await asyncio.gather(*[self._get([ref.id for ref in each]) for each in (refs, *others)])
            )

    async def _flush_nodes(self, keep: int) -> None:
        if len(self._nodes) > keep:
            nodes, self._nodes[:] = list(self._nodes), []
            await self._sink.put(nodes)


def _look(machine: TensorMerge, sides: Sequence[Sequence[bytes]]) -> None:
    for ours, theirs, base in zip(sides[0], sides[1], _base(sides), strict=True):
        machine.look(ours, theirs, base)


def _merge(machine: TensorMerge, sides: Sequence[Sequence[bytes]], width_bytes: int) -> list[Chunk]:
    return [
        Chunk.of(machine.merge(ours, theirs, base), element_bytes=width_bytes)
        for ours, theirs, base in zip(sides[0], sides[1], _base(sides), strict=True)
    ]


def _base(sides: Sequence[Sequence[bytes]]) -> Sequence[bytes]:
    return sides[2] if len(sides) > 2 else [b""] * len(sides[0])
