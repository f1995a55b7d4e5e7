"""Bulk bytes to and from a node: two bounded streams, verified on arrival, watched for progress."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from copy import copy
from functools import partial

import grpc
import grpc.aio

from mcr import _frames
from mcr._bulk import BulkError, Forward
from mcr._remote.bulk import BULK_BYTES_MIN, PATIENCE_S, PUTS_MAX, BulkLines
from mcr._remote.calls import CALL_S, LONG_CALL_S, Calls
from mcr._remote.elsewhere import Elsewhere
from mcr._remote.nodes import Way
from mcr._remote.spreading import Spreading
from mcr._remote.status import TransientError, raise_for
from mcr.blocking import run_blocking
from mcr.durability import Durability
from mcr.errors import CorruptChunkError, DeadlineError, UnavailableError
from mcr.model import KIB, Chunk, ChunkId
from mcr.transfer import Stored, put_in_places, verified
from mcr.v1 import chunks_pb2 as pb

# Measured: two streams fill a connection, more bring nothing on two cores.
STREAMS_MAX = 2
# Downloads from one node. It may have to fetch over a long line what it gives, and begins with what it was
# asked for: so much must be on its way that the line is never empty while the next part is asked for.
READS_MAX = 4
# After a part of which a node had nothing, so many go by gRPC at once.
FETCHED_PARTS = 8
# A stream on which not one message moved for so long is given up, and what is left is asked for again.
STALL_S = 20.0
# A node that sends less than this for a while is given up as well, if there is another one.
BYTES_PER_S_MIN = 64 * KIB
# Wrong bytes are asked for again, of another node if there is one; but not for ever where there is none.
CORRUPT_TRIES_MAX = 3
# Below, a put asks only the node it goes to.
ANYWHERE_BYTES_MIN = 256 * KIB
IDS_MAX = _frames.FRAME_CHUNKS_MAX
# Joining and hashing, for two streams.
WORKERS = 2

_SERVICE = "/mcr.v1.ChunksService"


class RemoteChunks:
    """`mcr.transfer.ChunkTransport` to a node."""

    def __init__(self, calls: Calls, *, anywhere: bool) -> None:
        """Speak over `calls`.

        Args:
            calls: to the node, or the nodes of a cluster.
            anywhere: what another node of the cluster holds is not missing, and what is put is forwarded; for
                clients. Nodes mean each other's own chunks.
        """
        self._calls = calls
        self._anywhere = anywhere
        self._forward = Forward() if anywhere else None
        self._puts = asyncio.Semaphore(PUTS_MAX)
        self._streams = asyncio.Semaphore(STREAMS_MAX)
        self._lines = BulkLines()
        self._elsewhere = Elsewhere()
        self._spreading = Spreading()
        self._reads: dict[str, asyncio.Semaphore] = {}
        # Of nodes that lacked all that was asked for: how many parts they are not asked for in bulk.
        self._fetched: dict[str, int] = {}
        self._executor = ThreadPoolExecutor(WORKERS, thread_name_prefix="mcr-remote")

    def held_as(self, durability: Durability | None) -> "RemoteChunks":
        """Return these chunks for one commit: the node sends them on to where sealing will look for them."""
        view = copy(self)
        view._forward, view._elsewhere = Forward(durability), Elsewhere()  # noqa: SLF001 (of this class)
        return view

    async def put(self, chunks: Sequence[Chunk]) -> Stored:
        """See ChunkTransport. Asks first what is missing, and sends only that."""
        # For a few bytes it takes longer to hear what other nodes hold than to send them.
        is_worth_it = sum(len(chunk.data) for chunk in chunks) >= ANYWHERE_BYTES_MIN
        anywhere = self._anywhere and is_worth_it
        if anywhere:
            anywhere = self._elsewhere.is_asked(asyncio.get_running_loop().time())
        # A chunk that stands in the batch twice is sent once.
        unique = {chunk.id: chunk for chunk in chunks}
        missing = await self._missing(list(unique), anywhere=anywhere)
        if is_worth_it:
            self._elsewhere.answered(unique, missing)
        wanted = [chunk for chunk_id, chunk in unique.items() if chunk_id in missing]
        return await self.send(wanted) if wanted else Stored()

    async def send(self, wanted: Sequence[Chunk]) -> Stored:
        """Hand over chunks that are known to be missing."""
        is_first = True
        arrived = Stored()

        async def once(way: Way) -> Stored:
            nonlocal is_first, wanted, arrived
            if not is_first:
                self._elsewhere.reset()
                # Another node, perhaps, and it may have got much of what the first one took.
                came, wanted = await self._sort_out(wanted, way)
                arrived += came
            is_first = False
            return await self._put_once(wanted, way) if wanted else Stored()

        async with self._puts:
            answered = await self._calls.run("PutChunks", once)
        return arrived + answered

    async def _sort_out(self, sent: Sequence[Chunk], way: Way) -> tuple[Stored, list[Chunk]]:
        """Return what a try that failed had brought, and what is left to send."""
        missing = await self._missing_at(way, [chunk.id for chunk in sent], anywhere=self._anywhere)
        came = [len(chunk.data) for chunk in sent if chunk.id not in missing]
        # How they are encoded was not answered.
        return Stored(len(came), sum(came)), [chunk for chunk in sent if chunk.id in missing]

    async def _put_once(self, chunks: Sequence[Chunk], way: Way) -> Stored:
        if not self._lines.serves(way, sum(len(chunk.data) for chunk in chunks)):
            return await self._put_by_call(chunks, way)
        try:
            return await self._lines.put(way, chunks, self._forward)
        except BulkError as error:
            if error.is_silent:
                raise TransientError(UnavailableError(way.address, str(error))) from error
        # A node that was started anew listens elsewhere. Some of it may have arrived; the call says what the
        # matter is, if there is one.
        self._calls.nodes.look_again()
        arrived, left = await self._sort_out(chunks, way)
        return arrived + await self._put_by_call(left, way) if left else arrived

    async def _put_by_call(self, chunks: Sequence[Chunk], way: Way) -> Stored:
        async with self._streams:
            return await self._put_in_stream(chunks, way)

    async def _put_in_stream(self, chunks: Sequence[Chunk], way: Way) -> Stored:
        forward = () if self._forward is None else ((_frames.FORWARD_KEY, self._forward.text),)
        async with watched("PutChunks", way) as watch:
            call: grpc.aio.StreamUnaryCall[bytes, bytes] = way.channel.stream_unary(f"{_SERVICE}/PutChunks")(
                timeout=LONG_CALL_S, metadata=(*self._calls.metadata, *forward)
            )
            try:
                for group in _frames.group(chunks):
                    frame = await run_blocking(self._executor, partial(_frames.encode, group))
                    await call.write(frame)
                    watch.moved()
                await call.done_writing()
                answer = pb.PutChunksResponse.FromString(await call)
            except asyncio.InvalidStateError:
                # The node ended the stream while chunks were being written; awaiting the call says why.
                answer = pb.PutChunksResponse.FromString(await call)
            finally:
                call.cancel()
        return Stored(answer.chunks_new, answer.bytes_new, answer.bytes_stored)

    async def sync(self) -> None:
        """See ChunkTransport."""
        await self.sync_in_life()

    async def sync_in_life(self) -> int:
        """Sync, and return which life of the node's process did so; 0 = it does not say."""
        answer = await self._calls.unary(
            lambda way: way.chunks.SyncChunks, pb.SyncChunksRequest(), try_s=LONG_CALL_S
        )
        return answer.life

    async def get(self, ids: Sequence[ChunkId]) -> list[bytes]:
        """See ChunkTransport. What arrived before a node failed is not asked for again."""
        found: list[bytes] = []
        corrupt = 0
        while len(found) < len(ids):
            part = ids[len(found) : len(found) + IDS_MAX]
            start = len(found)

            async def once(way: Way, part: Sequence[ChunkId] = part, start: int = start) -> None:
                nonlocal corrupt
                try:
                    await self._get_from(way, part[len(found) - start :], found)
                except CorruptChunkError as error:
                    # Told by the node, or noticed here: it happened on the way, or that node is at fault.
                    corrupt += 1
                    if corrupt == CORRUPT_TRIES_MAX:
                        raise
                    raise TransientError(error) from error

            await self._calls.run("GetChunks", once, choose=self._spreading.choose)
        return found

    async def get_into(self, ids: Sequence[ChunkId], places: Sequence[memoryview]) -> list[int]:
        """See ChunkTransport."""
        found = await self.get(ids)
        return await run_blocking(self._executor, partial(put_in_places, found, places))

    async def _get_from(self, way: Way, ids: Sequence[ChunkId], found: list[bytes]) -> None:
        """Get chunks from one node, a few streams at a time, and weigh how fast they come."""
        now_s = asyncio.get_running_loop().time
        before = len(found)
        self._spreading.begin(way, now_s())
        try:
            async with self._reads.setdefault(way.address, asyncio.Semaphore(READS_MAX)):
                await self._get_once(ids, found, way)
        finally:
            self._spreading.end(way, sum(map(len, found[before:])), now_s())

    async def _get_once(self, ids: Sequence[ChunkId], found: list[bytes], way: Way) -> None:
        """Get chunks from one node, over plain connections as far as they lie there, the others by gRPC."""
        before = len(found)
        if self._are_there(way) and self._lines.serves(way, BULK_BYTES_MIN if len(ids) > 1 else 0):
            slowest = BYTES_PER_S_MIN if self._calls.nodes.are_more else 0
            try:
                await self._lines.get(way, ids, found, bytes_per_s_min=slowest)
            except BulkError as error:
                if error.is_silent:
                    raise TransientError(UnavailableError(way.address, str(error))) from error
                # A node that was started anew listens elsewhere.
                self._calls.nodes.look_again()
            if len(found) == before:
                # The node fetches what it gives; it is not asked for each part whether it had to.
                self._fetched[way.address] = FETCHED_PARTS
        left = ids[len(found) - before :]
        if left:
            await self._get_by_call(left, found, way)

    def _are_there(self, way: Way) -> bool:
        """Whether what is asked for probably lies on a node."""
        left = self._fetched.get(way.address, 0)
        self._fetched[way.address] = max(0, left - 1)
        return not left

    async def _get_by_call(self, ids: Sequence[ChunkId], found: list[bytes], way: Way) -> None:
        request = pb.GetChunksRequest(ids=ids)
        async with watched("GetChunks", way) as watch:
            rpc: grpc.aio.UnaryStreamMultiCallable[pb.GetChunksRequest, bytes] = way.channel.unary_stream(
                f"{_SERVICE}/GetChunks", request_serializer=pb.GetChunksRequest.SerializeToString
            )
            call = rpc(request, timeout=LONG_CALL_S, metadata=self._calls.metadata)
            try:
                expected = iter(ids)
                start_s, came_bytes = asyncio.get_running_loop().time(), 0
                async for frame in call:
                    watch.moved()
                    came_bytes += len(frame)
                    self._check_rate(way, came_bytes, asyncio.get_running_loop().time() - start_s)
                    found += await run_blocking(self._executor, partial(_checked, frame, expected))
                left = next(expected, None)
                if left is not None:
                    raise CorruptChunkError(left.hex(), f"the node at {way.address} did not send it")
            finally:
                call.cancel()

    def _check_rate(self, way: Way, came_bytes: int, elapsed_s: float) -> None:
        """Give up a node that sends too little, where there is another one to ask."""
        if (
            elapsed_s >= PATIENCE_S
            and came_bytes < elapsed_s * BYTES_PER_S_MIN
            and self._calls.nodes.are_more
        ):
            reason = f"{came_bytes} bytes in {elapsed_s:.0f} s are too few"
            raise TransientError(UnavailableError(way.address, reason))

    async def missing(self, ids: Sequence[ChunkId]) -> set[ChunkId]:
        """See ChunkTransport."""
        return await self._missing(ids, anywhere=self._anywhere)

    async def _missing(self, ids: Sequence[ChunkId], *, anywhere: bool) -> set[ChunkId]:
        found: set[ChunkId] = set()
        for start in range(0, len(ids), IDS_MAX):
            part = ids[start : start + IDS_MAX]
            once = partial(self._missing_at, ids=part, anywhere=anywhere)
            found |= await self._calls.run("FindMissing", once)
        return found

    async def _missing_at(self, way: Way, ids: Sequence[ChunkId], *, anywhere: bool) -> set[ChunkId]:
        answer = await self._find(pb.FindMissingRequest(ids=ids, anywhere=anywhere), way)
        return {ChunkId(each) for each in answer.ids}

    async def find_missing(self, request: pb.FindMissingRequest) -> pb.FindMissingResponse:
        """Ask what is missing, in all detail; of one page."""
        return await self._calls.run("FindMissing", partial(self._find, request))

    async def _find(self, request: pb.FindMissingRequest, way: Way) -> pb.FindMissingResponse:
        try:
            return await way.chunks.FindMissing(request, timeout=CALL_S, metadata=self._calls.metadata)
        except grpc.aio.AioRpcError as error:
            raise_for(error, address=way.address, what="FindMissing", seconds=CALL_S)
            raise

    def close(self) -> None:
        """Wait for what is being hashed, and release the threads."""
        self._executor.shutdown()
        self._lines.close()


def _checked(frame: bytes, expected: Iterator[ChunkId]) -> list[bytes]:
    chunks: list[bytes] = []
    for received in _frames.decode(frame):
        wanted = next(expected, None)
        if wanted != received.id:
            raise CorruptChunkError(received.id.hex(), "the node sent what was not asked for")
        chunks.append(bytes(verified(received.id, received.data).data))
    return chunks


class _Watch:
    """Gives up when nothing moves for too long."""

    def __init__(self, timeout: asyncio.Timeout) -> None:
        self._timeout = timeout

    def moved(self) -> None:
        """Begin to count anew."""
        self._timeout.reschedule(asyncio.get_running_loop().time() + STALL_S)


@asynccontextmanager
async def watched(what: str, way: Way) -> AsyncIterator[_Watch]:
    """Give up a stream on which nothing moves, and translate how it failed."""
    try:
        async with asyncio.timeout(STALL_S) as timeout:
            yield _Watch(timeout)
    except TimeoutError as error:
        raise TransientError(DeadlineError(f"{STALL_S:g}", f"the next part of {what}")) from error
    except grpc.aio.AioRpcError as error:
        raise_for(error, address=way.address, what=what, seconds=LONG_CALL_S)
