"""Lines carry what gRPC streams carry, in order, to whom it is meant; where there is none, gRPC does."""

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

import grpc.aio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcr._dialling import PROXY_VARIABLE
from mcr._local_network import LocalNetwork
from mcr._records import Place, RecordError
from mcr_node.core.members import Member
from mcr_node.core.raft.messages import Message, MessageType
from mcr_node.peer.v1 import raft_pb2
from mcr_node.transport import codec, lines
from mcr_node.transport.lines import Line, LineServer
from mcr_node.transport.peers import GrpcPeers, Sender

DEADLINE_S = 20.0
CLUSTER = b"c" * 16


class Taken:
    """What a server took."""

    def __init__(self) -> None:
        self.requests: list[raft_pb2.DeliverRequest] = []
        self.senders: list[int] = []

    def take(self, request: raft_pb2.DeliverRequest, sender: int) -> int:
        if request.cluster_id not in (b"", CLUSTER):
            raise codec.WireError("not meant")
        self.requests.append(request)
        self.senders.append(sender)
        return sender or request.sender

    async def wait(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():  # noqa: ASYNC110 - it happens on the other side of a network
                await asyncio.sleep(0.001)


def told(story: Callable[[LineServer, Taken], Awaitable[None]]) -> None:
    async def run() -> None:
        taken = Taken()
        server = LineServer(taken.take)
        await server.listen("127.0.0.1")
        try:
            async with asyncio.timeout(DEADLINE_S):
                await story(server, taken)
        finally:
            await server.close()

    asyncio.run(run())


async def ends(reader: asyncio.StreamReader) -> bool:
    """Wait until the other side ends the connection, without another word."""
    try:
        return await reader.read() == b""
    except ConnectionResetError:
        return True


def nothing() -> None:
    """Room again: nobody waits for it."""


def first() -> raft_pb2.DeliverRequest:
    return raft_pb2.DeliverRequest(cluster_id=CLUSTER, sender=2, to=1)


def numbered(number: int, *, padding: int = 0) -> raft_pb2.DeliverRequest:
    request = raft_pb2.DeliverRequest()
    request.messages.add(type=16, index=number, context=bytes(padding))
    return request


def record(request: raft_pb2.DeliverRequest) -> bytes:
    data = request.SerializeToString()
    return struct.pack(">I", len(data)) + data


def test_records_arrive_in_order_and_the_first_says_who_speaks() -> None:
    async def story(server: LineServer, taken: Taken) -> None:
        line = await Line.open("127.0.0.1:1", server.place, nothing)
        line.send(first())
        for number in range(500):
            line.send(numbered(number, padding=number % 7 * 10_000))
        await taken.wait(lambda: len(taken.requests) == 501)
        assert [one.messages[0].index for one in taken.requests[1:]] == list(range(500))
        assert taken.senders == [0] + [2] * 500
        line.close()
        await line.ended

    told(story)


@given(cuts=st.lists(st.integers(0, 400), max_size=12))
@settings(max_examples=30, deadline=None)
def test_where_the_network_cuts_makes_no_difference(cuts: list[int]) -> None:
    async def story(server: LineServer, taken: Taken) -> None:
        said = b"mcr-line-1\n" + server.place.key
        requests = [first(), *(numbered(number, padding=number * 3) for number in range(8))]
        said += b"".join(map(record, requests))
        reader, writer = await asyncio.open_connection("127.0.0.1", server.place.port)
        begin = 0
        for end in [*sorted({cut for cut in cuts if cut < len(said)}), len(said)]:
            writer.write(said[begin:end])
            await writer.drain()
            begin = end
            await asyncio.sleep(0)
        await taken.wait(lambda: len(taken.requests) == len(requests))
        assert taken.requests == requests
        writer.close()
        await writer.wait_closed()
        assert reader is not None

    told(story)


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nHost: somebody\r\n\r\n",
        b"mcr-line-1\n" + bytes(16) + record(first()),
        b"",
    ],
    ids=["another protocol", "another key", "nothing at all"],
)
def test_who_does_not_greet_is_not_heard(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "GREET_S", 0.2)

    async def story(server: LineServer, taken: Taken) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.place.port)
        writer.write(said)
        assert await ends(reader)
        writer.close()
        assert taken.requests == []

    told(story)


@pytest.mark.parametrize(
    "said",
    [
        record(raft_pb2.DeliverRequest(cluster_id=b"x" * 16, sender=2, to=1)),
        struct.pack(">I", lines.RECORD_BYTES_MAX + 1),
        struct.pack(">I", 5) + b"\xff\xff\xff\xff\xff",
        record(first())[:-1] + b"\xff" + os.urandom(64),
    ],
    ids=["another cluster", "too long", "no message", "noise"],
)
def test_a_line_that_makes_no_sense_is_ended_and_the_next_one_serves(said: bytes) -> None:
    async def story(server: LineServer, taken: Taken) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.place.port)
        greeting = b"mcr-line-1\n" + server.place.key
        writer.write(greeting + said)
        assert await reader.readexactly(len(greeting)) == greeting
        assert await ends(reader)
        writer.close()
        taken.requests.clear()
        line = await Line.open("127.0.0.1:1", server.place, nothing)
        line.send(first())
        await taken.wait(lambda: len(taken.requests) == 1)
        line.close()

    told(story)


def test_where_nobody_listens_or_somebody_else_there_is_no_line() -> None:
    async def story(server: LineServer, _: Taken) -> None:
        with pytest.raises(RecordError):
            await Line.open("127.0.0.1:1", Place(server.place.port, bytes(16)), nothing)
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            with pytest.raises(RecordError):
                await Line.open("127.0.0.1:1", Place(unused.getsockname()[1], bytes(16)), nothing)

    told(story)


def test_a_cut_between_two_nodes_cuts_their_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    network = LocalNetwork()
    address = "127.0.0.1:7"

    async def story(server: LineServer, taken: Taken) -> None:
        environment = network.join("a", "127.0.0.1:6")
        network.join("b", address)
        monkeypatch.setenv(PROXY_VARIABLE, environment[PROXY_VARIABLE])
        line = await Line.open(address, server.place, nothing)
        line.send(first())
        await taken.wait(lambda: len(taken.requests) == 1)
        network.cut([("a", "b")])
        line.send(numbered(1))
        with pytest.raises(RecordError):
            await Line.open(address, server.place, nothing)
        assert len(taken.requests) == 1
        network.cut([])
        await taken.wait(lambda: len(taken.requests) == 2)
        line.close()

    try:
        told(story)
    finally:
        network.close()


class Events:
    """A node that sends."""

    def __init__(self) -> None:
        self.unreachable = 0

    def deliver(self, messages: Sequence[Message]) -> None:
        raise AssertionError(messages)

    def accept_forwarded(self, term: int, commands: Sequence[bytes]) -> None:
        raise AssertionError(term)

    def report_unreachable(self, node_id: int) -> None:
        self.unreachable += 1

    def report_snapshot(self, node_id: int, *, failed: bool) -> None:
        raise AssertionError(node_id)


class Receiving:
    """A node that takes by gRPC and by lines."""

    def __init__(self) -> None:
        self.by_grpc = Taken()
        self.by_line = Taken()

    async def deliver(
        self, requests: AsyncIterator[raft_pb2.DeliverRequest], _: object
    ) -> raft_pb2.DeliverResponse:
        sender = 0
        async for request in requests:
            sender = self.by_grpc.take(request, sender)
        return raft_pb2.DeliverResponse()

    @property
    def indexes(self) -> list[int]:
        taken = self.by_grpc.requests + self.by_line.requests
        return [message.index for request in taken for message in request.messages]


def heartbeat(index: int) -> Message:
    return Message(type=MessageType.HEARTBEAT, to=1, sender=2, term=1, index=index)


async def serving(receiving: Receiving, *, port: int = 0) -> tuple[grpc.aio.Server, int]:
    """Take streams by gRPC; return the server and its port."""
    server = grpc.aio.server()
    handler = grpc.stream_unary_rpc_method_handler(
        receiving.deliver,
        request_deserializer=raft_pb2.DeliverRequest.FromString,
        response_serializer=raft_pb2.DeliverResponse.SerializeToString,
    )
    service = raft_pb2.DESCRIPTOR.services_by_name["RaftService"].full_name
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Deliver": handler}),))
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    return server, port


def test_members_that_have_nothing_to_say_stand_ready_to() -> None:
    # Two followers first speak when their leader is gone: no name may have to be looked up by then, for the
    # name of the one that is gone can keep those who look names up waiting.
    async def story(lines_of_one: LineServer, _: Taken) -> None:
        receiving, events = Receiving(), Events()
        server, port = await serving(receiving)
        line_server = LineServer(receiving.by_line.take)
        await line_server.listen("127.0.0.1")
        peers = GrpcPeers(Sender(CLUSTER, 2, "127.0.0.1:2", lines_of_one.place), events)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(line_server.close)
            stack.push_async_callback(peers.close)
            peers.update([Member(1, "one", f"127.0.0.1:{port}")])
            await receiving.by_grpc.wait(lambda: len(receiving.by_grpc.requests) == 1)
            # It ends, and comes back.
            await server.stop(None)
            server, _port = await serving(receiving, port=port)
            stack.push_async_callback(server.stop, None)
            await receiving.by_grpc.wait(lambda: len(receiving.by_grpc.requests) == 2)
            peers.tell_place(1, line_server.place)
            await receiving.by_line.wait(lambda: len(receiving.by_line.requests) == 1)
            assert receiving.indexes == []

    told(story)


def test_messages_go_over_the_line_once_there_is_one_and_by_grpc_when_it_is_gone() -> None:
    async def story(lines_of_one: LineServer, _: Taken) -> None:
        receiving, events = Receiving(), Events()
        server, port = await serving(receiving)
        line_server = LineServer(receiving.by_line.take)
        await line_server.listen("127.0.0.1")
        peers = GrpcPeers(Sender(CLUSTER, 2, "127.0.0.1:2", lines_of_one.place), events)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(server.stop, None)
            stack.push_async_callback(peers.close)
            peers.update([Member(1, "one", f"127.0.0.1:{port}")])
            peers.send(heartbeat(1))
            peers.flush()
            await receiving.by_grpc.wait(lambda: receiving.indexes == [1])
            greeting = receiving.by_grpc.requests[0]
            assert (greeting.line_port, greeting.line_key) == (
                lines_of_one.place.port,
                lines_of_one.place.key,
            )

            peers.tell_place(1, line_server.place)
            await receiving.by_line.wait(lambda: len(receiving.by_line.requests) == 1)
            for index in range(2, 50):
                peers.send(heartbeat(index))
                peers.flush()
            await receiving.by_line.wait(lambda: receiving.indexes == list(range(1, 50)))
            assert len(receiving.by_grpc.requests) == 2
            assert events.unreachable == 0

            await line_server.close()
            await receiving.by_line.wait(lambda: events.unreachable > 0)
            peers.send(heartbeat(50))
            peers.flush()
            await receiving.by_grpc.wait(lambda: 50 in receiving.indexes)

            again = LineServer(receiving.by_line.take)
            await again.listen("127.0.0.1")
            stack.push_async_callback(again.close)
            before = len(receiving.by_line.requests)
            peers.tell_place(1, again.place)
            await receiving.by_line.wait(lambda: len(receiving.by_line.requests) > before)
            peers.send(heartbeat(51))
            peers.flush()
            await receiving.by_line.wait(lambda: 51 in receiving.indexes)
            assert receiving.by_line.requests[-1].messages[0].index == 51

    told(story)
