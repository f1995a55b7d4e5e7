"""Calls on one stream go as ordinary calls do: bounded, refused, given up and repeated alike."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from mcr._remote import carriers, carrying
from mcr._remote.calls import Calls
from mcr.addresses import Address
from mcr.errors import DeadlineError, HeadMovedError, McrError, UnavailableError
from mcr.v1 import admin_pb2 as admin
from mcr.v1 import calls_pb2 as pb
from mcr.v1 import versions_pb2
from mcr_node.runtime.clock import SystemClock
from mcr_node.services import calls
from mcr_node.services.calls import CallsEdge
from mcr_node.services.edge import Edge, unary_handlers, unary_methods
from mcr_node.telemetry import Telemetry

VERSIONS = versions_pb2.DESCRIPTOR.services_by_name["VersionsService"]
ADMIN = admin.DESCRIPTOR.services_by_name["AdminService"]
LIMIT_S = 20.0


class Node:
    """A node whose `GetVersion` does what the reference says."""

    def __init__(self, *, knows_streams: bool = True, carries: bool = True) -> None:
        self.knows_streams = knows_streams
        self.begun: list[str] = []
        self.cancelled: list[str] = []
        self.principals: set[str] = set()
        self.gate = asyncio.Event()
        self.moved = asyncio.Event()
        self.address = Address("127.0.0.1", 0)
        self.edge = Edge(SystemClock(), Telemetry())
        methods = {
            VERSIONS: unary_methods(VERSIONS, self._for),
            ADMIN: unary_methods(ADMIN, lambda _: self),
        }
        carried = {method.full_name: method for found in methods.values() for method in found.values()}
        self.calls = CallsEdge(self.edge, carried if carries else {}, lambda: "a:1")
        self.handlers: dict[str, Any] = {
            service.full_name: unary_handlers(self.edge, found) for service, found in methods.items()
        }
        if knows_streams:
            self.handlers[calls.SERVICE.full_name] = self.calls.handlers()

    def _for(self, principal: str) -> "Node":
        self.principals.add(principal)
        return self

    async def ping(self, request: admin.PingRequest) -> admin.PingResponse:
        return admin.PingResponse(name="a", ready=True)

    async def get_version(self, request: versions_pb2.GetVersionRequest) -> versions_pb2.GetVersionResponse:
        self.begun.append(request.reference)
        self.moved.set()
        if request.reference == "moved":
            raise HeadMovedError("v1", "v2")
        if request.reference.startswith("wait"):
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled.append(request.reference)
                self.moved.set()
                raise
        return versions_pb2.GetVersionResponse(log_index=len(self.begun))

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not condition():
                self.moved.clear()
                await self.moved.wait()


@asynccontextmanager
async def serving(node: Node) -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        tuple(grpc.method_handlers_generic_handler(name, table) for name, table in node.handlers.items())
    )
    node.address = Address("127.0.0.1", server.add_insecure_port("127.0.0.1:0"))
    await server.start()
    own = [("grpc.use_local_subchannel_pool", 1)]
    try:
        async with grpc.aio.insecure_channel(str(node.address), options=own) as channel:
            yield channel
    finally:
        await server.stop(None)


@asynccontextmanager
async def connected(node: Node, *, timeout_s: float | None = LIMIT_S) -> AsyncIterator[Calls]:
    async with serving(node):
        client = Calls([node.address], timeout_s=timeout_s, patience_s=2.0)
        await client.start()
        try:
            yield client
        finally:
            await client.close()


def get(client: Calls, reference: str, *, try_s: float = LIMIT_S) -> Awaitable[Any]:
    request = versions_pb2.GetVersionRequest(reference=reference)
    return client.unary(lambda way: way.versions.GetVersion, request, try_s=try_s)


@asynccontextmanager
async def raw_stream(node: Node) -> AsyncIterator[Any]:
    async with serving(node) as channel:
        open_stream: Any = channel.stream_stream(
            f"/{calls.SERVICE.full_name}/CarryCalls",
            request_serializer=pb.CarryCallsRequest.SerializeToString,
            response_deserializer=pb.CarryCallsResponse.FromString,
        )
        stream = open_stream()
        try:
            yield stream
        finally:
            stream.cancel()


def call(call_id: int, reference: str = "now", method: str = "GetVersion", timeout_ms: int = 0) -> pb.Call:
    data = versions_pb2.GetVersionRequest(reference=reference).SerializeToString()
    return pb.Call(id=call_id, method=f"{VERSIONS.full_name}.{method}", request=data, timeout_ms=timeout_ms)


def test_what_is_asked_and_answered_together_shares_a_message() -> None:
    async def story() -> tuple[int, set[int]]:
        node = Node()
        async with raw_stream(node) as stream:
            asked = pb.CarryCallsRequest(calls=[call(each, "wait") for each in range(1, 9)])
            await stream.write(asked)
            await node.until(lambda: len(node.begun) == 8)
            node.gate.set()
            answered = await stream.read()
            return len(answered.answers), {answer.id for answer in answered.answers}

    assert asyncio.run(story()) == (8, set(range(1, 9)))


def test_a_client_sends_together_what_it_asks_together(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    batch = carriers.StreamCarrier._batch

    def counted(self: carriers.StreamCarrier) -> pb.CarryCallsRequest:
        request = batch(self)
        sizes.append(len(request.calls))
        return request

    monkeypatch.setattr(carriers.StreamCarrier, "_batch", counted)

    async def story() -> set[int]:
        node = Node()
        async with connected(node) as client:
            answers = await asyncio.gather(*(get(client, f"m@{each}") for each in range(20)))
            assert len(node.principals) == 1
            return {answer.log_index for answer in answers}

    assert asyncio.run(story()) == set(range(1, 21))
    assert sizes == [20]


@pytest.mark.parametrize("knows_streams", [True, False])
def test_a_refusal_is_the_same_error_whichever_way_the_call_went(knows_streams: bool) -> None:
    async def story() -> McrError:
        node = Node(knows_streams=knows_streams)
        async with connected(node) as client:
            with pytest.raises(HeadMovedError) as refused:
                await get(client, "moved")
            # One refusal is nothing to the others.
            await get(client, "m@main")
            return refused.value

    found = asyncio.run(story())
    assert isinstance(found, HeadMovedError)
    assert (found.expected, found.actual) == ("v1", "v2")
    assert found.message == HeadMovedError("v1", "v2").message


def test_a_node_that_does_not_know_streams_is_asked_once_and_called_in_the_ordinary_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened = 0
    begin = carriers.StreamCarrier.__init__

    def counted(self: carriers.StreamCarrier, *rest: Any) -> None:  # noqa: ANN401
        nonlocal opened
        opened += 1
        begin(self, *rest)

    monkeypatch.setattr(carriers.StreamCarrier, "__init__", counted)

    async def story() -> list[str]:
        node = Node(knows_streams=False)
        async with connected(node) as client:
            for _ in range(3):
                await get(client, "m@main")
            return node.begun

    assert asyncio.run(story()) == ["m@main"] * 3
    assert opened == 1


def test_a_call_that_a_node_does_not_carry_yet_is_asked_for_once_and_made_in_the_ordinary_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused = 0
    refuse = carriers._refusal

    def counted(refusal: pb.Refusal) -> grpc.aio.AioRpcError:
        nonlocal refused
        refused += 1
        return refuse(refusal)

    monkeypatch.setattr(carriers, "_refusal", counted)

    async def story() -> None:
        node = Node(carries=False)
        async with connected(node) as client:
            for number in range(3):
                assert (await get(client, f"v{number}")).log_index == number + 1
        assert node.begun == ["v0", "v1", "v2"]

    asyncio.run(story())
    assert refused == 1


def test_a_call_ends_with_its_own_deadline_at_the_node_as_well() -> None:
    async def story() -> tuple[list[str], list[str]]:
        node = Node()
        async with raw_stream(node) as stream:
            await stream.write(pb.CarryCallsRequest(calls=[call(1, "wait", timeout_ms=50), call(2)]))
            answers: dict[int, pb.CallAnswer] = {}
            while len(answers) < 2:
                answers.update({each.id: each for each in (await stream.read()).answers})
            assert answers[2].WhichOneof("outcome") == "response"
            assert answers[1].refusal.status == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
            return node.begun, node.cancelled

    assert asyncio.run(story()) == (["wait", "now"], ["wait"])


def test_who_gives_a_call_up_lets_the_node_give_it_up() -> None:
    async def story() -> list[str]:
        node = Node()
        async with connected(node, timeout_s=0.2) as client:
            other = asyncio.ensure_future(get(client, "m@main"))
            with pytest.raises(DeadlineError, match=r"GetVersion did not finish within 0\.2 s"):
                await get(client, "wait")
            await other
            await node.until(lambda: bool(node.cancelled))
            return node.cancelled

    assert asyncio.run(story()) == ["wait"]


def test_a_try_that_takes_too_long_is_made_again() -> None:
    async def story() -> int:
        node = Node()
        async with connected(node) as client:
            trying = asyncio.ensure_future(get(client, "wait", try_s=0.3))
            await node.until(lambda: len(node.begun) == 2)
            node.gate.set()
            await trying
            return len(node.begun)

    assert asyncio.run(story()) >= 2


def test_calls_of_a_stream_that_is_lost_are_made_again_on_another_one() -> None:
    async def story() -> list[str]:
        node = Node()
        async with connected(node) as client:
            waiting = asyncio.ensure_future(get(client, "wait"))
            await node.until(lambda: bool(node.begun))
            (stream,) = node.calls._streams
            # What is left of a node that was killed.
            with pytest.raises(grpc.aio.AbortError):
                await stream._context.abort(grpc.StatusCode.UNAVAILABLE, "lost")
            node.gate.set()
            await waiting
            return node.begun

    assert asyncio.run(story()) == ["wait", "wait"]


def test_a_node_that_stops_answers_what_it_began_and_nothing_more() -> None:
    async def story() -> tuple[str, grpc.StatusCode]:
        node = Node()
        async with raw_stream(node) as stream:
            await stream.write(pb.CarryCallsRequest(calls=[call(1, "wait")]))
            await node.until(lambda: bool(node.begun))
            node.calls.end()
            await stream.write(pb.CarryCallsRequest(calls=[call(2)]))
            node.gate.set()
            (answer,) = (await stream.read()).answers
            assert (answer.id, answer.WhichOneof("outcome")) == (1, "response")
            with pytest.raises(grpc.aio.AioRpcError, match="this node is stopping") as ended:
                await stream.read()
            assert node.begun == ["wait"]
            return UnavailableError.code, ended.value.code()

    assert asyncio.run(story())[1] is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    "requests",
    [
        [pb.CarryCallsRequest(calls=[call(1, "wait")]), pb.CarryCallsRequest(calls=[call(1)])],
        [pb.CarryCallsRequest(calls=[call(each) for each in range(calls.CALLS_PER_MESSAGE_MAX + 1)])],
    ],
)
def test_a_stream_that_makes_no_sense_is_ended(requests: list[pb.CarryCallsRequest]) -> None:
    async def story() -> grpc.StatusCode:
        node = Node()
        async with raw_stream(node) as stream:
            for request in requests:
                await stream.write(request)
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await stream.read()
            return ended.value.code()

    assert asyncio.run(story()) is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (call(1, method="Nothing"), grpc.StatusCode.UNIMPLEMENTED),
        (
            pb.Call(id=1, method=f"{VERSIONS.full_name}.GetVersion", request=b"\xff"),
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
    ],
)
def test_a_call_that_makes_no_sense_is_refused_and_the_others_go_on(
    asked: pb.Call, code: grpc.StatusCode
) -> None:
    async def story() -> None:
        async with raw_stream(Node()) as stream:
            await stream.write(pb.CarryCallsRequest(calls=[asked, call(2)]))
            answers: dict[int, pb.CallAnswer] = {}
            while len(answers) < 2:
                answers.update({each.id: each for each in (await stream.read()).answers})
            assert answers[1].refusal.status == code.value[0]
            assert answers[2].WhichOneof("outcome") == "response"

    asyncio.run(story())


def test_more_than_a_stream_may_have_under_way_waits_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "CALLS_PER_STREAM_MAX", 2)

    async def story() -> list[str]:
        node = Node()
        async with raw_stream(node) as stream:
            await stream.write(pb.CarryCallsRequest(calls=[call(1, "wait"), call(2, "wait")]))
            await node.until(lambda: len(node.begun) == 2)
            await stream.write(pb.CarryCallsRequest(calls=[call(3)]))
            begun = list(node.begun)
            node.gate.set()
            answered: set[int] = set()
            while len(answered) < 3:
                answered |= {each.id for each in (await stream.read()).answers}
            return begun

    assert asyncio.run(story()) == ["wait", "wait"]


def test_calls_beyond_what_a_node_takes_are_refused_as_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "CALLS_MAX", 1)

    async def story() -> int:
        node = Node()
        async with raw_stream(node) as stream:
            await stream.write(pb.CarryCallsRequest(calls=[call(1, "wait"), call(2)]))
            (answer,) = (await stream.read()).answers
            assert answer.id == 2
            status: int = answer.refusal.status
            return status

    assert asyncio.run(story()) == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]


def test_a_stream_that_carries_nothing_is_ended_and_opened_again_when_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(carriers, "IDLE_S", 0.02)

    async def story() -> list[str]:
        node = Node()
        async with connected(node) as client:
            await get(client, "m@1")
            first = client.nodes.sole.carrying._stream
            assert first is not None
            await asyncio.wait(first._tasks, timeout=LIMIT_S)
            assert first.is_over
            await get(client, "m@2")
            return node.begun

    assert asyncio.run(story()) == ["m@1", "m@2"]


def test_what_is_large_goes_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrying, "REQUEST_BYTES_MAX", 8)

    async def story() -> bool:
        node = Node()
        async with connected(node) as client:
            await get(client, "m@a-name-that-is-long")
            return client.nodes.sole.carrying._stream is None

    assert asyncio.run(story())
