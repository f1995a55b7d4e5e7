"""Is everything there, and is it right? The check behind `mcr doctor`."""

from collections.abc import AsyncIterator, Callable, Sequence

from mcr.errors import CorruptError
from mcr.manifest import drain_async, walk_ids
from mcr.model import CheckReport, ChunkId, Version
from mcr.transfer import ChunkTransport

_BATCH_CHUNKS = 16


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
        progress: called with (versions done, total) after each version.
    """
    check = _Check(chunks, deep=deep)
    done = 0
    async for version in versions:
        if not version.is_purged:
            await check.add(version)
        done += 1
        if progress is not None:
            progress(done, total)
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

    async def add(self, version: Version) -> None:
        # Versions of one content (a rollback) share a manifest.
        if version.manifest not in self._whole:
            self._whole[version.manifest] = await self._check(version)
        if not self._whole[version.manifest]:
            self._affected.append(version.reference)

    def report(self) -> CheckReport:
        return CheckReport(
            chunks_checked=len(self._good) + len(self._bad),
            chunks_damaged=tuple(sorted(chunk_id.hex() for chunk_id in self._bad)),
            versions_affected=tuple(self._affected),
            problems=tuple(self._problems),
        )

    async def _check(self, version: Version) -> bool:
        whole = True
        batch: list[ChunkId] = []
        try:
            async for chunk_id in drain_async(walk_ids(version.manifest), self._chunks.get):
                if chunk_id in self._bad:
                    whole = False
                elif chunk_id not in self._good:
                    batch.append(chunk_id)
                if len(batch) >= _BATCH_CHUNKS:
                    whole = await self._check_batch(batch) and whole
                    batch = []
        except CorruptError as error:
            self._problems.append(f"{version.reference}: its list of files cannot be read: {error.message}")
            self._bad.add(version.manifest)
            return False
        return await self._check_batch(batch) and whole

    async def _check_batch(self, ids: Sequence[ChunkId]) -> bool:
        lacking = await self._chunks.missing(ids)
        bad: set[ChunkId] = set()
        for chunk_id in dict.fromkeys(ids):
            # What the node asked lacks another one may hold: only what cannot be had from anywhere is gone.
            if self._deep or chunk_id in lacking:
                try:
                    await self._chunks.get([chunk_id])
                except CorruptError:
                    bad.add(chunk_id)
            (self._bad if chunk_id in bad else self._good).add(chunk_id)
        return not bad
