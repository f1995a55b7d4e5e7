"""The chunks of a cluster, as one node gives them: its own, and those that it can fetch from another.

A commit is sealed only when enough nodes hold all its chunks, synced. A read that lacks a chunk asks the
other members, verifies what comes, keeps it, and serves it.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from mcr.errors import CorruptChunkError, DurabilityError, McrError, MissingChunkError, UnavailableError
from mcr.manifest import drain, walk_ids
from mcr.model import Chunk, ChunkId, digest
from mcr_node.core.members import Member
from mcr_node.ports import ChunkStore
from mcr_node.services.chunks import LocalChunks
from mcr_node.services.sealing import Content

# Copies of each chunk before a version becomes visible; all nodes where there are fewer.
COPIES = 2
IDS_AT_ONCE = 1024
# What is read here and sent there in one step.
CHUNKS_AT_ONCE = 8
# Manifests that were sealed a moment ago are not looked for again: a commit of the bytes of the version
# before, with other parameters, would ask another node and sync its disk for nothing.
SEALED_MAX = 1024
SEALED_S_MAX = 10.0


class Holders(Protocol):
    """The chunk stores of other nodes, by address."""

    async def get(self, address: str, ids: Sequence[ChunkId]) -> list[bytes]:
        """Return verified bytes."""

    async def missing(self, address: str, ids: Sequence[ChunkId]) -> set[ChunkId]:
        """Return what that node lacks."""

    async def put(self, address: str, chunks: Sequence[Chunk]) -> None:
        """Store chunks there; durable after `sync`."""

    async def sync(self, address: str) -> None:
        """Make durable what was put."""


@dataclass(frozen=True, slots=True)
class _Sealed:
    """A manifest that enough nodes held: among which, until when that is believed, and what it holds."""

    others: tuple[int, ...]
    until_s: float
    content: Content


class ClusterChunks(LocalChunks):
    """`LocalChunks` that asks the other members for what it lacks."""

    def __init__(
        self,
        store: ChunkStore,
        executor: ThreadPoolExecutor,
        holders: Holders,
        others: Callable[[], Sequence[Member]],
        *,
        capacity_bytes: int | None = None,
    ) -> None:
        """Look to `others()`, the members besides this node, as they are known at the moment."""
        super().__init__(store, executor, capacity_bytes=capacity_bytes)
        self._holders = holders
        self._others = others
        self._sealed: dict[ChunkId, _Sealed] = {}

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

    async def seal(self, manifest: ChunkId, *, without: int = 0) -> Content:
        """Make sure that enough nodes hold all that a manifest names, and count it.

        Args:
            manifest: its root.
            without: id of a node that is about to leave, so that its copies do not count.

        Raises:
            MissingChunkError: a chunk is nowhere; upload it and repeat.
            DurabilityError: fewer nodes can be reached than there must be copies.
        """
        others = [member for member in self._others() if member.node_id != without]
        among = tuple(sorted([member.node_id for member in others]))
        now_s = asyncio.get_running_loop().time()
        before = self._sealed.pop(manifest, None)
        if before is not None and before.others == among and now_s < before.until_s:
            self._sealed[manifest] = before
            return before.content
        content = await self._seal(manifest, others)
        while len(self._sealed) >= SEALED_MAX:
            self._sealed.pop(next(iter(self._sealed)))
        self._sealed[manifest] = _Sealed(among, now_s + SEALED_S_MAX, content)
        return content

    async def _seal(self, manifest: ChunkId, others: Sequence[Member]) -> Content:
        await self._gather(manifest)
        content = await self.check_held(manifest)
        needed = min(COPIES, len(others) + 1) - 1
        copies = 0
        for member in _in_order(others, manifest):
            if copies >= needed:
                break
            try:
                await self._copy(manifest, member)
            except (MissingChunkError, CorruptChunkError):
                raise
            except McrError:
                # Not reached, or full: another one takes the copy.
                continue
            copies += 1
        if copies < needed:
            raise DurabilityError(f"of {needed + 1} copies", copies + 1)
        return content

    async def _gather(self, manifest: ChunkId) -> None:
        """Bring here what a manifest names and others hold: a client may have met another node before.

        Raises:
            MissingChunkError: a chunk is nowhere.
        """
        before: list[ChunkId] = []
        while ids := await self._missing_of(manifest):
            if ids == before:
                raise MissingChunkError(ids[0].hex())
            await self._fetch(ids)
            before = ids

    async def _missing_of(self, manifest: ChunkId) -> list[ChunkId]:
        """Return what is missing of a manifest here, as far as it can be walked."""
        found: list[ChunkId] = []

        def work() -> None:
            try:
                self._walk(manifest, found.extend)
            except MissingChunkError as error:
                found.append(ChunkId(bytes.fromhex(error.chunk_id)))

        await self._run(work)
        return found

    def _walk(self, manifest: ChunkId, lacking: Callable[[Sequence[ChunkId]], None]) -> None:
        walk = drain(walk_ids(manifest), lambda ids: [self._store.get(one) for one in ids])
        while ids := list(islice(walk, IDS_AT_ONCE)):
            missing = self._store.missing(ids)
            if missing:
                lacking([one for one in ids if one in missing])

    async def _copy(self, manifest: ChunkId, member: Member) -> None:
        walk = drain(walk_ids(manifest), lambda ids: [self._store.get(one) for one in ids])
        while True:
            ids = await self._run(lambda: list(islice(walk, IDS_AT_ONCE)))
            if not ids:
                break
            missing = await self._holders.missing(member.address, ids)
            send = [one for one in dict.fromkeys(ids) if one in missing]
            for start in range(0, len(send), CHUNKS_AT_ONCE):
                part = send[start : start + CHUNKS_AT_ONCE]
                data = await super().get(part)
                await self._holders.put(
                    member.address, [Chunk(one, each) for one, each in zip(part, data, strict=True)]
                )
        await self._holders.sync(member.address)


def _told_apart(error: MissingChunkError, silent: Sequence[str]) -> McrError:
    """Return what a chunk that is not here means: lost, or with nodes that may come back."""
    if not silent:
        return error
    return UnavailableError(", ".join(silent), f"chunk {error.chunk_id} is not on the nodes that answer")


def _in_order(members: Sequence[Member], manifest: ChunkId) -> Sequence[Member]:
    """Return members by rendezvous (Thaler and Ravishankar, 1998): each manifest has an order of its own."""
    return sorted(
        members, key=lambda member: digest(manifest + member.node_id.to_bytes(8, "big")), reverse=True
    )
