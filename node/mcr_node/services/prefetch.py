"""Prefetch: brings near what channels point at and may go back to, so that a fleet reads at home.

It goes into the cache of what was fetched, and may take half of it: what readers fetch themselves has the
other half. Each site still fetches a chunk once, as for any reader (`services.read_through`).
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from functools import partial

from mcr.errors import HistoryGoneError, McrError
from mcr.manifest import walk_ids
from mcr.model import ChunkId, ModelSummary, RefKind, Version
from mcr_node.core.state import queries
from mcr_node.core.state.expected import expected
from mcr_node.ports import Clock
from mcr_node.ports_log import ReplicatedLog
from mcr_node.services.cluster_chunks import ClusterChunks
from mcr_node.services.pace import PREFETCH_BYTES_PER_S
from mcr_node.services.workers import Step

# How often it is looked whether a channel moved: rows of the state, and none where nothing was written.
LOOK_S = 1.0
# Everything is looked at again so often, for the cache may have dropped some of it.
AGAIN_S = 600.0
CACHE_SHARE = 0.5
# Fetched in one step; a few are always on their way.
CHUNKS_AT_ONCE = 16
IDS_AT_ONCE = 1024
PAGE_MAX = 100
FINDINGS_MAX = 20
NS_PER_S = 1e9


class Prefetch:
    """`services.workers.Task`: the prefetch of one node."""

    name = "prefetch"
    look_s = LOOK_S

    def __init__(
        self,
        log: ReplicatedLog,
        chunks: ClusterChunks,
        room_bytes: Callable[[], int],
        clock: Clock,
        *,
        bytes_per_s: float = PREFETCH_BYTES_PER_S,
    ) -> None:
        """Fetch what `log` names; `room_bytes()` is what the cache may take, 0 where there is none."""
        self._log = log
        self._chunks = chunks
        self._room_bytes = room_bytes
        self._clock = clock
        self.bytes_per_s = bytes_per_s
        # How far the moves of refs were read; None = all models are to be looked at.
        self._seen: int | None = None
        self._changed: dict[str, None] = {}
        self._looked_ns = 0
        # Manifests that were all here once in this round, and what they take of the cache at most.
        self._done: dict[ChunkId, int] = {}
        self._too_large: list[str] = []
        self._chunks_fetched = self._bytes_fetched = 0

    async def is_due(self) -> bool:
        """See Task."""
        if not self._room_bytes():
            return False
        if self._seen is None or self._clock.monotonic_ns() - self._looked_ns >= AGAIN_S * NS_PER_S:
            self._seen = None
            return True
        applied = self._log.applied
        while self._seen < applied:
            try:
                moves = await self._log.run(
                    partial(
                        queries.moved,
                        self._log.view(),
                        after=self._seen,
                        through=applied,
                        limit=PAGE_MAX,
                    )
                )
            except HistoryGoneError:
                self._seen = None
                return True
            for _, ref in moves:
                if ref.kind is RefKind.CHANNEL:
                    self._changed[ref.model] = None
            self._seen = moves[-1][0] if len(moves) == PAGE_MAX else applied
        return bool(self._changed)

    async def run(self, *, asked: bool) -> AsyncGenerator[Step]:
        """See Task."""
        applied = self._log.applied
        if asked or self._seen is None:
            self._done.clear()
            self._too_large.clear()
            self._looked_ns = self._clock.monotonic_ns()
            self._changed = {model.name: None async for model in self._models()}
        models = list(self._changed)
        now: list[Version] = []
        back: list[Version] = []
        for model in models:
            pointed, before = await self._log.run(partial(expected, self._log.view(), model))
            now += [version async for version in self._get(model, pointed)]
            back += [version async for version in self._get(model, before)]
        self._seen = max(applied, self._seen or 0)
        # What is in use before what may be: there may be room for one of the two only.
        versions = now + back
        for done, version in enumerate(versions):
            async for cost_bytes in self._bring(version):
                yield Step("versions fetched", done, len(versions), cost_bytes)
            yield Step("versions fetched", done + 1, len(versions), 0)
        for model in models:
            self._changed.pop(model, None)

    def counts(self) -> Mapping[str, int]:
        """See Task."""
        return {
            "versions_here": len(self._done),
            "chunks_fetched": self._chunks_fetched,
            "bytes_fetched": self._bytes_fetched,
        }

    def findings(self) -> list[str]:
        """See Task."""
        return [f"{one} does not fit into half of the cache (cache_bytes)" for one in self._too_large]

    async def _models(self) -> AsyncIterator[ModelSummary]:
        after = ""
        while page := await self._log.run(
            partial(queries.list_models, self._log.view(), after=after, limit=PAGE_MAX)
        ):
            for summary in page:
                yield summary
            after = page[-1].name

    async def _get(self, model: str, numbers: Sequence[int]) -> AsyncIterator[Version]:
        for number in numbers:
            try:
                yield await self._log.run(partial(queries.get_version, self._log.view(), model, number))
            except McrError:
                # Deleted since.
                continue

    async def _bring(self, version: Version) -> AsyncIterator[int]:
        """Fetch what lacks of a version, some at a time; yield what each took.

        Raises:
            McrError: nobody who answers has some of it.
        """
        if version.manifest in self._done:
            return
        left_bytes = CACHE_SHARE * self._room_bytes() - sum(self._done.values())
        if version.bytes_total > left_bytes:
            name = f"{version.model}@v{version.number}"
            if name not in self._too_large and len(self._too_large) < FINDINGS_MAX:
                self._too_large.append(name)
            return
        fetched_bytes = 0
        async for ids in self._ids(version.manifest):
            held = await self._chunks.held(ids)
            lacking = [one for one in dict.fromkeys(ids) if one not in held]
            for start in range(0, len(lacking), CHUNKS_AT_ONCE):
                part = lacking[start : start + CHUNKS_AT_ONCE]
                length_bytes = sum(map(len, await self._chunks.get(part)))
                fetched_bytes += length_bytes
                self._chunks_fetched += len(part)
                self._bytes_fetched += length_bytes
                yield length_bytes
        self._done[version.manifest] = fetched_bytes

    async def _ids(self, manifest: ChunkId) -> AsyncIterator[list[ChunkId]]:
        """Yield all ids of a manifest; decoding runs beside the event loop."""
        walk = walk_ids(manifest)
        run = self._chunks.run
        while True:
            found = await run(walk.take)
            for start in range(0, len(found), IDS_AT_ONCE):
                yield found[start : start + IDS_AT_ONCE]
            ids = await run(walk.needs)
            if not ids:
                return
            nodes = dict(zip(ids, await self._chunks.get(ids), strict=True))
            await run(partial(walk.feed, nodes))
