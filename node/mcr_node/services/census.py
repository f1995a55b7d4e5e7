"""How many copies there are of what a version needs: its manifest is walked, and the nodes are asked."""

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Mapping,
    Sequence,
)
from dataclasses import field, replace
from functools import partial
from itertools import islice
from typing import TypeVar

from mcr.errors import CorruptChunkError, MissingChunkError, UnavailableError
from mcr.manifest import Opened, Steps, walk_chunks, walk_files, walk_ids, walk_new_ids
from mcr.model import KIB, ChunkId
from mcr.values import dataclass
from mcr_node.core.members import Member
from mcr_node.ports_garbage import Promise
from mcr_node.services.chunks import VOUCH_IDS_MAX, LocalChunks
from mcr_node.services.copies import IDS_AT_ONCE, Holders
from mcr_node.services.lives import Lives
from mcr_node.services.walking import Kept, in_batches

# What asking about one chunk costs on the network, for the rate: its id, and a share of the messages.
ASK_BYTES = 48
# Chunks known to have their copies, some 100 bytes each: versions of a model share most of them.
KNOWN_MAX = 1 << 18
# Chunks that lack copies, some 300 bytes each; what is beyond is counted, and copied by the run after.
SHORT_MAX = 100_000

# Versions that are walked side by side: each alone would take a few turns of the network for little.
VERSIONS_AT_ONCE = 64
# Nodes of manifests that are read at once, some tens of KiB each.
NODES_AT_ONCE = 64
# What reading one node of a manifest counts as: at the usual rate as long as it takes, part of a millisecond,
# so half the time is left for others. Else ten thousands of small versions would take all of it for a minute.
NODE_COST_BYTES = 32 * KIB
# What reading one copy to prove it counts as, between a block of a large tensor and one of other bytes.
PROVE_COST_BYTES = 256 * KIB
# What passing one version counts as, also where nothing of it is new, for reading and decoding it takes time.
# A pass over a hundred thousand versions should take a tenth of a core for two minutes, not all for ten s.
VERSION_COST_BYTES = 64 * KIB
# Nodes of manifests that are not opened again, some 150 bytes each.
OPENED_MAX = 1 << 17

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Copies:
    """A chunk with fewer copies than there should be.

    Attributes:
        manifest: of a version that needs it.
        holders: ids of the nodes that have it and stay.
        leaving: ids of those that have it and are drained, so that their copies do not count.
    """

    chunk_id: ChunkId
    manifest: ChunkId
    holders: tuple[int, ...]
    leaving: tuple[int, ...] = ()

    @property
    def anywhere(self) -> tuple[int, ...]:
        """Who can give it; nobody = it is lost, as far as anybody who answers can tell."""
        return self.holders + self.leaving


@dataclass(frozen=True, slots=True)
class Counted:
    """What some ids of a manifest came to: those never met before, those that lack copies, and the effort."""

    chunks: int
    short: tuple[Copies, ...]
    cost_bytes: int


@dataclass(slots=True)
class Known:
    """What a run knows of the chunks of one model.

    Attributes:
        enough: those that have their copies, as far as they are kept in mind.
        short: those that lack copies, SHORT_MAX at most.
        more: how many more lack copies; one that several versions need may count for each.
        more_leaving: those of them that have copies on nodes that are drained.
        lost: how many of all these nobody has.
        whole: manifests all of whose chunks have their copies, as far as they are kept in mind.
    """

    enough: dict[ChunkId, None] = field(default_factory=dict)
    whole: dict[ChunkId, None] = field(default_factory=dict)
    short: dict[ChunkId, Copies] = field(default_factory=dict)
    more: int = 0
    more_leaving: int = 0
    lost: int = 0

    def lacks(self, copies: Copies) -> None:
        """Note a chunk that lacks copies."""
        if copies.chunk_id in self.short:
            return
        self.lost += not copies.anywhere
        if len(self.short) < SHORT_MAX:
            self.short[copies.chunk_id] = copies
        else:
            self.more += 1
            self.more_leaving += bool(copies.leaving)

    def has_all_of(self, manifest: ChunkId) -> None:
        """Note a manifest all of whose chunks have their copies; versions that have it too need no walk."""
        self.whole[manifest] = None
        while len(self.whole) > KNOWN_MAX:
            self.whole.pop(next(iter(self.whole)))

    def has(self, chunk_id: ChunkId) -> None:
        """Note that a chunk has its copies; of those that nobody had, none gets them within a run."""
        self.short.pop(chunk_id, None)
        self.enough[chunk_id] = None
        while len(self.enough) > KNOWN_MAX:
            self.enough.pop(next(iter(self.enough)))


# A walk through the manifest with this id.
_Walk = tuple[ChunkId, Steps[ChunkId]]


class _GapError(Exception):
    """A node of a manifest cannot be had, so what is below it cannot be told."""

    def __init__(self, chunk_id: ChunkId) -> None:
        super().__init__(chunk_id.hex())
        self.chunk_id = chunk_id


class Census:
    """Counts copies among some nodes, for one run."""

    def __init__(
        self,
        chunks: LocalChunks,
        holders: Holders,
        myself: Member,
        alive: Sequence[Member],
        wanted: int,
        lives: Lives,
        *,
        proves: bool = False,
    ) -> None:
        """Prepare.

        Args:
            chunks: this node's.
            holders: the others'.
            myself: this node.
            alive: the others whose copies count.
            wanted: so many copies are enough, on nodes that stay.
            lives: of those others.
            proves: a copy of what a drained node has as well counts only once it was read: bytes that went
                bad unnoticed are a copy until somebody looks, and theirs may be the last good one.
        """
        self._chunks = chunks
        self._holders = holders
        self._node_id = myself.node_id
        self._alive = alive
        self._wanted = wanted
        self._lives = lives
        self._proves = proves
        self._has_begun = False
        self._leaving = [member.node_id for member in (myself, *alive) if member.leaving]
        self._sites = {member.node_id: member.site for member in (myself, *alive)}

    async def count_all(
        self, versions: AsyncIterable[Kept], known: Known
    ) -> AsyncGenerator[tuple[int, Counted, tuple[Kept, ...]]]:
        """Count the copies of all that versions of a model need, a little at a time; `known` grows meanwhile.

        Versions go together, as most of them share most of what they need. Only those that need a chunk which
        nobody has are looked at one by one, so that each of them can be named.

        Yields:
            How many more versions are done, what was counted, and which versions may need it: each chunk
            names one of them (`Copies.manifest`).

        Raises:
            McrError: a node stopped answering.
        """
        opened: Opened = set()
        async for batch in in_batches(versions, VERSIONS_AT_ONCE):
            # As of training runs that commit although nothing has changed.
            fresh = {one.manifest: one for one in batch if one.manifest not in known.whole}
            is_whole = True
            lost = False
            try:
                async for counted in self._count_together(list(fresh), opened, known):
                    is_whole = is_whole and not counted.short
                    lost = lost or any(not copies.anywhere for copies in counted.short)
                    yield 0, replace(counted, short=tuple(c for c in counted.short if c.anywhere)), batch
            except _GapError:
                lost = True
            if not is_whole or lost or len(opened) > OPENED_MAX:
                # What hangs on these nodes is to be met again by other versions that need it.
                opened = set()
            if lost:
                for one in batch:
                    async for counted in self._count_one(one.manifest, known):
                        yield 0, counted, (one,)
            elif is_whole:
                for manifest in fresh:
                    known.has_all_of(manifest)
            yield len(batch), Counted(0, (), len(batch) * VERSION_COST_BYTES), batch

    async def _count_together(
        self, manifests: Sequence[ChunkId], opened: Opened, known: Known
    ) -> AsyncIterator[Counted]:
        """Count what some manifests name, but for what stands below nodes that are `opened`."""
        run = self._chunks.run
        walks = [(manifest, walk_new_ids(manifest, opened)) for manifest in manifests]
        needed_by: dict[ChunkId, ChunkId] = {}
        while walks:
            some, wanted = await run(partial(_first, walks, needed_by))
            nodes = await self._read(wanted) if wanted else {}

            try:
                await run(partial(_feed, some, nodes, needed_by))
            except (MissingChunkError, CorruptChunkError) as error:
                raise _GapError(ChunkId(bytes.fromhex(error.chunk_id))) from error
            walks = [each for each in walks if each[1].needs()]
            # All that is there, for a few calls with many ids cost less than many with few.
            while len(needed_by) >= IDS_AT_ONCE or (needed_by and not walks):
                part = {one: needed_by.pop(one) for one in list(islice(needed_by, IDS_AT_ONCE))}
                yield await self._count(part, known)
            yield Counted(0, (), len(wanted) * NODE_COST_BYTES)

    async def _count_one(self, manifest: ChunkId, known: Known) -> AsyncIterator[Counted]:
        """Count what one manifest names. Chunks of `known.short` that nobody had come again."""
        try:
            async for ids in self._walk(walk_ids(manifest)):
                for start in range(0, len(ids), IDS_AT_ONCE):
                    yield await self._count(dict.fromkeys(ids[start : start + IDS_AT_ONCE], manifest), known)
        except _GapError as gap:
            found = Copies(gap.chunk_id, manifest, ())
            known.lacks(found)
            yield Counted(0, (found,), 0)

    async def _count(self, needed_by: Mapping[ChunkId, ChunkId], known: Known) -> Counted:
        """Count some chunks; each comes with the manifest that needs it."""
        lost = [known.short[one] for one in needed_by if one in known.short and not known.short[one].anywhere]
        asked = [one for one in needed_by if one not in known.enough and one not in known.short]
        if not asked:
            return Counted(0, tuple(lost), 0)
        if not self._has_begun:
            # From here on nobody may start again unnoticed.
            await self._sync(self._alive)
            self._has_begun = True
        here, *there = await asyncio.gather(
            self._chunks.missing(asked),
            *(self._holders.missing(member.address, asked) for member in self._alive),
        )
        cost_bytes = len(asked) * ASK_BYTES * max(1, len(self._alive))
        if self._proves:
            cost_bytes += PROVE_COST_BYTES * await self._prove(asked, here, there)
        # What is held may not be durable yet: as is what this node fetched just now to walk the manifest.
        await self._sync(
            [one for one, missing in zip(self._alive, there, strict=True) if len(missing) < len(asked)]
        )
        nodes = (self._node_id, *(member.node_id for member in self._alive))
        found: list[Copies] = []
        for chunk_id in asked:
            having = [
                node_id
                for node_id, missing in zip(nodes, (here, *there), strict=True)
                if chunk_id not in missing
            ]
            holders = tuple(node_id for node_id in having if node_id not in self._leaving)
            if len(holders) >= self._wanted and self._is_spread(holders, having):
                known.has(chunk_id)
            else:
                leaving = tuple(node_id for node_id in having if node_id in self._leaving)
                found.append(Copies(chunk_id, needed_by[chunk_id], holders, leaving))
                known.lacks(found[-1])
        return Counted(len(asked), (*lost, *found), cost_bytes)

    async def _prove(
        self, asked: Sequence[ChunkId], here: set[ChunkId], there: Sequence[set[ChunkId]]
    ) -> int:
        """Have those who stay read what drained nodes hold as well; what is bad they lack from now on.

        Args:
            asked: some chunks.
            here: which of them this node lacks.
            there: which the others lack.

        Returns:
            How many copies were read.
        """
        stays = [(member, lacking) for member, lacking in zip(self._alive, there, strict=True)]
        going = [lacking for member, lacking in stays if member.node_id in self._leaving]
        at_stake = [one for one in asked if any(one not in lacking for lacking in going)]

        async def read(
            lacking: set[ChunkId], vouch: Callable[[Sequence[ChunkId]], Awaitable[Promise]]
        ) -> int:
            held = [one for one in at_stake if one not in lacking]
            for start in range(0, len(held), VOUCH_IDS_MAX):
                lacking |= (await vouch(held[start : start + VOUCH_IDS_MAX])).missing
            return len(held)

        counts = await asyncio.gather(
            read(here, self._chunks.vouch),
            *(
                read(lacking, partial(self._holders.vouch, member.address))
                for member, lacking in stays
                if member.node_id not in self._leaving
            ),
        )
        return sum(counts)

    async def _sync(self, members: Sequence[Member]) -> None:
        """Make durable what this node and others said they hold.

        Raises:
            McrError: one of them stopped answering, or started again since the first time.
        """

        async def sync(member: Member) -> None:
            self._lives.check(member, await self._holders.sync(member.address))

        await asyncio.gather(self._chunks.sync(), *map(sync, members))

    def _is_spread(self, holders: Sequence[int], having: Sequence[int]) -> bool:
        """Say whether those who stay are of as many sites as there were, or can be."""
        if len(holders) == len(having):
            return True
        sites = {self._sites[node_id]: None for node_id in having}
        possible = {site: None for node_id, site in self._sites.items() if node_id not in self._leaving}
        needed = min(len(sites), len(possible), self._wanted)
        return len({self._sites[node_id]: None for node_id in holders}) >= needed

    async def measure(self, manifest: ChunkId, ids: Sequence[ChunkId]) -> dict[ChunkId, tuple[str, int]]:
        """Return, of some chunks of a manifest, a file that they are of, and their length in bytes.

        Nodes of the manifest are of no file (""). What cannot be read, because something above it is lost,
        is left out.
        """
        wanted = dict.fromkeys(ids)
        found: dict[ChunkId, tuple[str, int]] = {}
        try:
            async for rows in self._walk(walk_files(manifest)):
                for row in rows:
                    async for spans in self._walk(walk_chunks(row)):
                        for span in spans:
                            if span.id in wanted:
                                found.setdefault(span.id, (row.entry.path, span.length_bytes))
            for chunk_id in wanted:
                if chunk_id not in found:
                    found[chunk_id] = "", len((await self._chunks.get([chunk_id]))[0])
        except (_GapError, MissingChunkError, CorruptChunkError, UnavailableError):
            return found
        return found

    async def _walk(self, walk: Steps[Item]) -> AsyncIterator[list[Item]]:
        """Yield what a walk finds; decoding runs beside the event loop, and nodes that lack are fetched."""
        run = self._chunks.run
        yield await run(walk.take)
        while ids := await run(walk.needs):
            found = await self._read(ids)

            def feed(found: Mapping[ChunkId, bytes] = found) -> list[Item]:
                walk.feed(found)
                return walk.take()

            try:
                items = await run(feed)
            except (MissingChunkError, CorruptChunkError) as error:
                raise _GapError(ChunkId(bytes.fromhex(error.chunk_id))) from error
            yield items

    async def _read(self, ids: Sequence[ChunkId]) -> dict[ChunkId, bytes]:
        """Return nodes of manifests, from another node where they are not here."""
        try:
            return dict(zip(ids, await self._chunks.get(ids), strict=True))
        except (MissingChunkError, CorruptChunkError) as error:
            raise _GapError(ChunkId(bytes.fromhex(error.chunk_id))) from error
        except UnavailableError as error:
            # With a member that is gone, and may come back after all; or that fell silent just now.
            gap = await self._missing_everywhere(ids)
            if gap is None:
                # Somebody has it, and it did not get here: this node may be full.
                raise
            raise _GapError(gap) from error

    async def _missing_everywhere(self, ids: Sequence[ChunkId]) -> ChunkId | None:
        """Return the first of `ids` that no node has, if any.

        Raises:
            McrError: a node stopped answering, so it cannot be told.
        """
        missing = await self._chunks.missing(ids)
        for member in self._alive:
            missing &= await self._holders.missing(member.address, ids)
        return next((one for one in ids if one in missing), None)


def _first(walks: Sequence[_Walk], needed_by: dict[ChunkId, ChunkId]) -> tuple[list[_Walk], list[ChunkId]]:
    """Return the first walks, and the nodes they want next: not too many, but at least what one wants."""
    some: list[_Walk] = []
    wanted: dict[ChunkId, None] = {}
    for manifest, walk in walks:
        _take([(manifest, walk)], needed_by)
        ids = walk.needs()
        if some and len(wanted) + len(ids) > NODES_AT_ONCE:
            break
        some.append((manifest, walk))
        wanted |= dict.fromkeys(ids)
    return some, list(wanted)


def _feed(walks: Sequence[_Walk], nodes: Mapping[ChunkId, bytes], needed_by: dict[ChunkId, ChunkId]) -> None:
    """Give the walks what they wanted."""
    for _, walk in walks:
        walk.feed(nodes)
    _take(walks, needed_by)


def _take(walks: Sequence[_Walk], needed_by: dict[ChunkId, ChunkId]) -> None:
    """Note what the walks have found, and who needs it."""
    for manifest, walk in walks:
        for one in walk.take():
            needed_by.setdefault(one, manifest)
