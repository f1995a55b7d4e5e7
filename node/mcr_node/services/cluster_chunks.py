"""The chunks of a cluster, as one node gives them: its own, and those that it can fetch from another.

A commit is sealed only when enough nodes hold all its chunks, synced. A read that lacks a chunk asks the
other members, verifies what comes, keeps it, and serves it.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace

from mcr.blocking import settle
from mcr.durability import Durability
from mcr.errors import CorruptChunkError, McrError, MissingChunkError, UnavailableError
from mcr.manifest import drain, drain_async, walk_ids
from mcr.model import Chunk, ChunkId
from mcr_node.core.members import Member
from mcr_node.core.placement.ring import added
from mcr_node.ports import ChunkStore
from mcr_node.services.chunks import LocalChunks, Result
from mcr_node.services.copies import CHUNKS_AT_ONCE, Holders, Sealing, usual
from mcr_node.services.forwarding import Forwarding
from mcr_node.services.sealing import Content, content_of

# How long an upload waits to hear that other nodes have what this one lacks.
ASK_S = 2.0
# Manifests that were sealed a moment ago are not looked for again: a commit of the bytes of the version
# before, with other parameters, would ask another node and sync its disk for nothing.
SEALED_MAX = 1024
SEALED_S_MAX = 10.0
# How long whoever looks again may take, while others still believe what was.
SEALING_S_MAX = 2.0


@dataclass(frozen=True, slots=True)
class _Sealed:
    """A manifest that enough nodes held: among which, how widely, believed until when, and its content."""

    others: tuple[int, ...]
    durability: Durability
    until_s: float
    content: Content

    def is_for(self, others: tuple[int, ...], wanted: Durability) -> bool:
        """Say whether this answers for a commit now."""
        return self.others == others and self.durability == wanted


class ClusterChunks(LocalChunks):
    """`LocalChunks` that asks the other members for what it lacks."""

    def __init__(
        self,
        store: ChunkStore,
        executor: ThreadPoolExecutor,
        holders: Holders,
        me: Callable[[], Member],
        others: Callable[[], Sequence[Member]],
        *,
        capacity_bytes: int | None = None,
    ) -> None:
        """Look to `me()` and `others()`, the members besides this node, as they are known at the moment."""
        super().__init__(store, executor, capacity_bytes=capacity_bytes)
        self._holders = holders
        self._me = me
        self._others = others
        self._sealed: dict[ChunkId, _Sealed] = {}
        self.forwarding = Forwarding(holders)

    async def close(self) -> None:
        """See LocalChunks."""
        await self.forwarding.close()

    async def _forward(self, chunks: Sequence[Chunk]) -> None:
        """Send chunks on to those who would hold them if the commit were sealed now."""
        me = self._me()
        others = [one for one in self._others() if self.forwarding.is_trusted(one.address)]

        def work() -> dict[str, list[Chunk]]:
            parts: dict[str, list[Chunk]] = {}
            for chunk in chunks:
                for member in added(chunk.id, others, usual(1 + len(others)), held=[me], near=me.site):
                    parts.setdefault(member.address, []).append(chunk)
            return parts

        for address, part in (await self._run(work)).items():
            await self.forwarding.offer(address, part)

    async def get(self, ids: Sequence[ChunkId]) -> list[bytes]:
        """See ChunkTransport."""
        silent = await self._fetch(ids)
        # A damaged chunk is set aside when it is met, one a try; it is missing then, and a copy heals it.
        for _ in ids:
            try:
                return await super().get(ids)
            except CorruptChunkError:
                self._sealed.clear()
                silent = await self._fetch(ids)
            except MissingChunkError as error:
                raise _told_apart(error, silent) from error
        return await super().get(ids)

    async def get_frame(self, ids: Sequence[ChunkId]) -> tuple[bytes, int, McrError | None]:
        """See LocalChunks."""
        frame, count, error = await super().get_frame(ids)
        if not isinstance(error, (MissingChunkError, CorruptChunkError)):
            return frame, count, error
        self._sealed.clear()
        if count:
            # What is here goes out first; the next frame begins with what is not.
            return frame, count, None
        part = ids[:CHUNKS_AT_ONCE]
        silent = await self._fetch(part)
        frame, count, error = await super().get_frame(part)
        if count:
            # The one after may be damaged as well: it begins the next frame, and is healed then.
            return frame, count, None
        return frame, count, _told_apart(error, silent) if isinstance(error, MissingChunkError) else error

    async def _fetch(self, ids: Sequence[ChunkId]) -> list[str]:
        """Bring chunks here that this node lacks, from whoever has them; what nobody has stays missing.

        Returns:
            Addresses of members that do not answer, and may have what is still missing.
        """
        silent: list[str] = []
        wanted = list(dict.fromkeys(ids))
        lacking = await self.missing(wanted)
        for member in self._others() if lacking else ():
            left = [chunk_id for chunk_id in wanted if chunk_id in lacking]
            try:
                held = await self._having(member, left)
                for start in range(0, len(held), CHUNKS_AT_ONCE):
                    part = held[start : start + CHUNKS_AT_ONCE]
                    found = await self._holders.get(member.address, part)
                    await self.put([Chunk(one, data) for one, data in zip(part, found, strict=True)])
                    lacking.difference_update(part)
            except (CorruptChunkError, MissingChunkError):
                continue
            except McrError:
                # That node cannot be reached, or fails: the next one may have it.
                silent.append(member.address)
                continue
            if not lacking:
                break
        return silent

    async def _having(self, member: Member, ids: Sequence[ChunkId]) -> list[ChunkId]:
        missing = await self._holders.missing(member.address, ids)
        return [chunk_id for chunk_id in ids if chunk_id not in missing]

    async def missing_anywhere(self, ids: Sequence[ChunkId]) -> set[ChunkId]:
        """Return those ids that neither this node holds nor another that answers soon.

        What another one holds need not be sent here: `seal` counts it, or fetches it.
        """
        lacking = await self.missing(ids)
        wanted = [one for one in dict.fromkeys(ids) if one in lacking]

        async def ask(member: Member) -> None:
            with suppress(McrError):
                lacking.intersection_update(await self._holders.missing(member.address, wanted))

        tasks = [asyncio.create_task(ask(member)) for member in (self._others() if wanted else ())]
        try:
            if tasks:
                # Whoever needs longer costs more to wait for than to do without.
                await asyncio.wait(tasks, timeout=ASK_S)
        finally:
            await settle(tasks)
        return lacking

    async def seal(
        self, manifest: ChunkId, *, durability: Durability | None = None, without: int = 0
    ) -> Content:
        """Make sure that enough nodes hold all that a manifest names, synced, and count it.

        Args:
            manifest: its root.
            durability: how widely; None = as usual.
            without: id of a node that is about to leave, so that its copies do not count.

        Raises:
            MissingChunkError: a chunk is nowhere; upload it and repeat.
            DurabilityError: fewer nodes can be reached than there must be copies.
        """
        others = [member for member in self._others() if member.node_id != without]
        among = tuple(sorted([member.node_id for member in others]))
        wanted = durability or usual(1 + len(others))
        now_s = asyncio.get_running_loop().time()
        before = self._sealed.pop(manifest, None)
        if before is not None and before.is_for(among, wanted) and now_s < before.until_s:
            self._sealed[manifest] = before
            return before.content
        if before is not None and before.is_for(among, wanted) and now_s < before.until_s + SEALING_S_MAX:
            # One looks again, and those who come meanwhile rely on what was a moment ago: else all of them
            # would look at once.
            self._sealed[manifest] = replace(before, until_s=now_s + SEALING_S_MAX)
        sealing = Sealing(self, self._holders, self._me(), others, wanted)
        try:
            content = await self._content(manifest)
            await self.forwarding.flush()
            await sealing.run(lambda: self._walk(manifest))
        except BaseException:
            self._sealed.pop(manifest, None)
            raise
        while len(self._sealed) >= SEALED_MAX:
            self._sealed.pop(next(iter(self._sealed)))
        self._sealed[manifest] = _Sealed(among, wanted, now_s + SEALED_S_MAX, content)
        return content

    async def _content(self, manifest: ChunkId) -> Content:
        """Count what a manifest names, and see to it that its nodes are here.

        Raises:
            MissingChunkError: no member that answers has one of them; whoever made them has.
        """
        try:
            return await self._run(lambda: content_of(self._store, manifest))
        except (MissingChunkError, CorruptChunkError):
            # All levels of the tree, each in one go: a client may have met another node before.
            async for _ in drain_async(walk_ids(manifest), self._get_or_missing):
                continue
            return await self._run(lambda: content_of(self._store, manifest))

    async def _get_or_missing(self, ids: Sequence[ChunkId]) -> list[bytes]:
        try:
            return await self.get(ids)
        except UnavailableError as error:
            lacking = sorted(await self.missing(ids))
            raise MissingChunkError((lacking or ids)[0].hex()) from error

    def _walk(self, manifest: ChunkId) -> Iterator[ChunkId]:
        return drain(walk_ids(manifest), lambda ids: [self._store.get(one) for one in ids])

    async def aside(self, work: Callable[[], Result]) -> Result:
        """See `services.copies.Here`."""
        return await self._run(work)

    async def bring(self, ids: Sequence[ChunkId]) -> None:
        """See `services.copies.Here`."""
        await self._fetch(ids)


def _told_apart(error: MissingChunkError, silent: Sequence[str]) -> McrError:
    """Return what a chunk that is not here means: lost, or with nodes that may come back."""
    if not silent:
        return error
    return UnavailableError(", ".join(silent), f"chunk {error.chunk_id} is not on the nodes that answer")
