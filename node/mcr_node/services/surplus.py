"""Copies that nobody needs: on more nodes than placement says, since one came back or the layout changed.

Garbage collection takes them away in its sweep, by these laws:

    A node forgets a chunk that a version needs only if placement, over the members as they stay now, names
    others for it, as many and in as many sites as chunks are kept in; and only if every one of these vouches
    for it in this very sweep: it has read it, it is right, and it is synced.
    Whoever vouches has promised (`services.promises`): it keeps the chunk until garbage was marked the next
    time, and asks anew before it forgets it then. So two nodes that know different members, and rely on each
    other, both keep theirs: each finds in its promises what the other was told.
    What was promised or brought here since the last marks stays, as with garbage. So a commit, a repair or an
    upload that counts on the copy here, in this round or the one before, finds it.

What a commit waited for with `--durability` beyond the usual is not kept beyond the usual: it says what has
to be there before the version is visible. Repair keeps as many as placement says, and so does this.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from mcr.errors import McrError
from mcr.model import ChunkId
from mcr.values import dataclass
from mcr_node.core.members import Member
from mcr_node.core.placement.ring import goal, holders, is_met_by
from mcr_node.ports import HeldChunk
from mcr_node.ports_garbage import Promise
from mcr_node.ports_log import ReplicatedLog
from mcr_node.services.census import ASK_BYTES
from mcr_node.services.chunks import VOUCH_IDS_MAX, LocalChunks
from mcr_node.services.copies import COPIES


class Vouching(Protocol):
    """The chunk stores of other nodes, by address."""

    async def missing(self, address: str, ids: Sequence[ChunkId]) -> set[ChunkId]:
        """Return what that node lacks; nobody counts on the rest."""

    async def vouch(self, address: str, ids: Sequence[ChunkId]) -> Promise:
        """Let a node read chunks and sync; it keeps those that do not lack until garbage is marked again.

        Raises:
            McrError: it cannot be reached, or is of a release that does not vouch.
        """


@dataclass(frozen=True, slots=True)
class Spare:
    """Chunks for which all of some others vouched, and what asking cost."""

    chunks: tuple[HeldChunk, ...]
    cost_bytes: int


class Surplus:
    """Finds copies on this node that may go."""

    def __init__(self, log: ReplicatedLog, chunks: LocalChunks, others: Vouching) -> None:
        """Look to `log` for the members; `others` vouch."""
        self._log = log
        self._chunks = chunks
        self._others = others

    async def spare(self, needed: Sequence[HeldChunk]) -> Spare:
        """Return those of some chunks, needed by versions and promised to nobody lately, that may go now.

        Args:
            needed: held here, VOUCH_IDS_MAX at most.
        """
        assert len(needed) <= VOUCH_IDS_MAX, "the caller splits"
        placed = await self._chunks.run(lambda: self._placed_elsewhere(needed))
        lengths = {held.chunk_id: held.frame_bytes for held in needed}
        asked = {member.node_id: member for named in placed.values() for member in named}
        cost_bytes = len(placed) * ASK_BYTES * len(asked)
        # First who has them at all, which costs nothing to read.
        for member in asked.values():
            await self._leave_held(placed, member, self._missing)
        for member in asked.values():
            cost_bytes += sum(lengths[one] for one, named in placed.items() if member in named)
            await self._leave_held(placed, member, self._vouched_missing)
        return Spare(tuple(held for held in needed if held.chunk_id in placed), cost_bytes)

    def _placed_elsewhere(self, needed: Sequence[HeldChunk]) -> dict[ChunkId, tuple[Member, ...]]:
        """Return who is to hold each chunk that is not this node's to hold; only where they are enough."""
        myself = self._log.membership.get(self._log.node_id)
        if myself is None or not myself.is_staying:
            # It is drained: what it holds goes where `services.draining` says.
            return {}
        staying = self._log.membership.staying
        wanted = goal(staying, COPIES)
        placed: dict[ChunkId, tuple[Member, ...]] = {}
        for held in needed:
            named = holders(held.chunk_id, staying, wanted)
            if myself not in named and is_met_by(wanted, named):
                placed[held.chunk_id] = named
        return placed

    async def _leave_held(
        self,
        placed: dict[ChunkId, tuple[Member, ...]],
        member: Member,
        ask: Callable[[Member, Sequence[ChunkId]], Awaitable[set[ChunkId]]],
    ) -> None:
        """Leave in `placed` what `member` has, of that which it is to have."""
        ids = [one for one, named in placed.items() if member in named]
        if not ids:
            return
        try:
            lacking = await ask(member, ids)
        except McrError:
            lacking = set(ids)
        for one in ids:
            if one in lacking:
                del placed[one]

    async def _missing(self, member: Member, ids: Sequence[ChunkId]) -> set[ChunkId]:
        return await self._others.missing(member.address, ids)

    async def _vouched_missing(self, member: Member, ids: Sequence[ChunkId]) -> set[ChunkId]:
        return (await self._others.vouch(member.address, ids)).missing
