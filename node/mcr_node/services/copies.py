"""Sealing: the chunks of one manifest, brought to as many nodes as asked for before its version is visible.

What is held is asked of all members that answer, so nothing is sent that is where it must be already; what is
not is sent to the members that `core.placement.ring` names. Nobody waits for a member that does not answer:
another one takes its part, or there are too few and the commit is refused.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, Protocol, TypeVar

from mcr.blocking import settle
from mcr.durability import Durability, check_possible
from mcr.errors import CorruptChunkError, DurabilityError, McrError, MissingChunkError, UnavailableError
from mcr.model import Chunk, ChunkId
from mcr_node.core.members import Member
from mcr_node.core.placement.ring import added, is_met_by
from mcr_node.ports_garbage import Promise
from mcr_node.services.lives import Lives

Result = TypeVar("Result")
# Copies of each chunk before a version becomes visible; all nodes where there are fewer.
COPIES = 2
IDS_AT_ONCE = 1024
# What is read here and sent there in one step.
CHUNKS_AT_ONCE = 8
# How many of these are on their way to one member: the second while the first is answered.
PARTS_IN_FLIGHT = 2
# Members that are asked, or sent to, at a time: a step of the greatest chunks takes 96 MiB each.
MEMBERS_AT_ONCE = 4
# Before anybody promised anything: no round comes so far.
ROUND_MAX = 2**63 - 1


class Holders(Protocol):
    """The chunk stores of other nodes, by address; each call takes a bounded time."""

    async def wait_reachable(self, address: str) -> None:
        """Return once a node answers, also one that did not a moment ago and is passed over meanwhile."""

    async def get(self, address: str, ids: Sequence[ChunkId]) -> list[bytes]:
        """Return verified bytes."""

    async def missing(self, address: str, ids: Sequence[ChunkId]) -> set[ChunkId]:
        """Return what that node lacks; nobody counts on the rest."""

    async def promise(self, address: str, ids: Sequence[ChunkId]) -> Promise:
        """Return what that node lacks; it keeps the rest until garbage is marked the next time."""

    async def vouch(self, address: str, ids: Sequence[ChunkId]) -> Promise:
        """Let a node read chunks and sync, and promise those that do not lack; VOUCH_IDS_MAX at most.

        Raises:
            McrError: it cannot be reached, or is of a release that does not vouch.
        """

    async def put(self, address: str, chunks: Sequence[Chunk]) -> None:
        """Store chunks there; durable after `sync`."""

    async def sync(self, address: str) -> int:
        """Make durable what was put; return the life of the process that did, as `promise` names it."""


class Here(Protocol):
    """The chunks of this node."""

    async def missing(self, ids: Sequence[ChunkId]) -> set[ChunkId]:
        """Return those that are not held here; nobody counts on the rest."""

    async def promise(self, ids: Sequence[ChunkId]) -> Promise:
        """Return those that are not held here; the rest is kept until garbage is marked the next time."""

    async def get(self, ids: Sequence[ChunkId]) -> list[bytes]:
        """Return verified bytes, from another node where this one's are damaged."""

    async def sync(self) -> None:
        """Make durable what was put here."""

    async def bring(self, ids: Sequence[ChunkId]) -> None:
        """Fetch what is not here from whoever has it; what nobody has stays missing."""

    async def aside(self, work: Callable[[], Result]) -> Result:
        """Do what reads the store, or computes for long, beside the event loop."""


def _take(ids: Iterator[ChunkId]) -> list[ChunkId]:
    return list(islice(ids, IDS_AT_ONCE))


def usual(count: int) -> Durability:
    """Return how widely a cluster of `count` nodes holds what nobody asked otherwise for."""
    return Durability(min(COPIES, count))


class Sealing:
    """The sealing of one manifest. Use once."""

    def __init__(
        self, here: Here, holders: Holders, me: Member, others: Sequence[Member], durability: Durability
    ) -> None:
        """Prepare.

        Args:
            here: this node's chunks.
            holders: the others'.
            me: this node. Its own copies do not count while it is leaving.
            others: the members whose copies count beside this node's.
            durability: what to reach.

        Raises:
            DurabilityError: there are too few nodes or sites, whether they answer or not.
        """
        self._counts = others if me.leaving else (me, *others)
        check_possible(durability, [one.site for one in self._counts])
        self._here = here
        self._holders = holders
        self._me = me
        self._others = others
        self._durability = durability
        self._failed: dict[int, McrError] = {}
        self._counted: dict[int, Member] = {}
        self._lives = Lives()
        self._lanes = asyncio.Semaphore(MEMBERS_AT_ONCE)
        self._asked_again = False
        self._is_doubtful = False
        # Of garbage collection, in which all that was counted on is kept, once `run` returned.
        self.gc_round = ROUND_MAX

    async def run(self, walk: Callable[[], Iterator[ChunkId]]) -> None:
        """Bring all to where it must be; held and synced there when this returns.

        Args:
            walk: begins a walk through all ids of the manifest.

        Raises:
            MissingChunkError, CorruptChunkError: no node that answers has a chunk; upload it and repeat.
            DurabilityError: too few members answer, or have room.
        """
        while True:
            self._counted.clear()
            self._lives = Lives()
            self._is_doubtful = False
            ids = walk()
            while batch := await self._here.aside(partial(_take, ids)):
                await self._place(list(dict.fromkeys(batch)))
            await self._sync()
            # A member failed after its copies were counted: all is looked at again without it; or with it if
            # it is back, for what it had not synced may be lost. This ends, for each time there is one less,
            # and they are let back once.
            if not self._is_doubtful and not self._counted.keys() & self._failed.keys():
                return

    def _live(self) -> list[Member]:
        return [one for one in self._others if one.node_id not in self._failed]

    async def _place(self, ids: Sequence[ChunkId]) -> None:
        while True:
            failed_before = len(self._failed)
            held = await self._held(ids)
            try:
                sends = await self._plan(ids, held)
            except DurabilityError:
                if not await self._find_more():
                    raise
                continue
            takers = [member for member in self._live() if member.node_id in sends]
            await self._each(takers, partial(self._send, sends))
            if len(self._failed) == failed_before:
                return

    async def _find_more(self) -> bool:
        """Ask those who failed once more, for longer than others need; say whether one answers."""
        if self._asked_again:
            return False
        self._asked_again = True
        failed = [one for one in self._others if one.node_id in self._failed]
        before, self._failed = self._failed, {}
        await self._each(failed, lambda member: self._holders.wait_reachable(member.address))
        self._is_doubtful = len(self._failed) < len(before)
        # All is looked at again anyway, and those who are back may have started again.
        self._lives = Lives()
        return self._is_doubtful

    async def _held(self, ids: Sequence[ChunkId]) -> dict[int, set[ChunkId]]:
        """Return which of some chunks each member lacks, of those that answer and of this node."""
        promised = {self._me.node_id: await self._here.promise(ids)}

        async def ask(member: Member) -> None:
            promise = await self._holders.promise(member.address, ids)
            self._lives.check(member, promise.life)
            promised[member.node_id] = promise

        await self._each(self._live(), ask)
        self._pass_over_late(promised)
        # What one of them promised in an earlier round than the others it may forget by now: whoever commits
        # in that round is refused, and looks again. What is sent later is kept in no earlier round.
        self.gc_round = min([self.gc_round, *(promise.gc_round for promise in promised.values())])
        return {node_id: promise.missing for node_id, promise in promised.items()}

    def _pass_over_late(self, promised: dict[int, Promise]) -> None:
        """Count on nobody who is behind in the log where others are enough.

        A member that has just joined, or was away, may take minutes to hear of the last mark. Counted on, it
        would let every commit be refused until it has.
        """
        present_round = promised[self._me.node_id].gc_round
        late = [one for one in self._live() if promised[one.node_id].gc_round < present_round]
        staying = [member for member in (self._me, *self._live()) if member not in late]
        if late and is_met_by(self._durability, self._counted_among(staying)):
            for member in late:
                self._failed[member.node_id] = UnavailableError(member.address, "it is behind in the log")
                del promised[member.node_id]

    async def _plan(
        self, ids: Sequence[ChunkId], lacking: dict[int, set[ChunkId]]
    ) -> dict[int, list[ChunkId]]:
        """Return what to send to whom, and note who is counted on."""
        asked = [self._me, *self._live()]
        holding = {one: [member for member in asked if one not in lacking[member.node_id]] for one in ids}
        await self._bring(holding)
        candidates = self._counted_among(asked)
        return await self._here.aside(lambda: self._choose(holding, candidates))

    def _counted_among(self, members: Sequence[Member]) -> list[Member]:
        return [member for member in members if not member.leaving]

    def _choose(
        self, holding: Mapping[ChunkId, Sequence[Member]], candidates: Sequence[Member]
    ) -> dict[int, list[ChunkId]]:
        sends: dict[int, list[ChunkId]] = {}
        for one, having in holding.items():
            held = self._counted_among(having)
            # More than must be, perhaps; but a disk that has nothing to sync costs less than to choose.
            self._counted |= {member.node_id: member for member in held}
            if is_met_by(self._durability, held):
                continue
            more = added(one, candidates, self._durability, held=held, near=self._me.site)
            if not is_met_by(self._durability, [*held, *more]):
                raise self._too_few(candidates)
            self._counted |= {member.node_id: member for member in more}
            for member in more:
                sends.setdefault(member.node_id, []).append(one)
        return sends

    async def _bring(self, holding: dict[ChunkId, list[Member]]) -> None:
        """Fetch what must be sent on, and what nobody seems to have: somebody may, after all."""
        wanted = [
            one
            for one, held in holding.items()
            if self._me not in held and not is_met_by(self._durability, self._counted_among(held))
        ]
        if not wanted:
            return
        await self._here.bring(wanted)
        lost = await self._here.missing(wanted)
        for one in wanted:
            if one in lost:
                raise MissingChunkError(one.hex())
            holding[one].insert(0, self._me)

    async def _send(self, sends: Mapping[int, Sequence[ChunkId]], member: Member) -> None:
        ids = sends[member.node_id]
        parts = [ids[start : start + CHUNKS_AT_ONCE] for start in range(0, len(ids), CHUNKS_AT_ONCE)]
        sending: list[asyncio.Task[None]] = []
        try:
            for part in parts:
                try:
                    found = await self._here.get(part)
                except McrError as error:
                    # What was here a moment ago is damaged, with no other copy: not the fault of the member.
                    raise MissingChunkError(part[0].hex()) from error
                chunks = [Chunk(one, data) for one, data in zip(part, found, strict=True)]
                if len(sending) == PARTS_IN_FLIGHT:
                    await sending.pop(0)
                # The next one is read while it is on its way: over a long line that takes most of the time.
                sending.append(asyncio.create_task(self._holders.put(member.address, chunks)))
            for task in sending:
                await task
        finally:
            await settle(sending)

    async def _sync(self) -> None:
        own = asyncio.create_task(self._here.sync())
        try:
            others = [one for one in self._others if one.node_id in self._counted]
            await self._each(others, self._sync_at)
            await own
        finally:
            await settle([own])

    async def _sync_at(self, member: Member) -> None:
        self._lives.check(member, await self._holders.sync(member.address))

    async def _each(
        self, members: Sequence[Member], work: Callable[[Member], Coroutine[Any, Any, None]]
    ) -> None:
        """Do something with some members side by side; those with whom it fails are counted on no more."""

        async def once(member: Member) -> None:
            try:
                async with self._lanes:
                    await work(member)
            except (MissingChunkError, CorruptChunkError):
                raise
            except McrError as error:
                # Not reached, or full: another one takes its part.
                self._failed[member.node_id] = error

        tasks = [asyncio.create_task(once(member)) for member in members]
        try:
            for task in tasks:
                await task
        finally:
            await settle(tasks)

    def _too_few(self, candidates: Sequence[Member]) -> DurabilityError:
        reasons = [
            f"{one.name}{f' in site {one.site}' if one.site else ''}: {self._failed[one.node_id].message}"
            for one in self._others
            if one.node_id in self._failed
        ]
        return DurabilityError(
            str(self._durability),
            len(candidates),
            "; ".join(reasons),
            "what was uploaded stays: repeat the commit when these nodes are back or have room, or ask for "
            "less with --durability",
        )
