"""Is everything there, and is it right? The check behind `mcr doctor`."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from mcr.blocking import settle
from mcr.errors import CorruptError
from mcr.manifest import drain_async, walk_ids
from mcr.model import CheckReport, ChunkId, Version
from mcr.transfer import ChunkTransport

# Versions whose lists are read side by side: over a network each alone would wait for a few answers.
VERSIONS_AT_ONCE = 16
# Chunks in one question whether they are held.
IDS_AT_ONCE = 1024
# Chunks in one read, and reads side by side: 64 MiB in all, unless chunks are large.
CHUNKS_AT_ONCE = 16
READS_AT_ONCE = 4

Result = TypeVar("Result")


async def check_versions(
    chunks: ChunkTransport,
    versions: AsyncIterator[Version],
    total: int,
    *,
    deep: bool,
    progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Verify that every version has all its chunks and, with `deep`, that each one's bytes are right.

    A chunk that several versions share is read once. Of what was deleted for good nothing is looked for.

    Args:
        chunks: where they are.
        versions: what to check.
        total: how many versions will come, for `progress`.
        deep: read and hash every chunk; otherwise only look that it is held.
        progress: called with (versions done, total) now and then, and at the end.
    """
    check = _Check(chunks, deep=deep)
    done = 0
    waiting: list[Version] = []

    async def look() -> None:
        nonlocal done
        await check.add([version for version in waiting if not version.is_purged])
        done += len(waiting)
        waiting.clear()
        if progress is not None:
            progress(done, total)

    async for version in versions:
        waiting.append(version)
        if len(waiting) == VERSIONS_AT_ONCE:
            await look()
    if waiting:
        await look()
    return check.report()


class _Check:
    def __init__(self, chunks: ChunkTransport, *, deep: bool) -> None:
        self._chunks = chunks
        self._deep = deep
        # About 100 bytes a chunk in memory: 1 TiB in 1 MiB chunks costs 100 MiB.
        self._good: set[ChunkId] = set()
        self._bad: set[ChunkId] = set()
        self._whole: dict[ChunkId, bool] = {}
        self._affected: list[str] = []
        self._problems: list[str] = []

    async def add(self, versions: Sequence[Version]) -> None:
        # Versions of one content (a rollback) share a manifest.
        fresh = {version.manifest: version for version in versions if version.manifest not in self._whole}
        lists = await _together([self._list(version) for version in fresh.values()])
        unknown = dict.fromkeys(
            one for ids in lists for one in ids or () if one not in self._good and one not in self._bad
        )
        await self._check(list(unknown))
        for manifest, ids in zip(fresh, lists, strict=True):
            self._whole[manifest] = ids is not None and self._bad.isdisjoint(ids)
        self._affected += [version.reference for version in versions if not self._whole[version.manifest]]

    def report(self) -> CheckReport:
        return CheckReport(
            chunks_checked=len(self._good) + len(self._bad),
            chunks_damaged=tuple(sorted(chunk_id.hex() for chunk_id in self._bad)),
            versions_affected=tuple(self._affected),
            problems=tuple(self._problems),
        )

    async def _list(self, version: Version) -> list[ChunkId] | None:
        """Return all that a version needs; None when that cannot be read."""
        try:
            walk = drain_async(walk_ids(version.manifest), self._chunks.get)
            return list(dict.fromkeys([one async for one in walk]))
        except CorruptError as error:
            self._problems.append(f"{version.reference}: its list of files cannot be read: {error.message}")
            self._bad.add(version.manifest)
            return None

    async def _check(self, ids: Sequence[ChunkId]) -> None:
        lacking: set[ChunkId] = set()
        for start in range(0, len(ids), IDS_AT_ONCE):
            lacking |= await self._chunks.missing(ids[start : start + IDS_AT_ONCE])
        # What the node asked lacks another one may hold: only what cannot be had from anywhere is gone.
        read = [one for one in ids if self._deep or one in lacking]
        self._good |= set(ids).difference(read)
        parts = [read[start : start + CHUNKS_AT_ONCE] for start in range(0, len(read), CHUNKS_AT_ONCE)]
        for start in range(0, len(parts), READS_AT_ONCE):
            await _together([self._read(part) for part in parts[start : start + READS_AT_ONCE]])

    async def _read(self, ids: Sequence[ChunkId]) -> None:
        try:
            await self._chunks.get(ids)
        except CorruptError:
            if len(ids) == 1:
                self._bad.add(ids[0])
                return
            # One of them: which?
            for one in ids:
                await self._read([one])
        else:
            self._good.update(ids)


async def _together(work: Sequence[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Do all side by side; none goes on when one fails."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await settle(tasks)
