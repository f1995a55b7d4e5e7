"""mcr.v1.CallsService: many calls on one stream, begun as they come, answered together as they end."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial

import grpc
import grpc.aio
from google.protobuf.message import Message

from mcr.blocking import settle
from mcr.errors import InvalidArgumentError, McrError, UnavailableError
from mcr.v1 import calls_pb2 as pb
from mcr_node.services.edge import (
    CALL_S_MAX,
    Context,
    Edge,
    Handler,
    Limit,
    Refusal,
    UnaryMethod,
    parsed,
    principal_of,
)

SERVICE = pb.DESCRIPTOR.services_by_name["CallsService"]
METHOD = f"{SERVICE.full_name}.CarryCalls"
# Under way on all streams together; who comes beyond is refused, as gRPC does with ordinary calls.
CALLS_MAX = 4096
# Under way on one stream, or answered and not taken; beyond it nothing is read, so the client has to wait.
CALLS_PER_STREAM_MAX = 1024
CALLS_PER_MESSAGE_MAX = 1024
# What is ready is sent together up to about this much, so that a message stays far below what gRPC takes.
BATCH_BYTES_MAX = 1 << 20
MS_PER_S = 1000


class CallsEdge:
    """The service, for all streams of a node."""

    def __init__(self, edge: Edge, methods: Mapping[str, UnaryMethod], address: Callable[[], str]) -> None:
        """Serve `methods`, by full name, on the node that clients know by `address`."""
        self._edge = edge
        self._methods = methods
        self._address = address
        self._calls = Limit("calls", CALLS_MAX)
        self._streams: set[_Stream] = set()
        self._is_ending = False

    def handlers(self) -> dict[str, Handler]:
        """Return the handler of the service."""
        return {"CarryCalls": grpc.stream_stream_rpc_method_handler(self._carry)}

    def end(self) -> None:
        """Begin no more calls, and end each stream once those under way are answered."""
        self._is_ending = True
        for stream in self._streams:
            stream.end()

    async def _carry(self, _: AsyncIterator[bytes], context: Context) -> None:
        async with self._edge.call(context, METHOD, bounded=False):
            stream = _Stream(context, self._edge, self._methods, self._calls)
            self._streams.add(stream)
            try:
                if not self._is_ending:
                    await stream.serve()
            finally:
                self._streams.discard(stream)
            if self._is_ending:
                raise UnavailableError(self._address(), "this node is stopping")


class _Stream:
    """One stream of one client."""

    def __init__(
        self, context: Context, edge: Edge, methods: Mapping[str, UnaryMethod], limit: Limit
    ) -> None:
        self._context = context
        self._edge = edge
        self._methods = methods
        self._limit = limit
        self._principal = principal_of(context)
        self._under_way: dict[int, asyncio.Task[pb.CallAnswer]] = {}
        self._answers: list[pb.CallAnswer] = []
        # Something was answered, or ended without an answer, or nothing more will come.
        self._moved = asyncio.Event()
        self._room = asyncio.Event()
        self._is_over = False
        self._failure: McrError | None = None

    def end(self) -> None:
        """Take nothing more in."""
        self._is_over = True
        self._moved.set()

    async def serve(self) -> None:
        """Serve until the client ends the stream, or `end`, and what was begun is answered.

        Raises:
            InvalidArgumentError: the client sent what makes no sense.
        """
        reading = asyncio.create_task(self._read())
        try:
            while self._answers or self._under_way or not self._is_over:
                await self._moved.wait()
                self._moved.clear()
                if self._failure is not None:
                    raise self._failure
                while self._answers:
                    await self._context.write(self._batch())
                    self._room.set()
        finally:
            await settle([reading, *self._under_way.values()])

    def _batch(self) -> bytes:
        count = size_bytes = 0
        while count < len(self._answers) and size_bytes < BATCH_BYTES_MAX:
            size_bytes += self._answers[count].ByteSize()
            count += 1
        response = pb.CarryCallsResponse(answers=self._answers[:count])
        del self._answers[:count]
        return response.SerializeToString()

    async def _read(self) -> None:
        try:
            while not self._is_over:
                data = await self._context.read()
                if not isinstance(data, bytes):
                    # The client has nothing more to ask.
                    return
                if self._is_over:
                    return
                self._take(parsed(pb.CarryCallsRequest, data))
                while len(self._under_way) + len(self._answers) >= CALLS_PER_STREAM_MAX:
                    self._room.clear()
                    await self._room.wait()
        except McrError as error:
            self._failure = error
        finally:
            self.end()

    def _take(self, request: pb.CarryCallsRequest) -> None:
        if len(request.calls) > CALLS_PER_MESSAGE_MAX:
            raise InvalidArgumentError(
                "calls", f"there are {len(request.calls)}; {CALLS_PER_MESSAGE_MAX} at most"
            )
        for call_id in request.cancelled_ids:
            if (task := self._under_way.get(call_id)) is not None:
                task.cancel()
        for call in request.calls:
            if call.id in self._under_way:
                raise InvalidArgumentError("id", f"{call.id} is that of a call under way")
            task = asyncio.create_task(self._answer(call))
            self._under_way[call.id] = task
            task.add_done_callback(partial(self._done, call.id))

    def _done(self, call_id: int, task: asyncio.Task[pb.CallAnswer]) -> None:
        # Here and not in the task: one that is cancelled before it begins runs no line of its own.
        del self._under_way[call_id]
        if not task.cancelled():
            self._answers.append(task.result())
        self._moved.set()
        self._room.set()

    async def _answer(self, call: pb.Call) -> pb.CallAnswer:
        method = self._methods.get(call.method)
        if method is None:
            return _refused(call, Refusal(grpc.StatusCode.UNIMPLEMENTED, "Method not found!", b""))
        left_s = call.timeout_ms / MS_PER_S if call.timeout_ms else CALL_S_MAX
        work = partial(self._serve, method, call.request)
        outcome = await self._edge.carried(method.full_name, left_s, work)
        if isinstance(outcome, Refusal):
            return _refused(call, outcome)
        return pb.CallAnswer(id=call.id, response=outcome.SerializeToString())

    async def _serve(self, method: UnaryMethod, data: bytes) -> Message:
        with self._limit:
            return await method.serve(data, self._principal)


def _refused(call: pb.Call, refusal: Refusal) -> pb.CallAnswer:
    code: int = refusal.status.value[0]
    return pb.CallAnswer(
        id=call.id, refusal=pb.Refusal(status=code, message=refusal.text, detail=refusal.detail)
    )
