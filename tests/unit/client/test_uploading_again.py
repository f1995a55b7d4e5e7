"""What a try that failed had brought is sent no more, and counted as sent."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import grpc.aio

from mcr import _frames
from mcr._bulk import BulkError, Forward
from mcr._remote.bulk import BulkLines
from mcr._remote.calls import Calls
from mcr._remote.chunks import RemoteChunks
from mcr._remote.nodes import Way
from mcr.addresses import Address
from mcr.model import KIB, Chunk
from mcr.transfer import Stored
from mcr.v1 import admin_pb2 as admin
from mcr.v1 import chunks_pb2 as pb

CHUNKS = [Chunk.of(bytes([number]) * 100 * KIB) for number in range(8)]
BEFORE = 3


class Node:
    """Takes chunks; its first stream breaks after some of them, unless it is told not to."""

    def __init__(self, *, breaks: bool) -> None:
        self.held: dict[bytes, int] = {}
        self.came_bytes = 0
        self._breaks = breaks

    def take(self, chunks: Sequence[Chunk]) -> Stored:
        new = [chunk for chunk in chunks if chunk.id not in self.held]
        self.held |= {chunk.id: len(chunk.data) for chunk in new}
        self.came_bytes += sum(len(chunk.data) for chunk in chunks)
        new_bytes = sum(len(chunk.data) for chunk in new)
        return Stored(len(new), new_bytes, new_bytes)

    async def ping(self, request: bytes, context: object) -> bytes:
        return admin.PingResponse(name="n1", ready=True).SerializeToString()

    async def find_missing(self, request: bytes, context: object) -> bytes:
        ids = pb.FindMissingRequest.FromString(request).ids
        return pb.FindMissingResponse(ids=[one for one in ids if one not in self.held]).SerializeToString()

    async def put(self, frames: AsyncIterator[bytes], context: Any) -> bytes:  # noqa: ANN401
        chunks = [Chunk(one.id, bytes(one.data)) async for frame in frames for one in _frames.decode(frame)]
        if self._breaks:
            self._breaks = False
            self.take(chunks[:BEFORE])
            await context.abort(grpc.StatusCode.UNAVAILABLE, "killed")
        stored = self.take(chunks)
        answer = pb.PutChunksResponse(chunks_new=stored.chunks_new, bytes_new=stored.bytes_new)
        return answer.SerializeToString()


class BreakingLines(BulkLines):
    """Bulk lines of which the first breaks after some of the chunks have arrived."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self._node = node
        self._is_broken = False

    def serves(self, way: Way, length_bytes: int) -> bool:
        return not self._is_broken

    async def put(self, way: Way, chunks: Sequence[Chunk], forward: Forward | None) -> Stored:
        self._is_broken = True
        self._node.take(chunks[:BEFORE])
        raise BulkError("the node ended the connection")


async def put(node: Node, *, by_lines: bool) -> Stored:
    server = grpc.aio.server()
    tables: Any = {
        "mcr.v1.AdminService": {"Ping": grpc.unary_unary_rpc_method_handler(node.ping)},
        "mcr.v1.ChunksService": {
            "FindMissing": grpc.unary_unary_rpc_method_handler(node.find_missing),
            "PutChunks": grpc.stream_unary_rpc_method_handler(node.put),
        },
    }
    server.add_generic_rpc_handlers(
        tuple(grpc.method_handlers_generic_handler(name, table) for name, table in tables.items())
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    calls = Calls([Address("127.0.0.1", port)], timeout_s=20)
    transport = RemoteChunks(calls, anywhere=True)
    if by_lines:
        transport._lines = BreakingLines(node)
    try:
        return await transport.put(CHUNKS)
    finally:
        await calls.close()
        transport.close()
        await server.stop(None)


def check_counted_once(node: Node, *, by_lines: bool) -> None:
    stored = asyncio.run(put(node, by_lines=by_lines))
    total = sum(len(chunk.data) for chunk in CHUNKS)
    assert (stored.chunks_new, stored.bytes_new) == (len(CHUNKS), total)
    assert node.came_bytes == total


def test_what_a_line_of_the_bulk_plane_brought_before_it_broke_is_counted_and_not_sent_again() -> None:
    check_counted_once(Node(breaks=False), by_lines=True)


def test_what_a_stream_brought_before_it_broke_is_counted_and_not_sent_again() -> None:
    check_counted_once(Node(breaks=True), by_lines=False)


def test_what_both_brought_before_they_broke_is_counted_once() -> None:
    check_counted_once(Node(breaks=True), by_lines=True)
