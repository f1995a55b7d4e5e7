"""The chunks of a cluster, as one node gives them: its own, and those that it can fetch from another.

A commit is sealed only when enough nodes hold all its chunks, synced. A read that lacks a chunk asks the
other members, verifies what comes, keeps it, and serves it.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Protocol

from mcr import _frames
from mcr._bulk import Forward
from mcr.blocking import settle
from mcr.durability import Durability
from mcr.errors import CorruptChunkError, McrError, MissingChunkError, OutOfSpaceError, UnavailableError
from mcr.manifest import drain, drain_async, walk_ids
from mcr.model import Chunk, ChunkId
from mcr.transfer import put_in_places, verified
from mcr.v1 import admin_pb2 as pb
from mcr.values import dataclass
from mcr_node.core.members import Member
from mcr_node.core.placement.ring import added
from mcr_node.core.placement.ring import holders as placed
from mcr_node.ports import ChunkStore
from mcr_node.ports_cache import ChunkCache
from mcr_node.services.chunks import LocalChunks, Result
from mcr_node.services.copies import Holders, Sealing, usual
from mcr_node.services.forwarding import Forwarding
from mcr_node.services.lanes import SIGN, SIGN_S, Exchange
from mcr_node.services.promises import Promises
from mcr_node.services.read_through import Landed, ReadThrough
from mcr_node.services.sealing import Content, content_of

# What is fetched before a reader of many chunks asks for it: some of it is always on its way.
AHEAD_CHUNKS = 16
# How long an upload waits to hear that other nodes have what this one lacks.
ASK_S = 2.0
# Manifests that were sealed a moment ago are not looked for again: a commit of the bytes of the version
# before, with other parameters, would ask another node and sync its disk for nothing.
SEALED_MAX = 1024
SEALED_S_MAX = 10.0
# How long whoever looks again may take, while others still believe what was.
SEALING_S_MAX = 2.0


class Peers(Holders, Exchange, Protocol):
    """All that is asked of the other nodes' chunks."""


@dataclass(frozen=True, slots=True)
class _Sealed:
    """A manifest that enough nodes held: among which, how widely, believed until when, and its content."""

    others: tuple[int, ...]
    durability: Durability
    until_s: float
    content: Content

    def is_for(self, others: tuple[int, ...], wanted: Durability, gc_round: int) -> bool:
        """Say whether this answers for a commit now."""
        same = self.others == others and self.durability == wanted
        return same and self.content.gc_round == gc_round


class ClusterChunks(LocalChunks):
    """`LocalChunks` that asks the other members for what it lacks."""

    def __init__(
        self,
        store: ChunkStore,
        executor: ThreadPoolExecutor,
        holders: Peers,
        me: Callable[[], Member],
        others: Callable[[], Sequence[Member]],
        *,
        capacity_bytes: int | None = None,
        cache: ChunkCache | None = None,
        lacks: Callable[[ChunkId], bool] = lambda _: False,
        promises: Promises | None = None,
    ) -> None:
        """Look to `me()` and `others()`, the members besides this node, as they are known at the moment.

        Args:
            store: of this node; it also finds what is in `cache`.
            executor: for what blocks.
            holders: the others' chunks.
            me: this node.
            others: the members besides.
            capacity_bytes: what the store may take.
            cache: for what was fetched and need not be here; None = the store takes it.
            lacks: says whether the store had a chunk and lost it, so that a copy heals it.
            promises: see LocalChunks.
        """
        super().__init__(store, executor, capacity_bytes=capacity_bytes, promises=promises)
        self._cache = cache
        self._lacks = lacks
        self.reading = ReadThrough(holders, self._accept, self._read, me, others)
        self._holders = holders
        self._me = me
        self._others = others
        self._sealed: dict[ChunkId, _Sealed] = {}
        self.forwarding = Forwarding(holders)

    @property
    def capacity_bytes(self) -> int | None:
        """See LocalChunks; the less of what the node was told at its start and by the layout."""
        me = self._me()
        told = [me.capacity_bytes] if me.arranged and me.capacity_bytes else []
        return min([*told, *([] if self._capacity_bytes is None else [self._capacity_bytes])], default=None)

    async def close(self) -> None:
        """See LocalChunks."""
        await self.forwarding.close()
        await self.reading.close()

    def describe(self, status: pb.GetStoreStatusResponse) -> None:
        """See LocalChunks."""
        counts = self.reading.counts
        status.bytes_fetched_near, status.bytes_fetched_far = counts.bytes_near, counts.bytes_far
        status.bytes_given, status.chunks_hedged = counts.bytes_given, counts.hedges
        if self._cache is not None:
            cached = self._cache.stats()
            status.cache_bytes_used, status.cache_bytes_max = cached.bytes_used, cached.bytes_max

    def spread(self, chunks: Sequence[Chunk], forward: Forward, now_s: float) -> Mapping[str, list[Chunk]]:
        """See LocalChunks: those would hold them if the commit were sealed now."""
        me = self._me()
        others = [
            one
            for one in self._others()
            if not one.leaving and self.forwarding.is_trusted(one.address, now_s)
        ]
        held = [] if me.leaving else [me]
        wanted = forward.durability or usual(max(1, len(held) + len(others)))
        parts: dict[str, list[Chunk]] = {}
        for chunk in chunks:
            for member in added(chunk.id, others, wanted, held=held, near=me.site):
                parts.setdefault(member.address, []).append(chunk)
        return parts

    async def offer(self, parts: Mapping[str, Sequence[Chunk]]) -> None:
        """See LocalChunks."""
        for address, part in parts.items():
            await self.forwarding.offer(address, part)

    async def get(self, ids: Sequence[ChunkId]) -> list[bytes]:
        """See ChunkTransport."""
        found = await self._read(ids)
        lacking = [chunk_id for chunk_id in dict.fromkeys(ids) if chunk_id not in found]
        self.reading.begin(lacking)
        for chunk_id in lacking:
            found[chunk_id] = self._had(chunk_id, await self.reading.fetch(chunk_id))
        return [found[chunk_id] for chunk_id in ids]

    async def get_into(self, ids: Sequence[ChunkId], places: Sequence[memoryview]) -> list[int]:
        """See ChunkTransport."""
        found = await self.get(ids)
        return await self._run(partial(put_in_places, found, places))

    async def _read(self, ids: Sequence[ChunkId]) -> dict[ChunkId, bytes]:
        """Return what is here of some chunks; what is damaged is set aside, and not here any more."""

        def work() -> tuple[dict[ChunkId, bytes], bool]:
            found: dict[ChunkId, bytes] = {}
            is_damaged = False
            if len(ids) > 1:
                self._store.expect(ids)
            for chunk_id in ids:
                try:
                    found[chunk_id] = self._store.get(chunk_id)
                except MissingChunkError:
                    continue
                except CorruptChunkError:
                    is_damaged = True
            return found, is_damaged

        found, is_damaged = await self._run(work)
        if is_damaged:
            self.met_damage()
        return found

    def met_damage(self) -> None:
        """See LocalChunks: what was counted as a copy is none."""
        self._sealed.clear()

    @staticmethod
    def _had(chunk_id: ChunkId, landed: Landed) -> bytes:
        """Return the bytes of a chunk that was fetched.

        Raises:
            MissingChunkError: it is lost, as far as all members tell.
            UnavailableError: it is with nodes that may come back.
        """
        if landed.data is not None:
            return landed.data
        error = MissingChunkError(chunk_id.hex())
        if not landed.silent:
            raise error
        raise UnavailableError(
            ", ".join(landed.silent), f"chunk {error.chunk_id} is not on the nodes that answer"
        ) from error

    async def get_frame(self, ids: Sequence[ChunkId]) -> tuple[bytes, int, McrError | None]:
        """See LocalChunks."""
        error: McrError | None = None
        if not self.reading.is_coming(ids[0]):
            frame, count, error = await super().get_frame(ids)
            if not isinstance(error, (MissingChunkError, CorruptChunkError)):
                return frame, count, error
            if isinstance(error, CorruptChunkError):
                self.met_damage()
            # What is not here may come meanwhile: it begins the next frame.
            await self._look_ahead(ids[count:])
            if count:
                return frame, count, None
        else:
            await self._look_ahead(ids)
        return await self._arrived(ids)

    async def _look_ahead(self, ids: Sequence[ChunkId]) -> None:
        ahead = [one for one in ids[:AHEAD_CHUNKS] if not self.reading.is_coming(one)]
        held = await self.held(ahead) if ahead else set()
        self.reading.begin([one for one in ahead if one not in held])

    async def _arrived(self, ids: Sequence[ChunkId]) -> tuple[bytes, int, McrError | None]:
        """Return a frame that begins with a chunk which is on its way, and those after it that have come."""
        chunks: list[Chunk] = []
        length_bytes = 0
        for chunk_id in ids:
            data = self.reading.take(chunk_id)
            if data is None and not chunks:
                try:
                    data = self._had(chunk_id, await self.reading.fetch(chunk_id))
                except McrError as error:
                    return b"", 0, error
            if data is None:
                break
            chunks.append(Chunk(chunk_id, data))
            length_bytes += len(data)
            if length_bytes >= _frames.FRAME_BYTES or len(chunks) == _frames.FRAME_CHUNKS_MAX:
                break
        return await self._run(lambda: _frames.encode(chunks)), len(chunks), None

    async def _accept(self, frame: bytes, wanted: Mapping[ChunkId, object]) -> dict[ChunkId, bytes]:
        """Take what another node sent: verify it, and keep it."""

        def work() -> dict[ChunkId, bytes]:
            chunks: list[Chunk] = []
            for received in _frames.decode(frame):
                if received.id not in wanted:
                    raise CorruptChunkError(received.id.hex(), "a node sent what it was not asked for")
                chunks.append(verified(received.id, bytes(received.data)))
            self._keep(chunks)
            return {chunk.id: bytes(chunk.data) for chunk in chunks}

        return await self._run(work)

    def _keep(self, chunks: Sequence[Chunk]) -> None:
        """Put chunks where they belong: in the store what is to be here, or was; the rest in the cache."""
        mine = [chunk for chunk in chunks if self._cache is None or self._is_mine(chunk.id)]
        heals = any(self._lacks(chunk.id) for chunk in mine)
        with suppress(OutOfSpaceError):
            # A reader gets its bytes from a full node too.
            self._store.put(mine)
            if heals:
                # The copy that was set aside counted; without power nobody would know that this one lacks.
                self._store.sync()
        if self._cache is not None and len(mine) < len(chunks):
            taken = {chunk.id for chunk in mine}
            self._cache.put([chunk for chunk in chunks if chunk.id not in taken])

    def _is_mine(self, chunk_id: ChunkId) -> bool:
        if self._lacks(chunk_id):
            return True
        me, others = self._me(), self._others()
        wanted = placed(chunk_id, [me, *others], usual(1 + len(others)))
        return any(member.node_id == me.node_id for member in wanted)

    # ---- for the other nodes ----

    async def held(self, ids: Sequence[ChunkId]) -> set[ChunkId]:
        """Return those that this node could give now; not all of them are durable copies."""

        def work() -> set[ChunkId]:
            missing = self._store.missing(ids)
            held = {one for one in ids if one not in missing}
            return held | self._cache.held(list(missing)) if self._cache is not None else held

        return await self._run(work)

    async def give(self, ids: Sequence[ChunkId], *, for_site: bool) -> AsyncGenerator[bytes]:
        """Yield frames with those of some chunks that are to be had, and signs of life in between.

        Args:
            ids: what another node asks for.
            for_site: fetch what is not here, from who holds it.
        """
        wanted = list(dict.fromkeys(ids))
        held = await self.held(wanted)
        here = [one for one in wanted if one in held]
        lacking = deque(one for one in wanted if one not in held)
        while here:
            frame, count, error = await super().get_frame(here)
            if count:
                self.reading.counts.bytes_given += len(frame)
                yield frame
            here = here[count:]
            if error is not None:
                # Damaged, or dropped since it was looked for.
                lacking.append(here.pop(0))
        if not for_site:
            return
        async for frame in self._give_crossing(lacking):
            self.reading.counts.bytes_given += len(frame)
            yield frame

    async def _give_crossing(self, lacking: deque[ChunkId]) -> AsyncGenerator[bytes]:
        running: dict[asyncio.Task[Landed], ChunkId] = {}
        try:
            while lacking or running:
                while lacking and len(running) < AHEAD_CHUNKS:
                    chunk_id = lacking.popleft()
                    running[asyncio.create_task(self.reading.cross(chunk_id))] = chunk_id
                done, _ = await asyncio.wait(running, timeout=SIGN_S, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    yield SIGN
                chunks: list[Chunk] = []
                for task in done:
                    chunk_id, data = running.pop(task), task.result().data
                    if data is not None:
                        chunks.append(Chunk(chunk_id, data))
                for group in _frames.group(chunks):
                    yield await self._run(partial(_frames.encode, group))
        finally:
            await settle(running)

    async def missing_anywhere(self, ids: Sequence[ChunkId]) -> set[ChunkId]:
        """Return those ids that neither this node holds nor another that answers soon.

        What another one holds need not be sent here: `seal` counts it, or fetches it.
        """
        lacking = (await self.promise(ids)).missing
        wanted = [one for one in dict.fromkeys(ids) if one in lacking]

        async def ask(member: Member) -> None:
            with suppress(McrError):
                promise = await self._holders.promise(member.address, wanted)
                lacking.intersection_update(promise.missing)

        tasks = [asyncio.create_task(ask(member)) for member in (self._others() if wanted else ())]
        try:
            if tasks:
                # Whoever needs longer costs more to wait for than to do without.
                await asyncio.wait(tasks, timeout=ASK_S)
        finally:
            await settle(tasks)
        return lacking

    async def seal(self, manifest: ChunkId, *, durability: Durability | None = None) -> Content:
        """Make sure that enough nodes hold all that a manifest names, synced, and count it.

        Args:
            manifest: its root.
            durability: how widely; None = as usual.

        Raises:
            MissingChunkError: a chunk is nowhere; upload it and repeat.
            DurabilityError: fewer nodes can be reached than there must be copies.
        """
        me = self._me()
        others = [member for member in self._others() if not member.leaving]
        among = tuple(sorted([member.node_id for member in others]))
        wanted = durability or usual(max(1, len(others) + (not me.leaving)))
        now_s = asyncio.get_running_loop().time()
        before = self._sealed.pop(manifest, None)
        if before is not None and not before.is_for(among, wanted, self._round()):
            before = None
        if before is not None and now_s < before.until_s:
            self._sealed[manifest] = before
            return before.content
        if before is not None and now_s < before.until_s + SEALING_S_MAX:
            # One looks again, and those who come meanwhile rely on what was a moment ago: else all of them
            # would look at once.
            self._sealed[manifest] = replace(before, until_s=now_s + SEALING_S_MAX)
        sealing = Sealing(self, self._holders, me, others, wanted)
        try:
            content = await self._content(manifest)
            await self.forwarding.flush()
            await sealing.run(lambda: self._walk(manifest))
            content = replace(content, gc_round=sealing.gc_round)
        except BaseException:
            self._sealed.pop(manifest, None)
            raise
        while len(self._sealed) >= SEALED_MAX:
            self._sealed.pop(next(iter(self._sealed)))
        self._sealed[manifest] = _Sealed(among, wanted, now_s + SEALED_S_MAX, content)
        return content

    def _round(self) -> int:
        return 0 if self._promises is None else self._promises.present_round

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
        lacking = (await self.promise(ids)).missing
        wanted = [one for one in dict.fromkeys(ids) if one in lacking]
        for start in range(0, len(wanted), AHEAD_CHUNKS):
            part = wanted[start : start + AHEAD_CHUNKS]
            found = await self._read(part)
            self.reading.begin([one for one in part if one not in found])
            for one in part:
                if one not in found and (data := (await self.reading.fetch(one)).data) is not None:
                    found[one] = data
            # In the store, since it is to be a copy that counts.
            await self.put([Chunk(one, data) for one, data in found.items()])
