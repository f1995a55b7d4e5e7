"""mcr.v1.CallsService: many calls on one stream, begun as they come, answered together as they end.

The same over a plain TCP connection: `mcr_node.services.call_lines`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial

import grpc
import grpc.aio
from google.protobuf.message import Message

from mcr.blocking import settle
from mcr.errors import InvalidArgumentError, McrError, UnavailableError
from mcr.v1 import calls_pb2 as pb
from mcr.values import dataclass
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


@dataclass(frozen=True, slots=True, eq=False)
class Carried:
    """What may be called, and how many of it at once.

    Attributes:
        methods: by full name.
        limit: of all streams and lines of the node together.
    """

    edge: Edge
    methods: Mapping[str, UnaryMethod]
    limit: Limit


class CallGroup:
    """The calls of one stream or line of one client. On the event loop."""

    def __init__(self, carried: Carried, principal: str, on_moved: Callable[[], None]) -> None:
        """Make calls for `principal`; `on_moved` is called when one was answered, or ended without that."""
        self._carried = carried
        self._principal = principal
        self._on_moved = on_moved
        self._under_way: dict[int, asyncio.Task[None]] = {}
        self._answers: list[pb.CallAnswer] = []
        # The client asked whether anybody is there.
        self._is_asked = False

    @property
    def has_answers(self) -> bool:
        """Whether there is something to send."""
        return bool(self._answers or self._is_asked)

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is under way."""
        return not self._under_way

    @property
    def is_done(self) -> bool:
        """Whether all that was begun is answered, and taken."""
        return not (self._answers or self._under_way)

    @property
    def is_full(self) -> bool:
        """Whether nothing more should be taken in now."""
        return len(self._under_way) + len(self._answers) >= CALLS_PER_STREAM_MAX

    def take(self, request: pb.CarryCallsRequest) -> None:
        """Begin what a message asks for.

        Raises:
            InvalidArgumentError: it makes no sense.
        """
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
            task = asyncio.create_task(self._serve(call))
            self._under_way[call.id] = task
            task.add_done_callback(partial(self._done, call.id))
        if not (request.calls or request.cancelled_ids):
            self._is_asked = True
            self._on_moved()

    def batch(self) -> bytes:
        """Return the next response, encoded; what is in it was taken."""
        count = size_bytes = 0
        while count < len(self._answers) and size_bytes < BATCH_BYTES_MAX:
            size_bytes += self._answers[count].ByteSize()
            count += 1
        response = pb.CarryCallsResponse(answers=self._answers[:count])
        del self._answers[:count]
        self._is_asked = False
        return response.SerializeToString()

    def cancel(self) -> list[asyncio.Task[None]]:
        """Give up what is under way; return it."""
        given_up = list(self._under_way.values())
        for task in given_up:
            task.cancel()
        return given_up

    def _done(self, call_id: int, task: asyncio.Task[None]) -> None:
        if self._under_way.get(call_id) is task:
            # Not answered. Here and not in the task: one that is cancelled before it begins runs no line of
            # its own.
            del self._under_way[call_id]
            self._on_moved()
        if not task.cancelled():
            task.result()

    async def _serve(self, call: pb.Call) -> None:
        answer = await self._answer(call)
        # At once: until the task counts as done, a turn of the loop passes.
        del self._under_way[call.id]
        self._answers.append(answer)
        self._on_moved()

    async def _answer(self, call: pb.Call) -> pb.CallAnswer:
        method = self._carried.methods.get(call.method)
        if method is None:
            return _refused(call, Refusal(grpc.StatusCode.UNIMPLEMENTED, "Method not found!", b""))
        left_s = call.timeout_ms / MS_PER_S if call.timeout_ms else CALL_S_MAX
        work = partial(self._limited, method, call.request)
        outcome = await self._carried.edge.carried(method.full_name, left_s, work)
        if isinstance(outcome, Refusal):
            return _refused(call, outcome)
        return pb.CallAnswer(id=call.id, response=outcome.SerializeToString())

    async def _limited(self, method: UnaryMethod, data: bytes) -> Message:
        with self._carried.limit:
            return await method.serve(data, self._principal)


def _refused(call: pb.Call, refusal: Refusal) -> pb.CallAnswer:
    code: int = refusal.status.value[0]
    return pb.CallAnswer(
        id=call.id, refusal=pb.Refusal(status=code, message=refusal.text, detail=refusal.detail)
    )


class CallsEdge:
    """The service, for all streams of a node."""

    def __init__(self, edge: Edge, methods: Mapping[str, UnaryMethod], address: Callable[[], str]) -> None:
        """Serve `methods`, by full name, on the node that clients know by `address`."""
        self.carried = Carried(edge, methods, Limit("calls", CALLS_MAX))
        self._edge = edge
        self._address = address
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
            stream = _Stream(context, self.carried)
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

    def __init__(self, context: Context, carried: Carried) -> None:
        self._context = context
        self._group = CallGroup(carried, principal_of(context), self._move)
        # Something was answered, or ended without an answer, or nothing more will come.
        self._moved = asyncio.Event()
        self._room = asyncio.Event()
        self._is_over = False
        self._failure: McrError | None = None

    def end(self) -> None:
        """Take nothing more in."""
        self._is_over = True
        self._moved.set()

    def _move(self) -> None:
        self._moved.set()
        self._room.set()

    async def serve(self) -> None:
        """Serve until the client ends the stream, or `end`, and what was begun is answered.

        Raises:
            InvalidArgumentError: the client sent what makes no sense.
        """
        reading = asyncio.create_task(self._read())
        try:
            while not (self._group.is_done and self._is_over):
                await self._moved.wait()
                self._moved.clear()
                if self._failure is not None:
                    raise self._failure
                while self._group.has_answers:
                    await self._context.write(self._group.batch())
                    self._room.set()
        finally:
            await settle([reading, *self._group.cancel()])

    async def _read(self) -> None:
        try:
            while not self._is_over:
                data = await self._context.read()
                if not isinstance(data, bytes):
                    # The client has nothing more to ask.
                    return
                if self._is_over:
                    return
                self._group.take(parsed(pb.CarryCallsRequest, data))
                while self._group.is_full:
                    self._room.clear()
                    await self._room.wait()
        except McrError as error:
            self._failure = error
        finally:
            self.end()
