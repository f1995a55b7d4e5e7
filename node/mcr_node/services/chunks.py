"""The chunks of this node: the store's blocking calls, run beside the event loop."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from mcr import _frames
from mcr._bulk import Forward
from mcr.blocking import run_blocking
from mcr.durability import Durability, check_possible
from mcr.errors import (
    CorruptChunkError,
    FailedError,
    InvalidArgumentError,
    McrError,
    MissingChunkError,
    OutOfSpaceError,
)
from mcr.model import KIB, Buffer, Chunk, ChunkId
from mcr.transfer import Stored, verified
from mcr.v1 import admin_pb2 as pb
from mcr_node.ports import ChunkStore, StorageFailure
from mcr_node.ports_garbage import Promise
from mcr_node.services.promises import Promises
from mcr_node.services.sealing import Content, check_held

Result = TypeVar("Result")
# Read in one call, before its deadline.
VOUCH_IDS_MAX = 64
# A frame with less is not worth forwarding: it is soon sent again, and sealing soon follows.
FORWARD_BYTES_MIN = 256 * KIB


class LocalChunks:
    """`mcr.transfer.ChunkTransport` on a chunk store.

    Chunks come from the same process that hashed them, so they are not hashed again on the way in; bytes that
    cross a border become chunks by `mcr.transfer.verified` only.
    """

    def __init__(
        self,
        store: ChunkStore,
        executor: ThreadPoolExecutor,
        *,
        capacity_bytes: int | None = None,
        promises: Promises | None = None,
    ) -> None:
        """Serve `store`; `promises` keep what somebody counts on, None = nothing is ever collected."""
        self._store = store
        self._promises = promises
        self._executor = executor
        self._capacity_bytes = capacity_bytes

    @property
    def capacity_bytes(self) -> int | None:
        """What the chunk files of this node may take; None = whatever its disk has."""
        return self._capacity_bytes

    @property
    def life(self) -> int:
        """See `ports_garbage.Promise`."""
        return 0 if self._promises is None else self._promises.life

    async def put(self, chunks: Sequence[Chunk]) -> Stored:
        """See ChunkTransport."""
        receipt = await self._run(lambda: self._store.put(chunks))
        return Stored(receipt.chunks_new, receipt.bytes_new, receipt.bytes_stored)

    async def sync(self) -> None:
        """See ChunkTransport."""
        await self._run(self._store.sync)

    async def get(self, ids: Sequence[ChunkId]) -> list[bytes]:
        """See ChunkTransport."""

        def read() -> list[bytes]:
            if len(ids) > 1:
                self._store.expect(ids)
            return [self._store.get(chunk_id) for chunk_id in ids]

        return await self._run(read)

    async def get_into(self, ids: Sequence[ChunkId], places: Sequence[memoryview]) -> list[int]:
        """See ChunkTransport."""

        def read() -> list[int]:
            if len(ids) > 1:
                self._store.expect(ids)
            return [self._store.get_into(*wanted) for wanted in zip(ids, places, strict=True)]

        return await self._run(read)

    async def missing(self, ids: Sequence[ChunkId]) -> set[ChunkId]:
        """See ChunkTransport."""
        return await self._run(lambda: self._store.missing(ids))

    async def promise(self, ids: Sequence[ChunkId]) -> Promise:
        """Say which chunks are missing here, and keep the others until garbage is marked the next time."""
        promises = self._promises
        if promises is None:
            return Promise(await self.missing(ids), 0)
        return await self._run(lambda: promises.promise(ids))

    async def vouch(self, ids: Sequence[ChunkId]) -> Promise:
        """Promise chunks, read them, and sync: whoever asks is about to forget its own copies.

        Raises:
            InvalidArgumentError: they are too many to read before anybody gives up.
        """
        if len(ids) > VOUCH_IDS_MAX:
            raise InvalidArgumentError(
                "ids", f"there are {len(ids)}; at most {VOUCH_IDS_MAX} are vouched for"
            )
        # Before anything else, so that what is right when it was read is still here later.
        promise = await self.promise(ids)

        def unreadable() -> set[ChunkId]:
            found: set[ChunkId] = set()
            for one in ids:
                if one not in promise.missing:
                    try:
                        self._store.get(one)
                    except (MissingChunkError, CorruptChunkError):
                        found.add(one)
            # What was read may have come from a cache, which is no copy.
            return found | self._store.missing(ids)

        lacking = promise.missing | await self._run(unreadable)
        await self.sync()
        return Promise(lacking, promise.gc_round, promise.life)

    async def put_received(self, frame: bytes, *, forward: Forward | None = None) -> Stored:
        """Store the chunks of one frame that came over the network, each verified against its id first.

        Args:
            frame: see `mcr._frames`.
            forward: send them on to other nodes as well, where there are some; None = do not.

        Raises:
            InvalidArgumentError: it is no frame.
            OutOfSpaceError: the disk is full, or what the operator gave this node.
            CorruptChunkError: the bytes of a chunk do not hash to its id; nothing of the frame was stored.
        """
        now_s = asyncio.get_running_loop().time()

        def work() -> tuple[Mapping[str, Sequence[Chunk]], Stored]:
            chunks = self.verify(frame)
            stored = self.store(chunks, len(frame))
            if forward is None or len(frame) < FORWARD_BYTES_MIN:
                return {}, stored
            return self.spread(chunks, forward, now_s), stored

        parts, stored = await self._run(work)
        await self.offer(parts)
        return stored

    def verify(self, frame: Buffer) -> list[Chunk]:
        """Return the chunks of a frame, each verified against its id; blocks. They are views of it.

        Raises:
            InvalidArgumentError, CorruptChunkError: see `put_received`.
        """
        return [
            verified(chunk.id, chunk.data, element_bytes=chunk.element_bytes)
            for chunk in _frames.decode(frame)
        ]

    def store(self, chunks: Sequence[Chunk], length_bytes: int) -> Stored:
        """Store verified chunks of so many bytes, if there is room; blocks. Durable after `sync`.

        Raises:
            OutOfSpaceError: see `put_received`.
            StorageFailure: the disk failed; this process is to end.
        """
        self.check_room(length_bytes)
        receipt = self._store.put(chunks)
        return Stored(receipt.chunks_new, receipt.bytes_new, receipt.bytes_stored)

    async def put_verified(self, chunks: Sequence[Chunk]) -> None:
        """Store chunks that another node gave, as if it had sent them: verified, and within the capacity.

        Raises:
            OutOfSpaceError, CorruptChunkError: see `put_received`.
        """
        for group in _frames.group(chunks):
            frame = await self._run(partial(_frames.encode, group))
            await self.put_received(frame)
        await self.sync()

    def spread(self, chunks: Sequence[Chunk], forward: Forward, now_s: float) -> Mapping[str, list[Chunk]]:
        """Return, by address, which chunks should go to which other nodes: there is none.

        From any thread; `now_s` is the time of the event loop.
        """
        return {}

    async def offer(self, parts: Mapping[str, Sequence[Chunk]]) -> None:
        """Send on what `spread` said; waits while too much waits for a node already. On the event loop."""

    def describe(self, status: pb.GetStoreStatusResponse) -> None:
        """Put what was counted into the status of this node: nothing, where there is no other one."""

    async def close(self) -> None:
        """End what is done beside; the store stays open."""

    def check_room(self, length_bytes: int) -> None:
        """Raise OutOfSpaceError if so many bytes more are beyond what the operator gave this node."""
        capacity_bytes = self.capacity_bytes
        if capacity_bytes is None:
            return
        used_bytes = self._store.stats().bytes_used
        if used_bytes + length_bytes > capacity_bytes:
            reason = f"{used_bytes} bytes of its capacity of {capacity_bytes} are in use"
            raise OutOfSpaceError("the chunks of this node", reason)

    async def get_frame(self, ids: Sequence[ChunkId]) -> tuple[bytes, int, McrError | None]:
        """Return the first of `ids` as one frame, how many they are, and what kept the next one back."""

        def work() -> tuple[bytes, int, McrError | None]:
            chunks: list[Chunk] = []
            length_bytes = 0
            for chunk_id in ids:
                try:
                    data = self._store.get(chunk_id)
                except McrError as error:
                    return _frames.encode(chunks), len(chunks), error
                chunks.append(Chunk(chunk_id, data))
                length_bytes += len(data)
                if length_bytes >= _frames.FRAME_BYTES or len(chunks) == _frames.FRAME_CHUNKS_MAX:
                    break
            return _frames.encode(chunks), len(chunks), None

        return await self._run(work)

    def expect(self, ids: Sequence[ChunkId]) -> None:
        """Let the disk begin to read what `here` is about to be asked for. Blocks, but not for long."""
        self._store.expect(ids)

    def here(self, ids: Sequence[ChunkId]) -> Iterator[bytes | McrError]:
        """Yield chunks as they lie here, verified; why one cannot be had ends it.

        Blocks; not on the event loop. Where a chunk was damaged, tell `met_damage`.
        """
        for chunk_id in ids:
            try:
                yield self._store.get(chunk_id)
            except McrError as error:
                yield error
                return

    def met_damage(self) -> None:
        """Note that a chunk here turned out to be damaged. On the event loop."""

    async def check_held(self, manifest: ChunkId) -> Content:
        """See `services.sealing.check_held`."""
        return await self._run(lambda: check_held(self._store, self._promises, manifest))

    async def missing_anywhere(self, ids: Sequence[ChunkId]) -> set[ChunkId]:
        """Return those ids that no node holds, as far as it is known; there is no other node here."""
        return (await self.promise(ids)).missing

    async def seal(self, manifest: ChunkId, *, durability: Durability | None = None) -> Content:
        """Make sure that all a manifest names is held as widely as it must be, and count it: here, once.

        Args:
            manifest: its root.
            durability: how widely; None = as usual.

        Raises:
            MissingChunkError, CorruptChunkError: see `check_held`.
            DurabilityError: more was asked for than one node can give.
        """
        if durability is not None:
            check_possible(durability, [""])
        return await self.check_held(manifest)

    async def run(self, work: Callable[[], Result]) -> Result:
        """Run blocking work on the store beside the event loop."""
        return await self._run(work)

    async def _run(self, work: Callable[[], Result]) -> Result:
        try:
            return await run_blocking(self._executor, work)
        except StorageFailure as error:
            raise FailedError(
                "the disk failed; end this process, look at the disk, then open the store again", str(error)
            ) from error
