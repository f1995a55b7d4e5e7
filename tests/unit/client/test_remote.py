"""Ways to nodes, and what comes over them: the near before the far, the well before the ill, all verified."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from mcr import _frames
from mcr._remote import chunks as remote_chunks
from mcr._remote.calls import Calls
from mcr._remote.chunks import RemoteChunks
from mcr._remote.nodes import Nodes
from mcr._remote.status import TransientError
from mcr.addresses import Address
from mcr.errors import CorruptChunkError, DeadlineError, UnavailableError
from mcr.model import Chunk
from mcr.v1 import admin_pb2 as admin
from mcr.v1 import chunks_pb2 as pb

Ping = Callable[[], Awaitable[None]]


async def at_once() -> None:
    """Be a node next door."""


class StrangeNode:
    """A node on loopback that answers as a test says: later, not ready, or with wrong bytes."""

    def __init__(self, name: str, *, ping: Ping = at_once, ready: bool = True) -> None:
        self.name, self.ping, self.ready = name, ping, ready
        self.frames: Sequence[bytes] = ()
        self.asked: list[int] = []
        self.address = Address("127.0.0.1", 0)
        self.hang = False

    async def _ping(self, request: bytes, context: object) -> bytes:
        await self.ping()
        return admin.PingResponse(name=self.name, ready=self.ready).SerializeToString()

    async def _get(self, request: bytes, context: Any) -> AsyncIterator[bytes]:  # noqa: ANN401
        frames, hang = self.frames, self.hang
        self.asked.append(len(pb.GetChunksRequest.FromString(request).ids))
        for frame in frames:
            yield frame
        if hang:
            await asyncio.Event().wait()


@asynccontextmanager
async def serving(*nodes: StrangeNode) -> AsyncIterator[list[Address]]:
    servers = []
    for node in nodes:
        server = grpc.aio.server()
        handlers: Any = {
            "mcr.v1.AdminService": {"Ping": grpc.unary_unary_rpc_method_handler(node._ping)},
            "mcr.v1.ChunksService": {"GetChunks": grpc.unary_stream_rpc_method_handler(node._get)},
        }
        server.add_generic_rpc_handlers(
            tuple(grpc.method_handlers_generic_handler(name, table) for name, table in handlers.items())
        )
        node.address = Address("127.0.0.1", server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        servers.append(server)
    try:
        yield [node.address for node in nodes]
    finally:
        for server in servers:
            await server.stop(None)


def test_the_nearest_node_is_used_wherever_it_stands_in_the_list() -> None:
    async def story() -> None:
        answered = asyncio.Event()

        async def near() -> None:
            answered.set()

        async def far() -> None:
            await answered.wait()
            await asyncio.sleep(0.005)  # the distance

        nodes = [StrangeNode("far", ping=far), StrangeNode("near", ping=near)]
        async with serving(*nodes) as addresses:
            for order in (addresses, addresses[::-1]):
                answered.clear()
                ways = Nodes(order)
                assert (await ways.way()).address == str(nodes[1].address)
                await ways.close()

    asyncio.run(story())


def test_a_node_that_is_not_ready_or_has_just_failed_is_passed_over() -> None:
    async def story() -> None:
        nodes = [StrangeNode("drains", ready=False), StrangeNode("a"), StrangeNode("b")]
        async with serving(*nodes) as addresses:
            ways = Nodes(addresses)
            first = await ways.way()
            ways.failed(first)
            second = await ways.way()
            assert {first.address, second.address} == {str(node.address) for node in nodes[1:]}
            # When all have failed, the best of them is better than none.
            ways.failed(second)
            assert (await ways.way()).address != str(nodes[0].address)
            await ways.close()

    asyncio.run(story())


def test_when_no_node_is_ready_all_of_them_say_why() -> None:
    async def story() -> None:
        async with serving(StrangeNode("a", ready=False), StrangeNode("b", ready=False)) as addresses:
            ways = Nodes(addresses)
            with pytest.raises(TransientError) as raised:
                await ways.way()
            await ways.close()
            assert isinstance(raised.value.error, UnavailableError)
            assert raised.value.error.addresses == ",".join(str(address) for address in addresses)
            assert {"a is not ready", "b is not ready"} == set(raised.value.error.reason.split("; "))

    asyncio.run(story())


async def fetched(node: StrangeNode, wanted: Sequence[Chunk], *, timeout_s: float = 30) -> list[bytes]:
    async with serving(node) as addresses:
        calls = Calls(addresses, timeout_s=timeout_s)
        transport = RemoteChunks(calls, anywhere=True)
        try:
            return await transport.get([chunk.id for chunk in wanted])
        finally:
            await calls.close()
            transport.close()


def test_chunks_arrive_in_the_order_asked_for_however_they_are_packed() -> None:
    wanted = [Chunk.of(bytes((number,)) * number) for number in range(20)]
    node = StrangeNode("a")
    node.frames = [_frames.encode(wanted[:1]), _frames.encode(wanted[1:17]), _frames.encode(wanted[17:])]
    assert asyncio.run(fetched(node, wanted)) == [chunk.data for chunk in wanted]
    assert node.asked == [20]


def test_wrong_bytes_never_reach_the_caller_and_are_asked_for_only_so_often() -> None:
    honest, other = Chunk.of(b"weights"), Chunk.of(b"others")
    for frames in (
        [_frames.encode([Chunk(honest.id, b"wrights")])],
        [_frames.encode([other])],
        [_frames.encode([honest, other])],
        [],
    ):
        node = StrangeNode("a")
        node.frames = frames
        with pytest.raises(CorruptChunkError):
            asyncio.run(fetched(node, [honest]))
        assert len(node.asked) == remote_chunks.CORRUPT_TRIES_MAX


def test_a_stream_that_stalls_goes_on_after_what_has_arrived(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_chunks, "STALL_S", 0.3)
    wanted = [Chunk.of(b"first"), Chunk.of(b"second")]
    node = StrangeNode("a")
    node.frames, node.hang = [_frames.encode(wanted[:1])], True

    async def story() -> list[bytes]:
        getting = asyncio.create_task(fetched(node, wanted))
        while not node.asked:
            await asyncio.wait([getting], timeout=0.02)
        node.frames, node.hang = [_frames.encode(wanted[1:])], False
        return await getting

    assert asyncio.run(story()) == [b"first", b"second"]
    assert node.asked == [2, 1]


def test_the_clients_timeout_ends_all_tries() -> None:
    node = StrangeNode("a")
    node.hang = True
    with pytest.raises(DeadlineError, match=r"GetChunks did not finish within 0\.4 s"):
        asyncio.run(fetched(node, [Chunk.of(b"never")], timeout_s=0.4))
