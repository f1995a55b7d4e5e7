"""mcr.v1.ChunksService over gRPC: bulk bytes as raw messages, a few in flight, nothing unverified stored."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

import grpc
import grpc.aio

from mcr._bulk import Forward
from mcr._frames import FORWARD_KEY, FRAME_CHUNKS_MAX
from mcr.blocking import settle
from mcr.errors import DeadlineError, InvalidArgumentError, McrError
from mcr.model import DIGEST_BYTES, ChunkId
from mcr.transfer import Stored
from mcr.v1 import chunks_pb2 as pb
from mcr_node.services.chunks import LocalChunks
from mcr_node.services.edge import (
    Context,
    Edge,
    Handler,
    Limit,
    UnaryMethod,
    parsed,
    unary_handlers,
    unary_methods,
)

Item = TypeVar("Item")
Explain = Callable[[McrError], Awaitable[McrError]]

SERVICE = pb.DESCRIPTOR.services_by_name["ChunksService"]
# One frame is verified and written while the next ones arrive; more would only fill memory.
FRAMES_IN_FLIGHT = 3
UPLOADS_MAX = 64
DOWNLOADS_MAX = 64
# A client that sends nothing, or takes nothing, for so long has gone; a frame takes a second at 1 MB/s.
STALL_S = 30.0


class ChunkEdge:
    """Checks requests and moves frames between the network and the store."""

    def __init__(self, chunks: LocalChunks, edge: Edge, explain: Explain) -> None:
        """Serve `chunks`; `explain` makes more of an error when something cannot be read."""
        self._explain = explain
        self._chunks = chunks
        self._edge = edge
        self._uploads = Limit("uploads", UPLOADS_MAX)
        self._downloads = Limit("downloads", DOWNLOADS_MAX)

    def methods(self) -> dict[str, UnaryMethod]:
        """Return the calls of the service that are small both ways."""
        return unary_methods(SERVICE, lambda _: self)

    def handlers(self) -> dict[str, Handler]:
        """Return the handlers of the service; bulk messages pass through unparsed."""
        return unary_handlers(self._edge, self.methods()) | {
            "PutChunks": grpc.stream_unary_rpc_method_handler(self._put_chunks),
            "GetChunks": grpc.unary_stream_rpc_method_handler(self._get_chunks),
        }

    async def find_missing(self, request: pb.FindMissingRequest) -> pb.FindMissingResponse:
        """Say which chunks are not held."""
        ids = _ids(request.ids)
        if request.vouch:
            promise = await self._chunks.vouch(ids)
            return pb.FindMissingResponse(
                ids=sorted(promise.missing), gc_round=promise.gc_round, vouched=True
            )
        if request.anywhere:
            return pb.FindMissingResponse(ids=sorted(await self._chunks.missing_anywhere(ids)))
        if request.only_looking:
            return pb.FindMissingResponse(ids=sorted(await self._chunks.missing(ids)))
        promise = await self._chunks.promise(ids)
        return pb.FindMissingResponse(
            ids=sorted(promise.missing), gc_round=promise.gc_round, life=promise.life
        )

    async def sync_chunks(self, request: pb.SyncChunksRequest) -> pb.SyncChunksResponse:
        """Make what was put durable."""
        await self._chunks.sync()
        return pb.SyncChunksResponse(life=self._chunks.life)

    async def _put_chunks(self, frames: AsyncIterator[bytes], context: Context) -> bytes | None:
        async with self._edge.call(context, "mcr.v1.ChunksService.PutChunks"):
            forward = _forward_of(context)
            with self._uploads:
                stored = await self._store(frames, forward=forward)
            response = pb.PutChunksResponse(
                chunks_new=stored.chunks_new, bytes_new=stored.bytes_new, bytes_stored=stored.bytes_stored
            )
            data: bytes = response.SerializeToString()
            return data
        return None

    async def _store(self, frames: AsyncIterator[bytes], *, forward: Forward | None) -> Stored:
        stored = Stored()
        running: deque[asyncio.Task[Stored]] = deque()
        try:
            while (frame := await _next(frames)) is not None:
                self._edge.telemetry.bytes_received.inc(len(frame))
                if len(running) == FRAMES_IN_FLIGHT:
                    stored += await running.popleft()
                running.append(asyncio.create_task(self._chunks.put_received(frame, forward=forward)))
            while running:
                stored += await running.popleft()
        finally:
            await settle(running)
        return stored

    async def _get_chunks(self, data: bytes, context: Context) -> None:
        async with self._edge.call(context, "mcr.v1.ChunksService.GetChunks"):
            ids = _ids(parsed(pb.GetChunksRequest, data).ids)
            with self._downloads:
                await self._send(ids, context)

    async def _send(self, ids: Sequence[ChunkId], context: Context) -> None:
        reading = asyncio.create_task(self._chunks.get_frame(ids))
        try:
            while ids:
                frame, count, error = await reading
                ids = ids[count:]
                if ids and error is None:
                    # Read from the disk while this one is on its way.
                    reading = asyncio.create_task(self._chunks.get_frame(ids))
                if frame:
                    await _within_stall(context.write(frame), "taking the next chunks")
                    self._edge.telemetry.bytes_sent.inc(len(frame))
                if error is not None:
                    raise await self._explain(error)
        finally:
            await settle([reading])


def _forward_of(context: Context) -> Forward | None:
    for key, value in context.invocation_metadata() or ():
        if key == FORWARD_KEY:
            return Forward.parse(value if isinstance(value, str) else "")
    return None


async def _next(frames: AsyncIterator[bytes]) -> bytes | None:
    return await _within_stall(anext(frames, None), "sending the next chunks")


async def _within_stall(step: Awaitable[Item], what: str) -> Item:
    try:
        async with asyncio.timeout(STALL_S):
            return await step
    except TimeoutError as error:
        raise DeadlineError(f"{STALL_S:g}", what) from error


def _ids(raw: Sequence[bytes]) -> list[ChunkId]:
    if len(raw) > FRAME_CHUNKS_MAX:
        raise InvalidArgumentError("ids", f"there are {len(raw)}; at most {FRAME_CHUNKS_MAX} at once")
    for each in raw:
        if len(each) != DIGEST_BYTES:
            raise InvalidArgumentError("ids", f"one has {len(each)} bytes, not {DIGEST_BYTES}")
    return [ChunkId(each) for each in raw]
