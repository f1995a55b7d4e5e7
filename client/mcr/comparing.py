"""What differs between two versions: files, parameters, metrics and, read side by side, tensors.

Tensors are compared as a pipeline: while blocks of one are put into sums, the next blocks, of it or of the
next tensor, are read, decoded and verified, those of either side on a thread of their own.
"""

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import aclosing
from functools import partial

from mcr.blocking import run_blocking, settle
from mcr.files import AsyncFile
from mcr.manifest import Difference, FileRow, compare, drain_async, walk_chunks, walk_tensors
from mcr.model import ChunkId, Parameters, ParameterValue, Tensor, Version
from mcr.tensors.statistics import (
    TensorChange,
    TensorComparison,
    added,
    comparable,
    removed,
    reshaped,
    unchanged,
)
from mcr.values import dataclass

Get = Callable[[Sequence[ChunkId]], Awaitable[list[bytes]]]
# Chunks of one side fetched at once, twice for each tensor under way: 30 MiB in all, however large they are.
_CHUNKS_AT_ONCE = 4
_TENSORS_AT_ONCE = 1
_ELEMENTS_AT_ONCE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class FileChange:
    """One path that differs; `kind` is added, removed or changed; sizes are 0 where it is absent."""

    path: str
    kind: str
    size_a: int
    size_b: int


@dataclass(frozen=True, slots=True)
class ParameterChange:
    """One leaf of the parameter tree that differs; `key` is dotted; `in_a`, `in_b` tell absent from null."""

    key: str
    a: ParameterValue
    b: ParameterValue
    in_a: bool
    in_b: bool


@dataclass(frozen=True, slots=True)
class MetricChange:
    """One metric that differs; None where it was not reported."""

    name: str
    a: float | None
    b: float | None


@dataclass(frozen=True, slots=True)
class TensorDiff:
    """One tensor of a file that differs, and how.

    Attributes:
        file: path that has it after the change; where it was removed, the one that had it before.
        change: what the numbers say.
        file_a: path that had it before the change, often the same one; empty where it was added.
    """

    file: str
    change: TensorChange
    file_a: str = ""


@dataclass(frozen=True, slots=True)
class Diff:
    """All that differs between two versions; `tensors` is None where it was not asked for."""

    a: Version
    b: Version
    files: tuple[FileChange, ...]
    parameters: tuple[ParameterChange, ...]
    metrics: tuple[MetricChange, ...]
    tensors: tuple[TensorDiff, ...] | None


@dataclass(frozen=True, slots=True)
class DiffProgress:
    """How many files and bytes of tensors were compared."""

    files_done: int
    files_total: int
    bytes_done: int


async def diff(
    get: Get,
    executor: Executor,
    a: Version,
    b: Version,
    *,
    tensors: bool,
    progress: Callable[[DiffProgress], None] | None = None,
) -> Diff:
    """Compare two versions; equal files, nodes and tensors are never read.

    Args:
        get: fetches chunks.
        executor: for sums.
        a: one version, with metrics filled.
        b: the other.
        tensors: also compare the numbers of tensors that differ (needs NumPy).
        progress: called after each file.

    Raises:
        MissingExtraError: `tensors` without NumPy.
        CorruptChunkError, MissingChunkError: a chunk that is needed is not there.
    """
    differences = [item async for item in drain_async(compare(a.manifest, b.manifest), get)]
    found: list[TensorDiff] = []
    bytes_done = 0
    if tensors:
        moved, read = _Moved(), _Read(get, executor)
        for done, difference in enumerate(differences, start=1):
            async for item, length_bytes in _tensor_changes(read, difference, moved):
                found.append(item)
                bytes_done += length_bytes
            if progress is not None:
                progress(DiffProgress(done, len(differences), bytes_done))
        async for item, length_bytes in moved.changes(read):
            found.append(item)
            bytes_done += length_bytes
        if progress is not None and differences:
            progress(DiffProgress(len(differences), len(differences), bytes_done))
        found.sort(key=lambda item: (item.file, item.change.name))
    return Diff(
        a,
        b,
        tuple(_file_change(difference) for difference in differences),
        tuple(parameter_changes(a.parameters, b.parameters)),
        tuple(metric_changes(a.metrics or {}, b.metrics or {})),
        tuple(found) if tensors else None,
    )


def _file_change(difference: Difference) -> FileChange:
    before, after = difference.before, difference.after
    kind = "added" if before is None else "removed" if after is None else "changed"
    return FileChange(
        difference.path,
        kind,
        before.entry.size_bytes if before else 0,
        after.entry.size_bytes if after else 0,
    )


def _leaves(value: ParameterValue, prefix: str) -> dict[str, ParameterValue]:
    if isinstance(value, Mapping) and (value or not prefix):
        found: dict[str, ParameterValue] = {}
        for key, item in value.items():
            found |= _leaves(item, f"{prefix}.{key}" if prefix else key)
        return found
    return {prefix: value}


def parameter_changes(a: Parameters, b: Parameters) -> list[ParameterChange]:
    """Return the leaves that differ, by dotted key. 1, 1.0 and true are different values."""
    ours, theirs = _leaves(a, ""), _leaves(b, "")
    return [
        ParameterChange(key, ours.get(key), theirs.get(key), key in ours, key in theirs)
        for key in sorted(ours.keys() | theirs.keys())
        if (key in ours, key in theirs, type(ours.get(key)), ours.get(key))
        != (key in theirs, key in ours, type(theirs.get(key)), theirs.get(key))
    ]


def metric_changes(a: Mapping[str, float], b: Mapping[str, float]) -> list[MetricChange]:
    """Return the metrics that differ, by name; NaN equals NaN."""

    def same(one: float | None, other: float | None) -> bool:
        both_nan = one is not None and other is not None and math.isnan(one) and math.isnan(other)
        return one == other or both_nan

    return [
        MetricChange(name, a.get(name), b.get(name))
        for name in sorted(a.keys() | b.keys())
        if not same(a.get(name), b.get(name))
    ]


@dataclass(frozen=True, slots=True)
class _Read:
    """Where chunks come from, and where their numbers are put into sums."""

    get: Get
    executor: Executor


_Place = tuple[FileRow, Tensor]
"""A tensor, and the file that has it."""


class _Moved:
    """Tensors that their file has on one side only, until it is known whether another file has them.

    A checkpoint that is written in another format, or cut into other shards, has its tensors under other
    paths. They are the same tensors when they have the same name, and elements that can be compared. Names
    that several files have on one side say nothing, nor does an empty one: those were added or removed.
    """

    def __init__(self) -> None:
        self._before: dict[str, list[_Place]] = {}
        self._after: dict[str, list[_Place]] = {}

    def add(self, *, before: _Place | None = None, after: _Place | None = None) -> None:
        if before is not None:
            self._before.setdefault(before[1].name, []).append(before)
        if after is not None:
            self._after.setdefault(after[1].name, []).append(after)

    async def changes(self, read: _Read) -> AsyncIterator[tuple[TensorDiff, int]]:
        """Yield what became of them."""
        for name in sorted(self._before.keys() | self._after.keys()):
            before, after = self._before.get(name, []), self._after.get(name, [])
            if name and len(before) == len(after) == 1 and _alike(before[0][1], after[0][1]):
                yield await _tensor_change(read, before[0], after[0])
                continue
            for row, gone in before:
                change = removed(name, dtype=gone.dtype, shape=gone.shape)
                yield TensorDiff(row.entry.path, change, row.entry.path), 0
            for row, new in after:
                yield TensorDiff(row.entry.path, added(name, dtype=new.dtype, shape=new.shape)), 0


def _alike(a: Tensor, b: Tensor) -> bool:
    return comparable(dtype_a=a.dtype, dtype_b=b.dtype, shape_a=a.shape, shape_b=b.shape)


async def _tensor_changes(
    read: _Read, difference: Difference, moved: _Moved
) -> AsyncIterator[tuple[TensorDiff, int]]:
    """Yield the changes of tensors that one path has on both sides; put the others aside."""
    before, after = difference.before, difference.after
    ours, theirs = await _tensors(read.get, before), await _tensors(read.get, after)
    running: deque[asyncio.Task[tuple[TensorDiff, int]]] = deque()
    try:
        for name in sorted(ours.keys() | theirs.keys()):
            a, b = ours.get(name), theirs.get(name)
            if a is not None and b is not None:
                assert before is not None
                assert after is not None
                running.append(asyncio.create_task(_tensor_change(read, (before, a), (after, b))))
            elif a is not None:
                assert before is not None
                moved.add(before=(before, a))
            elif b is not None:
                assert after is not None
                moved.add(after=(after, b))
            while len(running) > _TENSORS_AT_ONCE:
                yield await running.popleft()
        while running:
            yield await running.popleft()
    finally:
        await settle(running)


async def _tensor_change(read: _Read, before: _Place, after: _Place) -> tuple[TensorDiff, int]:
    """Return how a tensor changed, and how many of its bytes were read for that on each side."""
    (row_a, a), (row_b, b) = before, after
    length_bytes = 0
    if not _alike(a, b):
        change = reshaped(b.name, dtype_a=a.dtype, dtype_b=b.dtype, shape_a=a.shape, shape_b=b.shape)
    elif a.digest == b.digest and a.dtype == b.dtype:
        change = unchanged(b.name, dtype=a.dtype, shape=a.shape)
    else:
        change = await _compare_tensor(read, before, after)
        length_bytes = a.length_bytes
    return TensorDiff(row_b.entry.path, change, row_a.entry.path), length_bytes


async def _tensors(get: Get, row: FileRow | None) -> dict[str, Tensor]:
    if row is None:
        return {}
    return {tensor.name: tensor async for tensor in drain_async(walk_tensors(row), get)}


async def _compare_tensor(read: _Read, a: _Place, b: _Place) -> TensorChange:
    ours, theirs = a[1], b[1]
    comparison = TensorComparison(
        ours.name,
        dtype_a=ours.dtype,
        dtype_b=theirs.dtype,
        shape_a=ours.shape,
        shape_b=theirs.shape,
    )
    cut_alike = ours.length_bytes == theirs.length_bytes
    parts = _pairs(read.get, a, b) if cut_alike else _elements(read.get, a, b)
    async with aclosing(_ahead(parts)) as ready:
        async for pairs in ready:
            await run_blocking(read.executor, partial(_update, comparison, pairs))
    return comparison.finish()


_Pairs = list[tuple[bytes, bytes | None]]
"""The next blocks of both sides; None = the same bytes again."""


def _update(comparison: TensorComparison, pairs: _Pairs) -> None:
    for data_a, data_b in pairs:
        if data_b is None:
            comparison.update_equal(data_a)
        else:
            comparison.update(data_a, data_b)


async def _ahead(parts: AsyncGenerator[_Pairs, None]) -> AsyncGenerator[_Pairs, None]:
    """Yield what `parts` yields, and let it go on with the next one meanwhile."""

    async def following() -> _Pairs | None:
        return await anext(parts, None)

    async with aclosing(parts):
        upcoming = asyncio.create_task(following())
        try:
            while (pairs := await upcoming) is not None:
                upcoming = asyncio.create_task(following())
                yield pairs
        finally:
            await settle([upcoming])


async def _pairs(get: Get, a: _Place, b: _Place) -> AsyncGenerator[_Pairs, None]:
    """Yield the blocks of two tensors of one length, some at a time; equal chunks are read once."""
    ids: list[tuple[ChunkId, ChunkId]] = []
    # Tensors of one length are cut alike from their start, so the two sides stay in step.
    ids_b = _chunk_ids(get, *b)
    async for id_a in _chunk_ids(get, *a):
        ids.append((id_a, await anext(ids_b)))
        if len(ids) == _CHUNKS_AT_ONCE:
            yield await _fetch(get, ids)
            ids = []
    if ids:
        yield await _fetch(get, ids)


async def _fetch(get: Get, ids: Sequence[tuple[ChunkId, ChunkId]]) -> _Pairs:
    sides = [[id_a for id_a, _ in ids], [id_b for id_a, id_b in ids if id_a != id_b]]
    # Side by side: each call reads, decodes and verifies one chunk after the other, on one core.
    reading = [asyncio.ensure_future(get(side)) for side in sides if side]
    try:
        of_a, *of_b = await asyncio.gather(*reading)
    finally:
        await settle(reading)
    theirs = iter(of_b[0] if of_b else ())
    return [
        (data_a, None if id_a == id_b else next(theirs))
        for (id_a, id_b), data_a in zip(ids, of_a, strict=True)
    ]


async def _elements(get: Get, a: _Place, b: _Place) -> AsyncGenerator[_Pairs, None]:
    """Yield parts of tensors whose elements differ in width, as many elements on either side."""
    count = math.prod(a[1].shape)
    sides = [
        (AsyncFile(row, get), tensor.offset_bytes, tensor.length_bytes // count) for row, tensor in (a, b)
    ]
    for first in range(0, count, _ELEMENTS_AT_ONCE):
        taken = min(_ELEMENTS_AT_ONCE, count - first)
        parts = [
            await file.read_at(offset_bytes + first * width_bytes, taken * width_bytes)
            for file, offset_bytes, width_bytes in sides
        ]
        yield [(parts[0], parts[1])]


async def _chunk_ids(get: Get, row: FileRow, tensor: Tensor) -> AsyncIterator[ChunkId]:
    """Yield the chunks of a tensor. Cutting never crosses a tensor's border, so they are its blocks."""
    start, stop = tensor.offset_bytes, tensor.offset_bytes + tensor.length_bytes
    async for span in drain_async(walk_chunks(row, start=start, stop=stop), get):
        yield span.id
