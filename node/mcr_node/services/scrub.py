"""Scrub: reads every frame of a node within a period, and heals what is damaged from the others."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping
from itertools import islice

from mcr.errors import FailedError, McrError
from mcr.model import MIB, ChunkId
from mcr_node.ports import Clock, Scrubbed
from mcr_node.ports_scrub import ScrubPlace, ScrubPlaces
from mcr_node.services.chunks import LocalChunks
from mcr_node.services.damage import WatchedStore
from mcr_node.services.pace import SCRUB_BYTES_PER_S, SCRUB_PERIOD_S
from mcr_node.services.workers import Step

# A store that is too large for that rate is read faster: by this much more than the period asks for.
HASTE = 1.25
# What is read in one step, at most some tens of milliseconds of an ordinary disk.
FRAMES_AT_ONCE = 64
BYTES_AT_ONCE = 4 * MIB
# How often the place is noted down: so much is read again after a restart.
NOTE_S = 60.0
MS_PER_S = 1000
# How often it is looked whether a run is due: against a period of days.
LOOK_S = 10.0
UNHEALED_SAID_MAX = 20
# At the end of a run, what lacks yet is asked for once more, so much of it.
HEALED_AT_END_MAX = 1000


class Scrub:
    """`services.workers.Task`: the scrub of one node."""

    name = "scrub"
    look_s = LOOK_S

    def __init__(
        self,
        store: WatchedStore,
        chunks: LocalChunks,
        places: ScrubPlaces,
        clock: Clock,
        *,
        period_s: float = SCRUB_PERIOD_S,
        bytes_per_s: float = SCRUB_BYTES_PER_S,
    ) -> None:
        self._store = store
        self._chunks = chunks
        self._places = places
        self._clock = clock
        self._period_s = period_s
        self._bytes_per_s_min = bytes_per_s
        self.bytes_per_s = bytes_per_s
        self._place: ScrubPlace | None = None
        self._chunks_read = self._bytes_read = 0

    async def is_due(self) -> bool:
        """See Task."""
        place = await self._where()
        if place.after is not None:
            return True
        if not place.ended_ms:
            # What is here was verified when it came, so the first period begins now.
            await self._note(ScrubPlace(ended_ms=self._clock.now_ms()))
            return False
        # A clock that was set back must not put the next run off for years.
        since_ms = self._clock.now_ms() - place.ended_ms
        return not 0 <= since_ms < self._period_s * MS_PER_S

    async def _where(self) -> ScrubPlace:
        if self._place is None:
            self._place = await self._chunks.run(self._places.read)
        return self._place

    async def run(self, *, asked: bool) -> AsyncGenerator[Step]:
        """See Task."""
        place = await self._where()
        stats = await self._chunks.run(self._store.stats)
        self.bytes_per_s = max(self._bytes_per_s_min, HASTE * stats.bytes_used / self._period_s)
        # Whoever asks wants all of it read.
        after = None if asked else place.after
        frames = self._store.scrub(after)
        done = 0
        noted_s = asyncio.get_running_loop().time()
        while found := await self._chunks.run(lambda: _some(frames)):
            done += len(found)
            length_bytes = sum(one.length_bytes for one in found)
            self._chunks_read += len(found)
            self._bytes_read += length_bytes
            await self._heal([one.chunk_id for one in found if one.is_damaged])
            yield Step("chunks read", done, max(done, stats.chunk_count), length_bytes)
            now_s = asyncio.get_running_loop().time()
            if now_s - noted_s > NOTE_S:
                noted_s = now_s
                await self._note(ScrubPlace(found[-1].after, place.ended_ms))
        await self._heal(self._store.unhealed()[:HEALED_AT_END_MAX])
        await self._note(ScrubPlace(ended_ms=self._clock.now_ms()))
        if left := self.findings():
            raise FailedError("healing what the scrub found", left[0])

    async def _note(self, place: ScrubPlace) -> None:
        self._place = place
        await self._chunks.run(lambda: self._places.write(place))

    async def _heal(self, ids: list[ChunkId]) -> None:
        for chunk_id in ids:
            try:
                # A read of what lacks fetches it from whoever has it, verifies and stores it.
                await self._chunks.get([chunk_id])
            except McrError:
                # Stays in mind as not healed. Somebody who has it may come back.
                continue
        if ids:
            await self._chunks.sync()

    def counts(self) -> Mapping[str, int]:
        """See Task."""
        damage = self._store.damage
        return {
            "chunks_read": self._chunks_read,
            "bytes_read": self._bytes_read,
            "chunks_damaged": damage.damaged,
            "chunks_healed": damage.healed,
            "chunks_unhealed": damage.unhealed,
        }

    def findings(self) -> list[str]:
        """See Task."""
        unhealed = self._store.unhealed()[:UNHEALED_SAID_MAX]
        return [f"chunk {one.hex()} was damaged here, and no node that answers has it" for one in unhealed]


def _some(frames: Iterator[Scrubbed]) -> list[Scrubbed]:
    """Read the next few frames; none at the end."""
    found: list[Scrubbed] = []
    length_bytes = 0
    for one in islice(frames, FRAMES_AT_ONCE):
        found.append(one)
        length_bytes += one.length_bytes
        if length_bytes >= BYTES_AT_ONCE:
            break
    return found
