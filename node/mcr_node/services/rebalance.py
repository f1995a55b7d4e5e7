"""Rebalance: brings chunks to where placement has them, after the members or their weights changed.

A node that joined fills up so, and one with more room gets more. Nothing is taken away here: what is on more
nodes than it must be goes with the garbage, by the same placement (`services.surplus`). What was sealed since
is left where it is, a copy near those who made it, until the next change or until somebody asks.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping, Sequence

from mcr.errors import CorruptChunkError, FailedError, McrError, MissingChunkError
from mcr.manifest import drain_async, walk_ids
from mcr.model import Chunk, ChunkId, digest
from mcr_node.core.members import Member
from mcr_node.core.placement.ring import goal, holders, ranked
from mcr_node.ports import Clock
from mcr_node.ports_log import ReplicatedLog
from mcr_node.services.census import ASK_BYTES, KNOWN_MAX, VERSION_COST_BYTES, VERSIONS_AT_ONCE
from mcr_node.services.chunks import LocalChunks
from mcr_node.services.copies import CHUNKS_AT_ONCE, COPIES, IDS_AT_ONCE, Holders
from mcr_node.services.lives import Lives
from mcr_node.services.pace import REBALANCE_BYTES_PER_S
from mcr_node.services.presence import NS_PER_S, Presence
from mcr_node.services.walking import Kept, all_models, versions_of
from mcr_node.services.workers import Step

LOOK_S = 2.0
# Members often come several at a time; it begins when no other came for so long.
SETTLE_S = 60.0
AGAIN_S = 60.0

# What decides about placement: ids, sites and capacities of those who stay.
_Table = tuple[tuple[int, str, int], ...]


class Rebalance:
    """`services.workers.Task`: the share of one node, which is that of the models it looks after."""

    name = "rebalance"
    look_s = LOOK_S

    def __init__(
        self,
        log: ReplicatedLog,
        chunks: LocalChunks,
        others: Holders,
        presence: Presence,
        has_too_few: Callable[[], bool],
        clock: Clock,
        *,
        is_new: bool,
        bytes_per_s: float = REBALANCE_BYTES_PER_S,
    ) -> None:
        """Move what `log` names.

        Args:
            log: names all versions, and the members.
            chunks: this node's.
            others: the other nodes'.
            presence: which of them answer.
            has_too_few: whether chunks lack copies, which come first.
            clock: of this node.
            is_new: this node held nothing when it began, so its share of the work was done by nobody.
            bytes_per_s: what it sends at most.
        """
        self._log = log
        self._chunks = chunks
        self._others = others
        self._presence = presence
        self._has_too_few = has_too_few
        self._clock = clock
        self.bytes_per_s = bytes_per_s
        # The table that all was brought in line with. None before the first look: then the one seen there,
        # for what was done before this process began need not be done again.
        self._done: _Table | None = () if is_new else None
        # The one seen last, and since when.
        self._seen: _Table = ()
        self._seen_ns = 0
        self._failed_ns: int | None = None
        self._moved = self._bytes_moved = self._looked_at = 0
        self._refused: dict[int, McrError] = {}
        # Of those who take chunks in this run.
        self._lives = Lives()

    # ---- services.workers.Task ----

    async def is_due(self) -> bool:
        """See Task."""
        table, now_ns = self._table(), self._clock.monotonic_ns()
        if self._done is None or len(table) < 2:
            self._done = table
        if table != self._seen:
            self._seen, self._seen_ns = table, now_ns
        is_waiting = self._failed_ns is not None and now_ns - self._failed_ns < AGAIN_S * NS_PER_S
        if table == self._done or self._log.failure is not None or self._has_too_few() or is_waiting:
            return False
        return now_ns - self._seen_ns >= SETTLE_S * NS_PER_S

    async def run(self, *, asked: bool) -> AsyncGenerator[Step]:
        """See Task."""
        table = self._table()
        members = self._log.membership.staying
        present = await self._presence.look()
        myself = self._log.membership.get(self._log.node_id)
        if myself is None or not myself.is_staying:
            self._done = table
            return
        alive = (myself, *present.alive)
        self._refused = {}
        self._lives = Lives()
        known: dict[ChunkId, None] = {}
        mine = await self._mine([member for member in alive if member.is_staying])
        done, total = 0, sum(mine.values())
        try:
            await self._begin(present.alive)
            for model in mine:
                versions = versions_of(self._log, model)
                async for count, ids in _batches(versions, self._chunks, known):
                    cost_bytes = await self._bring(ids, alive, members) + count * VERSION_COST_BYTES
                    done += count
                    yield Step("versions looked through", done, total, cost_bytes)
        except McrError:
            self._failed_ns = self._clock.monotonic_ns()
            raise
        yield Step("versions looked through", done, total, 0)
        self._failed_ns = None
        self._done = table
        if self._refused:
            reasons = "; ".join(error.message for error in self._refused.values())
            raise FailedError("rebalance", f"some nodes took no more: {reasons}")

    def counts(self) -> Mapping[str, int]:
        """See Task."""
        return {
            "chunks_looked_at": self._looked_at,
            "chunks_moved": self._moved,
            "bytes_moved": self._bytes_moved,
        }

    def findings(self) -> list[str]:
        """See Task."""
        return [error.message for error in self._refused.values()]

    # ---- inside ----

    def _table(self) -> _Table:
        staying = self._log.membership.staying
        return tuple((one.node_id, one.site, one.capacity_bytes) for one in staying)

    async def _mine(self, nodes: Sequence[Member]) -> dict[str, int]:
        models = await all_models(self._log)
        return {
            name: count
            for name, count in models.items()
            if ranked(digest(name.encode()), nodes)[0].node_id == self._log.node_id
        }

    async def _begin(self, others: Sequence[Member]) -> None:
        """See to it that from here on nobody starts again unnoticed."""
        for member in others:
            try:
                self._lives.check(member, await self._others.sync(member.address))
            except McrError as error:
                self._refused[member.node_id] = error

    async def _bring(self, ids: Sequence[ChunkId], alive: Sequence[Member], members: Sequence[Member]) -> int:
        """Bring some chunks to their holders that answer and lack them; return what it cost, in bytes."""
        if not ids:
            return 0
        self._looked_at += len(ids)
        here, *there = await asyncio.gather(
            self._chunks.missing(ids),
            *(self._others.missing(member.address, ids) for member in alive[1:]),
        )
        lacking = {member.node_id: lack for member, lack in zip(alive, (here, *there), strict=True)}
        ways = await self._chunks.run(lambda: _ways(ids, lacking, members))
        known = {member.node_id: member for member in alive}
        cost_bytes = len(ids) * ASK_BYTES * len(alive)
        for (source, target), wanted in ways.items():
            for start in range(0, len(wanted), CHUNKS_AT_ONCE):
                if target not in self._refused:
                    part = wanted[start : start + CHUNKS_AT_ONCE]
                    cost_bytes += await self._carry(part, known[source], known[target])
        return cost_bytes

    async def _carry(self, ids: Sequence[ChunkId], source: Member, target: Member) -> int:
        is_here = source.node_id == self._log.node_id
        try:
            found = await (self._chunks.get(ids) if is_here else self._others.get(source.address, ids))
        except (CorruptChunkError, MissingChunkError):
            # Damaged there: repair sees to it.
            return 0
        chunks = [Chunk(one, data) for one, data in zip(ids, found, strict=True)]
        try:
            if target.node_id == self._log.node_id:
                await self._chunks.put_verified(chunks)
            else:
                await self._others.put(target.address, chunks)
                self._lives.check(target, await self._others.sync(target.address))
        except McrError as error:
            # Full, or gone silent: what it lacks stays where it is.
            self._refused[target.node_id] = error
            return 0
        length_bytes = sum(len(data) for data in found)
        self._moved += len(ids)
        self._bytes_moved += length_bytes
        return length_bytes


async def _batches(
    versions: AsyncIterable[Kept], chunks: LocalChunks, known: dict[ChunkId, None]
) -> AsyncGenerator[tuple[int, list[ChunkId]]]:
    """Yield all ids that versions need and that were not met before, some at a time.

    Versions go together: each alone would take a few turns of the network for little.

    Yields:
        How many more versions are done, and ids.
    """
    batch: list[ChunkId] = []
    done = 0
    async for version in versions:
        # One that many versions have is walked once.
        if version.manifest not in known:
            async for one in drain_async(walk_ids(version.manifest), chunks.get):
                if one in known:
                    continue
                known[one] = None
                if len(known) > KNOWN_MAX:
                    known.pop(next(iter(known)))
                batch.append(one)
                if len(batch) == IDS_AT_ONCE:
                    yield done, batch
                    batch, done = [], 0
        done += 1
        if done == VERSIONS_AT_ONCE:
            yield done, batch
            batch, done = [], 0
    yield done, batch


def _ways(
    ids: Sequence[ChunkId], lacking: Mapping[int, set[ChunkId]], members: Sequence[Member]
) -> dict[tuple[int, int], list[ChunkId]]:
    """Return what goes from whom to whom."""
    wanted = goal(members, COPIES)
    ways: dict[tuple[int, int], list[ChunkId]] = {}
    for one in ids:
        having = [node_id for node_id, lack in lacking.items() if one not in lack]
        for member in holders(one, members, wanted):
            if having and one in lacking.get(member.node_id, ()):
                ways.setdefault((having[0], member.node_id), []).append(one)
    return ways
