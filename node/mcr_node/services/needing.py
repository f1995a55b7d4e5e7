"""Who needs a chunk that cannot be read: versions and files, so that a person knows what is lost.

Only asked when a read has failed, so it may take a moment: manifests are read, the newest versions first. It
is one search at a time, for so long and no longer; what it has found by then is said.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

from mcr.errors import CorruptChunkError, LostChunkError, McrError, MissingChunkError
from mcr.manifest import FileRow, Steps, walk_chunks, walk_files
from mcr.model import ChunkId, Version
from mcr.transfer import ChunkTransport
from mcr_node.core.state import queries
from mcr_node.ports_log import ReplicatedLog
from mcr_node.services.chunks import LocalChunks

# How long whoever reads waits to hear more than the id of the chunk.
SEARCH_S = 5.0
PAGE_MAX = 100
VERSIONS_NAMED_MAX = 20
FILES_NAMED_MAX = 5

Item = TypeVar("Item")


class _LostNodeError(Exception):
    """The chunk is a node of the manifest itself."""


class Needing:
    """Explains failed reads of one node."""

    def __init__(self, log: ReplicatedLog, chunks: LocalChunks) -> None:
        """Look in the versions that `log` names; `chunks` reads their manifests."""
        self._log = log
        self._chunks = chunks
        self._searching = asyncio.Lock()

    async def explain(self, error: McrError) -> McrError:
        """Return an error that names who needs the chunk, or the same error when that is not to be found."""
        if not isinstance(error, (MissingChunkError, CorruptChunkError)) or isinstance(error, LostChunkError):
            return error
        if self._searching.locked():
            # A reader asks for many chunks at once; one answer says what it must know.
            return error
        async with self._searching:
            files: dict[str, None] = {}
            versions: list[str] = []
            with suppress(TimeoutError, McrError):
                async with asyncio.timeout(SEARCH_S):
                    await self._search(ChunkId(bytes.fromhex(error.chunk_id)), files, versions)
        if not versions:
            return error
        of = ", ".join(list(files)[:FILES_NAMED_MAX]) or "the list of files"
        more = len(files) - FILES_NAMED_MAX
        return LostChunkError(
            error.chunk_id, f"{of} and {more} more files" if more > 0 else of, ", ".join(versions)
        )

    async def _search(self, chunk_id: ChunkId, files: dict[str, None], versions: list[str]) -> None:
        async for version in self._versions():
            try:
                found = [path async for path in self._files(version, chunk_id)]
            except _LostNodeError:
                found = []
            except (MissingChunkError, CorruptChunkError):
                # Another chunk is lost too, and with it the way to what is below it.
                continue
            else:
                if not found:
                    continue
            files |= dict.fromkeys(found)
            versions.append(f"{version.model}@v{version.number}")
            if len(versions) == VERSIONS_NAMED_MAX:
                return

    async def _versions(self) -> AsyncIterator[Version]:
        """Yield all versions, model by model, the newest first."""
        after = ""
        while models := await self._page(queries.list_models, after=after):
            for model in models:
                before: int | None = None
                while page := await self._page(queries.list_versions, model.name, before=before):
                    for version in page:
                        yield version
                    before = page[-1].number
            after = models[-1].name

    async def _page(self, query: Callable[..., list[Item]], *what: object, **where: object) -> list[Item]:
        return await self._log.run(partial(query, self._log.view(), *what, **where, limit=PAGE_MAX))

    async def _files(self, version: Version, chunk_id: ChunkId) -> AsyncIterator[str]:
        async for rows in self._walk(walk_files(version.manifest), chunk_id):
            for row in rows:
                if await self._has(row, chunk_id):
                    yield row.entry.path

    async def _has(self, row: FileRow, chunk_id: ChunkId) -> bool:
        async for spans in self._walk(walk_chunks(row), chunk_id):
            if any(span.id == chunk_id for span in spans):
                return True
        return False

    async def _walk(self, walk: Steps[Item], chunk_id: ChunkId) -> AsyncIterator[list[Item]]:
        """Yield what a walk finds; decoding runs beside the event loop."""
        run = self._chunks.run
        yield await run(walk.take)
        while ids := await run(walk.needs):
            if chunk_id in ids:
                raise _LostNodeError
            found = dict(zip(ids, await self._chunks.get(ids), strict=True))

            def feed(found: dict[ChunkId, bytes] = found) -> list[Item]:
                walk.feed(found)
                return walk.take()

            yield await run(feed)


class ExplainingChunks:
    """`mcr.transfer.ChunkTransport` over another one; what it cannot read it explains."""

    def __init__(self, chunks: ChunkTransport, needing: Needing) -> None:
        self._chunks = chunks
        self._needing = needing
        self.put = chunks.put
        self.sync = chunks.sync
        self.missing = chunks.missing

    async def get(self, ids: Sequence[ChunkId]) -> list[bytes]:
        """See ChunkTransport."""
        return await self._explained(self._chunks.get(ids))

    async def get_into(self, ids: Sequence[ChunkId], places: Sequence[memoryview]) -> list[int]:
        """See ChunkTransport."""
        return await self._explained(self._chunks.get_into(ids, places))

    async def _explained(self, reading: Awaitable[Item]) -> Item:
        try:
            return await reading
        except McrError as error:
            explained = await self._needing.explain(error)
            if explained is error:
                raise
            raise explained from error
