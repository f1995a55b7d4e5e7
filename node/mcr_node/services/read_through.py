"""Chunks that this node lacks, got for its readers: each once, however many ask for it.

A chunk is *arriving* while it is fetched for readers of this node, and *crossing* while it is fetched for all
of the site, which one node does (`core.placement.sources.relay`). Who asks meanwhile waits for the same
flight; so the nodes of a site share what still arrives, chunk by chunk. A crossing asks others only for what
they hold, so no node ever waits for one that waits for it.

What has come is kept by whoever owns this, in a cache that may forget it at once, and the newest for a moment
in memory: a reader that looked ahead finds it there.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any

from mcr.blocking import settle
from mcr.errors import CorruptChunkError, McrError
from mcr.model import MIB, ChunkId
from mcr.values import dataclass
from mcr_node.core.members import Member
from mcr_node.core.placement import sources
from mcr_node.core.placement.sources import US_PER_S
from mcr_node.services.lanes import Exchange, Lane, Standing

# Chunks being fetched at a time, for this node and for its site; others wait for their turn.
FLIGHTS_MAX = 128
# What came and was not taken yet.
RECENT_BYTES_MAX = 64 * MIB
# Ids of what came lately. Who looked for one of them just before it came looks again, and does not fetch it.
LANDED_MAX = 4096
# Requests that come within this are looked up together.
GATHER_S = 0.001
LOOK_IDS_MAX = 512
# Members that are asked at a time, and how long they have: those of the site, those of other sites.
LOOKS_AT_ONCE = 16
LOOK_NEAR_S, LOOK_FAR_S = 1.0, 3.0
# One chunk, whatever happens; a client gave up before.
FLIGHT_S_MAX = 600.0


@dataclass(frozen=True, slots=True)
class Landed:
    """What became of one chunk.

    Attributes:
        data: its bytes; None = nobody who answers has it.
        silent: addresses of members that do not answer, and may have it.
    """

    data: bytes | None
    silent: tuple[str, ...] = ()


@dataclass(slots=True)
class FetchCounts:
    """Since the node started.

    Attributes:
        bytes_near: fetched from nodes of this site; bytes_far: from others.
        bytes_given: to other nodes, for their readers.
        hedges: chunks that were asked of a second node as well; hedges_lost: for which the first was faster.
    """

    bytes_near: int = 0
    bytes_far: int = 0
    bytes_given: int = 0
    chunks: int = 0
    hedges: int = 0
    hedges_lost: int = 0


@dataclass(frozen=True, slots=True)
class _Found:
    holders: tuple[Member, ...]
    silent: tuple[str, ...]


Accept = Callable[[bytes, Mapping[ChunkId, object]], Awaitable[dict[ChunkId, bytes]]]
Read = Callable[[Sequence[ChunkId]], Awaitable[dict[ChunkId, bytes]]]


class ReadThrough:
    """Fetches chunks for one node. Used on one event loop."""

    def __init__(
        self,
        exchange: Exchange,
        accept: Accept,
        read: Read,
        me: Callable[[], Member],
        others: Callable[[], Sequence[Member]],
    ) -> None:
        """Ask `others()`; `accept` verifies and keeps what comes, `read` returns what is here."""
        self.counts = FetchCounts()
        self._exchange = exchange
        self._accept = accept
        self._read = read
        self._me = me
        self._others = others
        self._standings: dict[int, Standing] = {}
        self._lanes: dict[tuple[int, bool], Lane] = {}
        self._arriving: dict[ChunkId, asyncio.Task[Landed]] = {}
        self._crossing: dict[ChunkId, asyncio.Task[Landed]] = {}
        self._room = asyncio.Semaphore(FLIGHTS_MAX)
        self._recent: OrderedDict[ChunkId, bytes] = OrderedDict()
        self._recent_bytes = 0
        self._landed: OrderedDict[ChunkId, None] = OrderedDict()
        self._to_look: dict[bool, dict[ChunkId, asyncio.Future[_Found]]] = {True: {}, False: {}}
        self._looking: set[asyncio.Task[None]] = set()

    # ---- for readers ----

    def begin(self, ids: Sequence[ChunkId]) -> None:
        """Let chunks come that a reader is about to ask for."""
        for chunk_id in ids:
            if chunk_id not in self._recent:
                self._flight(self._arriving, chunk_id, self._arrive)

    def is_coming(self, chunk_id: ChunkId) -> bool:
        """Say whether a chunk is on its way, or has just come."""
        return chunk_id in self._arriving or chunk_id in self._recent

    def take(self, chunk_id: ChunkId) -> bytes | None:
        """Return a chunk that has just come, if it did."""
        data = self._recent.pop(chunk_id, None)
        if data is not None:
            self._recent_bytes -= len(data)
        return data

    async def fetch(self, chunk_id: ChunkId) -> Landed:
        """Return a chunk from whoever has it."""
        data = self.take(chunk_id)
        if data is not None:
            return Landed(data)
        landed = await asyncio.shield(self._flight(self._arriving, chunk_id, self._arrive))
        self.take(chunk_id)
        return landed

    # ---- for the other nodes of the site ----

    async def cross(self, chunk_id: ChunkId) -> Landed:
        """Return a chunk from a node that holds it, for a node that leaves it to this one."""
        data = self._recent.get(chunk_id)
        if data is not None:
            return Landed(data)
        return await asyncio.shield(self._flight(self._crossing, chunk_id, self._cross))

    # ---- flights ----

    def _flight(
        self,
        flights: dict[ChunkId, asyncio.Task[Landed]],
        chunk_id: ChunkId,
        fly: Callable[[ChunkId], Coroutine[Any, Any, Landed]],
    ) -> asyncio.Task[Landed]:
        found = flights.get(chunk_id)
        if found is None:
            # Not ended with whoever asked first: others may have joined, and what comes is kept.
            found = flights[chunk_id] = asyncio.create_task(fly(chunk_id), name="mcr-flight")
            found.add_done_callback(partial(self._ended, flights, chunk_id))
        return found

    def _ended(
        self, flights: dict[ChunkId, asyncio.Task[Landed]], chunk_id: ChunkId, task: asyncio.Task[Landed]
    ) -> None:
        flights.pop(chunk_id, None)
        if task.cancelled() or task.exception() is not None:
            return
        data = task.result().data
        if data is None:
            return
        self._landed[chunk_id] = None
        while len(self._landed) > LANDED_MAX:
            self._landed.popitem(last=False)
        if flights is not self._arriving or chunk_id in self._recent:
            return
        self._recent[chunk_id] = data
        self._recent_bytes += len(data)
        while self._recent_bytes > RECENT_BYTES_MAX:
            _, old = self._recent.popitem(last=False)
            self._recent_bytes -= len(old)

    async def _again(self, chunk_id: ChunkId) -> bytes | None:
        if chunk_id not in self._landed:
            return None
        data = (await self._read([chunk_id])).get(chunk_id)
        if data is None:
            # Kept nowhere, or dropped since.
            self._landed.pop(chunk_id, None)
        return data

    async def _arrive(self, chunk_id: ChunkId) -> Landed:
        if (data := await self._again(chunk_id)) is not None:
            return Landed(data)
        me = self._me()
        trusted = [one for one in self._others() if not self._standing(one).is_failing]
        relay = sources.relay(chunk_id, me, trusted)
        if relay.node_id != me.node_id:
            try:
                data = await self._lane(relay, for_site=True).get(chunk_id)
            except McrError:
                # It is distrusted now; this node does it itself.
                data = None
            if data is not None:
                self._count(relay, data)
                return Landed(data)
        # Also when the relay did not find it: it may know fewer members, or other ones.
        return await asyncio.shield(self._flight(self._crossing, chunk_id, self._cross))

    async def _cross(self, chunk_id: ChunkId) -> Landed:
        if (data := await self._again(chunk_id)) is not None:
            return Landed(data)
        silent: list[str] = []
        asked: list[int] = []
        async with self._room, asyncio.timeout(FLIGHT_S_MAX):
            # The other sites only when nobody of this one has it, or gives it.
            for near in (True, False):
                found = await self._look(chunk_id, near=near)
                silent += found.silent
                left = [one for one in found.holders if one.node_id not in asked]
                failed: int | None = None
                while left:
                    asking = _Asking(chunk_id, self.counts)
                    data = await asking.run(*self._choose(left, failed))
                    if data is not None:
                        self._count(asking.last.member, data)
                        return Landed(data)
                    # What they did not give they will not give now.
                    failed = asking.last.member.node_id
                    silent += asking.silent
                    asked += asking.asked
                    left = [one for one in left if one.node_id not in asked]
            return Landed(None, tuple(dict.fromkeys(silent)))

    def _choose(self, left: Sequence[Member], failed: int | None) -> tuple[Lane, Lane | None]:
        lanes = {one.node_id: self._lane(one, for_site=False) for one in left}
        length_bytes = max(lane.chunk_bytes for lane in lanes.values())
        order = sources.ordered(
            [lane.source for lane in lanes.values()], self._me().site, length_bytes, failed=failed
        )
        first, *rest = [lanes[source.member.node_id] for source in order]
        return first, rest[0] if rest else None

    def _count(self, member: Member, data: bytes) -> None:
        self.counts.chunks += 1
        if member.site == self._me().site:
            self.counts.bytes_near += len(data)
        else:
            self.counts.bytes_far += len(data)

    def _standing(self, member: Member) -> Standing:
        return self._standings.setdefault(member.node_id, Standing())

    def _lane(self, member: Member, *, for_site: bool) -> Lane:
        key = member.node_id, for_site
        lane = self._lanes.get(key)
        if lane is None or lane.member.address != member.address:
            # Of a node that moved, the old lane ends by itself: its requests fail.
            lane = self._lanes[key] = Lane(
                member, self._standing(member), self._exchange, self._accept, for_site=for_site
            )
        return lane

    # ---- who has it ----

    async def _look(self, chunk_id: ChunkId, *, near: bool) -> _Found:
        """Ask the other members of this site, or those of all others, who of them holds a chunk."""
        loop = asyncio.get_running_loop()
        asked = self._to_look[near]
        if not asked:
            loop.call_later(GATHER_S, self._begin_to_look, near)
        found: asyncio.Future[_Found] = loop.create_future()
        asked[chunk_id] = found
        if len(asked) >= LOOK_IDS_MAX:
            self._begin_to_look(near)
        return await found

    def _begin_to_look(self, near: bool) -> None:
        asked, self._to_look[near] = self._to_look[near], {}
        if asked:
            task = asyncio.create_task(self._look_for(asked, near=near), name="mcr-look")
            self._looking.add(task)
            task.add_done_callback(self._looking.discard)

    async def _look_for(self, asked: "dict[ChunkId, asyncio.Future[_Found]]", *, near: bool) -> None:
        ids = list(asked)
        holders: dict[ChunkId, list[Member]] = {chunk_id: [] for chunk_id in ids}
        silent: list[str] = []
        lanes = asyncio.Semaphore(LOOKS_AT_ONCE)

        async def ask(member: Member) -> None:
            standing = self._standing(member)
            try:
                async with lanes, asyncio.timeout(LOOK_NEAR_S if near else LOOK_FAR_S):
                    start_s = _now_s()
                    held = await self._exchange.have(member.address, ids)
                    standing.answered_in(_now_s() - start_s)
            except (McrError, TimeoutError):
                standing.failed()
                silent.append(member.address)
                return
            for chunk_id in ids:
                if chunk_id in held:
                    holders[chunk_id].append(member)

        try:
            me = self._me()
            others = [one for one in self._others() if (one.site == me.site) is near]
            await asyncio.gather(*map(ask, others))
        finally:
            for chunk_id, future in asked.items():
                if not future.done():
                    future.set_result(_Found(tuple(holders[chunk_id]), tuple(silent)))

    async def close(self) -> None:
        """End what is under way."""
        await settle([*self._arriving.values(), *self._crossing.values(), *self._looking])
        for lane in self._lanes.values():
            await lane.close()


class _Asking:
    """One chunk asked of one node, and of another one as well when it takes too long. Use once.

    Attributes:
        asked: ids of the nodes that were.
        silent: addresses of those that failed, and may have it all the same.
    """

    def __init__(self, chunk_id: ChunkId, counts: FetchCounts) -> None:
        self._chunk_id = chunk_id
        self._counts = counts
        self._tasks: dict[asyncio.Task[bytes | None], Lane] = {}
        self.asked: list[int] = []
        self.silent: list[str] = []

    async def run(self, first: Lane, second: Lane | None) -> bytes | None:
        """Return the chunk, or None when neither gave it."""
        self.last = first
        try:
            task = self._begin(first)
            if second is not None and await self._is_late(task, first, second):
                self._counts.hedges += 1
                self._begin(second)
            waiting = set(self._tasks)
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for one in done:
                    self.last = self._tasks[one]
                    data = self._result(one)
                    if data is not None:
                        self._counts.hedges_lost += len(self._tasks) > 1 and self.last is first
                        return data
            return None
        finally:
            await settle(self._tasks)

    def _begin(self, lane: Lane) -> "asyncio.Task[bytes | None]":
        task = asyncio.create_task(lane.get(self._chunk_id))
        self._tasks[task] = lane
        self.asked.append(lane.member.node_id)
        return task

    async def _is_late(self, task: "asyncio.Task[bytes | None]", first: Lane, second: Lane) -> bool:
        while True:
            length_bytes = first.chunk_bytes
            after_us = sources.hedge_after_us(first.source, length_bytes)
            await asyncio.wait([task], timeout=after_us / US_PER_S)
            if task.done():
                return False
            if sources.is_worth_a_hedge(
                first.source, first.silent_us, second.source, length_bytes
            ) and sources.may_hedge(self._counts.chunks, self._counts.hedges_lost):
                return True

    def _result(self, task: "asyncio.Task[bytes | None]") -> bytes | None:
        try:
            return task.result()
        except CorruptChunkError:
            # Wrong bytes came: as good as nothing, and that node is distrusted for a while.
            return None
        except McrError:
            self.silent.append(self._tasks[task].member.address)
            return None


def _now_s() -> float:
    return asyncio.get_running_loop().time()
