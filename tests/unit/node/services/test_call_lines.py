"""Small calls by line go as those by stream do; where there is no line, or it breaks, gRPC carries them."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from mcr import _records
from mcr._records import Place, RecordError, Records
from mcr._remote import call_lines
from mcr._remote.call_lines import CALLS_BEFORE, LineCarrier
from mcr._remote.calls import Calls
from mcr.errors import DeadlineError, HeadMovedError
from mcr.v1 import admin_pb2 as admin
from mcr.v1 import calls_pb2 as pb
from mcr_node.services import call_lines as serving_lines
from mcr_node.services import calls
from mcr_node.services.call_lines import CallLineServer
from tests.unit.node.services.test_calls import LIMIT_S, Node, call, connected, get

ACCOUNT = b"ada"


class LinedNode(Node):
    """A node that takes lines too, and says so."""

    def __init__(self) -> None:
        super().__init__()
        self.lines = CallLineServer(self.calls.carried)
        self.offered: Place | None = None

    async def ping(self, request: admin.PingRequest) -> admin.PingResponse:
        place = self.offered or self.lines.place
        return admin.PingResponse(name="a", ready=True, call_port=place.port, call_key=place.key)


@asynccontextmanager
async def lined(node: LinedNode, *, timeout_s: float | None = LIMIT_S) -> AsyncIterator[Calls]:
    """A client that has a line to the node."""
    await node.lines.listen("127.0.0.1")
    try:
        async with connected(node, timeout_s=timeout_s) as client:
            await dialled(client)
            node.begun.clear()
            yield client
    finally:
        await node.lines.close()


def line_of(client: Calls) -> LineCarrier | None:
    return client.nodes.sole.carrying._line._line


async def dialled(client: Calls) -> None:
    """Make as many calls as it takes until a line is dialled, and wait for it."""
    for _ in range(CALLS_BEFORE + 1):
        await get(client, "m@before")
    await settled(client)


async def settled(client: Calls) -> None:
    """Wait until no line is being dialled."""
    dialling = client.nodes.sole.carrying._line._dialling
    if dialling is not None:
        await dialling


def no_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on nothing may go by a stream of gRPC."""

    async def carry(*_: object) -> None:
        raise AssertionError("this went by gRPC")

    monkeypatch.setattr(calls._Stream, "serve", carry)


def test_after_some_calls_the_others_go_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> list[int]:
        node = LinedNode()
        async with lined(node) as client:
            no_streams(monkeypatch)
            assert client.nodes.sole.carrying._stream is not None
            client.nodes.sole.carrying._stream.is_over = True
            answers = await asyncio.gather(*(get(client, f"m@{each}") for each in range(50)))
            assert len(node.begun) == 50
            assert len(node.principals) == 1
            return sorted(answer.log_index for answer in answers)

    assert asyncio.run(story()) == list(range(1, 51))


def test_a_refusal_by_line_is_the_same_error() -> None:
    async def story() -> HeadMovedError:
        async with lined(LinedNode()) as client:
            with pytest.raises(HeadMovedError) as refused:
                await get(client, "moved")
            # One refusal is nothing to the others.
            await get(client, "m@main")
            return refused.value

    found = asyncio.run(story())
    assert (found.expected, found.actual) == ("v1", "v2")
    assert found.message == HeadMovedError("v1", "v2").message


def test_who_gives_up_a_call_by_line_lets_the_node_give_it_up() -> None:
    async def story() -> list[str]:
        node = LinedNode()
        async with lined(node, timeout_s=0.5) as client:
            other = asyncio.ensure_future(get(client, "m@main"))
            with pytest.raises(DeadlineError):
                await get(client, "wait")
            await other
            await node.until(lambda: bool(node.cancelled))
            return node.cancelled

    assert asyncio.run(story()) == ["wait"]


def test_calls_of_a_line_that_breaks_are_made_again() -> None:
    async def story() -> list[str]:
        node = LinedNode()
        async with lined(node) as client:
            waiting = asyncio.ensure_future(get(client, "wait"))
            await node.until(lambda: bool(node.begun))
            (line,) = node.lines.lines
            line.close()
            node.gate.set()
            await waiting
            return node.begun

    assert asyncio.run(story()) == ["wait", "wait"]


def test_a_client_that_goes_leaves_nothing_under_way() -> None:
    async def story() -> list[str]:
        node = LinedNode()
        await node.lines.listen("127.0.0.1")
        async with connected(node) as client:
            await dialled(client)
            node.begun.clear()
            waiting = asyncio.ensure_future(get(client, "wait"))
            await node.until(lambda: node.begun == ["wait"])
            waiting.cancel()
            await asyncio.wait([waiting])
        await node.until(lambda: bool(node.cancelled))
        await node.lines.close()
        assert not node.lines.lines
        return node.cancelled

    assert asyncio.run(story()) == ["wait"]


def test_a_node_that_stops_answers_what_it_began_by_line() -> None:
    async def story() -> list[str]:
        node = LinedNode()
        async with lined(node) as client:
            waiting = asyncio.ensure_future(get(client, "wait"))
            await node.until(lambda: node.begun == ["wait"])
            line = line_of(client)
            assert line is not None
            node.lines.end()
            node.gate.set()
            await waiting
            async with asyncio.timeout(LIMIT_S):
                await line._ended.wait()
            assert line.is_over
            return node.begun

    assert asyncio.run(story()) == ["wait"]


@pytest.mark.parametrize("port_is", ["closed", "deaf", "of somebody else"])
def test_where_no_node_takes_lines_calls_go_by_grpc(port_is: str) -> None:
    async def story() -> None:
        node = LinedNode()
        await node.lines.listen("127.0.0.1")
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            port = other.getsockname()[1]
            if port_is == "deaf":
                other.listen(1)
            if port_is == "of somebody else":
                # A key that is not that of the node that listens there.
                port = node.lines.place.port
            node.offered = Place(port, bytes(_records.KEY_BYTES))
            async with connected(node) as client:
                for _ in range(CALLS_BEFORE + 1):
                    await get(client, "m@before")
                await get(client, "m@main")
                await settled(client)
                assert line_of(client) is None
                # Not dialled again at once.
                await get(client, "m@main")
                assert client.nodes.sole.carrying._line._dialling is None
        await node.lines.close()

    asyncio.run(story())


def test_a_node_that_is_started_anew_is_dialled_anew() -> None:
    async def story() -> bool:
        node = LinedNode()
        node.offered = Place(1, bytes(_records.KEY_BYTES))
        await node.lines.listen("127.0.0.1")
        try:
            async with connected(node) as client:
                await dialled(client)
                assert line_of(client) is None
                node.offered = node.lines.place
                client.nodes.look_again()
                await get(client, "m@main")
                await settled(client)
                return line_of(client) is not None
        finally:
            await node.lines.close()

    assert asyncio.run(story())


def test_a_node_that_is_silent_is_asked_and_then_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_lines, "LOOK_S", 0.02)
    monkeypatch.setattr(call_lines, "SILENCE_S", 0.05)
    monkeypatch.setattr(call_lines, "GIVE_UP_S", 0.5)

    async def story() -> tuple[bytes, bool]:
        heard = bytearray()
        has_ended = asyncio.Event()

        async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            greeting = await reader.readexactly(len(_records.CALL_WORD) + _records.KEY_BYTES)
            writer.write(greeting)
            # As a process that was stopped: its kernel takes what comes.
            with suppress(ConnectionResetError):
                while data := await reader.read(1 << 16):
                    heard.extend(data)
            writer.close()
            has_ended.set()

        server = await asyncio.start_server(listen, "127.0.0.1", 0)
        place = Place(server.sockets[0].getsockname()[1], bytes(_records.KEY_BYTES))
        line = await LineCarrier.open("127.0.0.1:1", place, ACCOUNT)
        with pytest.raises(Exception, match="does not answer"):
            await line.call("a.b", b"", LIMIT_S)
        await line._ended.wait()
        await has_ended.wait()
        server.close()
        return bytes(heard), line.is_over

    heard, is_over = asyncio.run(story())
    assert is_over
    assert heard.endswith(struct.pack(">I", 0))


def test_a_node_that_works_for_long_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_lines, "LOOK_S", 0.01)
    monkeypatch.setattr(call_lines, "SILENCE_S", 0.03)
    monkeypatch.setattr(call_lines, "GIVE_UP_S", 2.0)

    async def story() -> int:
        node = LinedNode()
        asked = 0
        take = calls.CallGroup.take

        def counted(self: calls.CallGroup, request: pb.CarryCallsRequest) -> None:
            nonlocal asked
            asked += not request.calls and not request.cancelled_ids
            node.moved.set()
            take(self, request)

        async with lined(node) as client:
            monkeypatch.setattr(calls.CallGroup, "take", counted)
            waiting = asyncio.ensure_future(get(client, "wait"))
            await node.until(lambda: asked >= 3)
            node.gate.set()
            await waiting
            assert node.begun == ["wait"]
            return asked

    assert asyncio.run(story()) >= 3


def test_a_line_that_carries_nothing_is_ended_and_dialled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_lines, "LOOK_S", 0.01)
    monkeypatch.setattr(call_lines, "IDLE_S", 0.05)

    async def story() -> bool:
        node = LinedNode()
        async with lined(node) as client:
            first = line_of(client)
            assert first is not None
            async with asyncio.timeout(LIMIT_S):
                await first._ended.wait()
            await get(client, "m@main")
            await settled(client)
            return line_of(client) is not first

    assert asyncio.run(story())


Said = Callable[[Place], bytes]


def record(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def message(*asked: pb.Call) -> bytes:
    return record(pb.CarryCallsRequest(calls=asked).SerializeToString())


@pytest.mark.parametrize(
    "said",
    [
        lambda place: b"GET / HTTP/1.1\r\nHost: somebody\r\n\r\n",
        lambda place: b"mcr-line-1\n" + place.key,
        lambda place: b"mcr-call-1\n" + bytes(len(place.key)),
        lambda place: b"mcr-call-1\n" + place.key + record(bytes(200)),
        lambda place: b"mcr-call-1\n" + place.key + struct.pack(">I", (1 << 32) - 1),
        lambda place: b"mcr-call-1\n" + place.key + record(ACCOUNT) + record(b"\xff\xff"),
        lambda place: b"mcr-call-1\n" + place.key + record(ACCOUNT) + message(call(1, "wait"), call(1)),
    ],
)
def test_a_line_that_makes_no_sense_is_ended(said: Said) -> None:
    async def story(place: Place, node: LinedNode) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
        writer.write(said(place))
        try:
            answered = await reader.read()
        except ConnectionResetError:
            answered = b""
        assert answered in (b"", b"mcr-call-1\n" + place.key)
        writer.close()

    asyncio.run(listening(story))


def test_who_only_connects_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_lines, "GREET_S", 0.05)

    async def story(place: Place, node: LinedNode) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()

    asyncio.run(listening(story))


def test_more_than_a_line_may_have_under_way_waits_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "CALLS_PER_STREAM_MAX", 2)

    async def story(place: Place, node: LinedNode) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
        writer.write(
            b"mcr-call-1\n" + place.key + record(ACCOUNT) + message(call(1, "wait"), call(2, "wait"))
        )
        await reader.readexactly(len(b"mcr-call-1\n" + place.key))
        await node.until(lambda: len(node.begun) == 2)
        (line,) = node.lines.lines
        assert line.transport is not None
        assert not line.transport.is_reading()
        writer.write(message(call(3)))
        node.gate.set()
        records, answered = Records(1 << 20), set[int]()
        while len(answered) < 3:
            for data in records.take(await reader.read(1 << 16)):
                answered |= {each.id for each in pb.CarryCallsResponse.FromString(data).answers}
        assert node.begun == ["wait", "wait", "now"]
        writer.close()

    asyncio.run(listening(story))


async def listening(story: Callable[[Place, LinedNode], Awaitable[None]]) -> None:
    node = LinedNode()
    await node.lines.listen("127.0.0.1")
    try:
        async with asyncio.timeout(LIMIT_S):
            await story(node.lines.place, node)
    finally:
        await node.lines.close()


def test_records_come_out_as_they_went_in_wherever_they_are_cut() -> None:
    said = [bytes([each]) * (each * 37 % 500) for each in range(60)]
    stream = b"".join(map(_records.packed, said))
    for step in (1, 2, 3, 7, 64, 1000, len(stream)):
        records, found = Records(500), list[bytes]()
        for begin in range(0, len(stream), step):
            found += records.take(stream[begin : begin + step])
        assert found == said
    with pytest.raises(RecordError, match="501 bytes"):
        Records(500).take(struct.pack(">I", 501))
