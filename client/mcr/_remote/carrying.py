"""Small calls as parts of messages on one stream to a node: what is ready at once goes together.

A call of gRPC costs the client a third of a millisecond and the node half of one, before anything is done; a
message of the stream half of that, however many calls it carries. Deadlines and refusals are those of
ordinary calls, so whoever makes a call cannot tell which way it went. A node of an older release does not
know the stream, and is called in the ordinary way.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from mcr._remote.status import METADATA_KEY
from mcr.blocking import settle
from mcr.model import KIB
from mcr.v1 import calls_pb2 as pb

_PREFIX = "/mcr.v1."
# What is called often, and is small both ways. All else goes by itself, lest it hold these up.
CARRIED = frozenset(
    {
        f"{_PREFIX}ReceiptsService/Acknowledge",
        f"{_PREFIX}SessionsService/GetSession",
        f"{_PREFIX}SessionsService/PutPart",
        f"{_PREFIX}TrashService/HoldUpload",
        f"{_PREFIX}TrashService/ReleaseUpload",
        f"{_PREFIX}VersionsService/BatchReportMetrics",
        f"{_PREFIX}VersionsService/CommitVersion",
        f"{_PREFIX}VersionsService/CreateRef",
        f"{_PREFIX}VersionsService/GetVersion",
        f"{_PREFIX}VersionsService/MoveChannel",
        f"{_PREFIX}VersionsService/ReportMetrics",
        f"{_PREFIX}VersionsService/RollbackChannel",
    }
)
# A larger request goes by itself.
REQUEST_BYTES_MAX = 256 * KIB
# Of one message; far below what a node takes.
BATCH_BYTES_MAX = 1024 * KIB
BATCH_CALLS_MAX = 512
# A stream on which nothing is under way is ended after so long: idle clients shall cost a node nothing.
IDLE_S = 20.0
# A node that does not know the stream is asked again after so long: it may have been brought up to date.
UNKNOWN_S = 600.0
MS_PER_S = 1000

Metadata = Sequence[tuple[str, str | bytes]]
Result = TypeVar("Result")
Answer = TypeVar("Answer", covariant=True)


class _NotCarriedError(Exception):
    """The node does not know the stream; nothing was done."""


class Rpc(Protocol[Answer]):
    """A call as the stubs make it."""

    def __call__(self, request: Message, *, timeout: float | None, metadata: Metadata) -> Awaitable[Answer]:
        """Make it."""


class CarryingChannel:
    """Takes the place of a channel for stubs: small calls go over the stream, all others by themselves."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel: Any = channel
        self._stream: _Stream | None = None
        self._unknown_until_s = 0.0

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 (whatever the channel has)
        return getattr(self._channel, name)

    def unary_unary(
        self,
        path: str,
        request_serializer: Callable[[Message], bytes],
        response_deserializer: Callable[[bytes], Result],
        **options: Any,  # noqa: ANN401 (those of grpc's own generated code)
    ) -> Rpc[Result]:
        """Return the call of one method."""
        plain: Rpc[Result] = self._channel.unary_unary(
            path,
            request_serializer=request_serializer,
            response_deserializer=response_deserializer,
            **options,
        )
        if path not in CARRIED:
            return plain
        method = path[1:].replace("/", ".")

        async def call(request: Message, *, timeout: float | None, metadata: Metadata) -> Result:  # noqa: ASYNC109 (the name is grpc's)
            data = request_serializer(request)
            if len(data) <= REQUEST_BYTES_MAX and _now_s() >= self._unknown_until_s:
                try:
                    return response_deserializer(await self._carry(method, data, timeout, metadata))
                except _NotCarriedError:
                    self._unknown_until_s = _now_s() + UNKNOWN_S
            return await plain(request, timeout=timeout, metadata=metadata)

        return call

    async def _carry(self, method: str, data: bytes, timeout_s: float | None, metadata: Metadata) -> bytes:
        stream = self._stream
        if stream is None or stream.is_over:
            stream = self._stream = _Stream(self._channel, metadata)
        assert stream.metadata == metadata, "one client speaks in one name"
        return await stream.call(method, data, timeout_s)

    async def end(self) -> None:
        """End the stream; calls under way fail."""
        if self._stream is not None:
            await self._stream.close()


class _Stream:
    """One stream, until it ends. Used on one event loop."""

    def __init__(self, channel: Any, metadata: Metadata) -> None:  # noqa: ANN401 (types of grpc lack half of it)
        self.metadata = metadata
        self.is_over = False
        self._call: Any = channel.stream_stream(
            "/mcr.v1.CallsService/CarryCalls",
            request_serializer=pb.CarryCallsRequest.SerializeToString,
            response_deserializer=pb.CarryCallsResponse.FromString,
        )(metadata=metadata)
        self._last_id = 0
        self._unsent: dict[int, pb.Call] = {}
        self._cancelled: list[int] = []
        self._waiting: dict[int, asyncio.Future[pb.CallAnswer]] = {}
        self._filled = asyncio.Event()
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._write())]

    async def call(self, method: str, data: bytes, timeout_s: float | None) -> bytes:
        """Make a call.

        Raises:
            AioRpcError: as of an ordinary call.
            _NotCarriedError: there is no such stream to this node.
        """
        self._last_id += 1
        call_id = self._last_id
        call = pb.Call(id=call_id, method=method, request=data)
        if timeout_s is not None:
            call.timeout_ms = max(1, int(timeout_s * MS_PER_S))
        answered: asyncio.Future[pb.CallAnswer] = asyncio.get_running_loop().create_future()
        self._waiting[call_id] = answered
        self._unsent[call_id] = call
        self._filled.set()
        try:
            async with asyncio.timeout(timeout_s):
                answer = await answered
        except TimeoutError:
            raise _failure(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded") from None
        finally:
            if self._waiting.pop(call_id, None) is not None and self._unsent.pop(call_id, None) is None:
                # The node works on what nobody waits for.
                self._cancelled.append(call_id)
                self._filled.set()
        if answer.HasField("refusal"):
            raise _refusal(answer.refusal)
        return answer.response

    async def close(self) -> None:
        """End it; what is under way fails."""
        self._call.cancel()
        await settle(self._tasks)
        self._fail(lambda: _failure(grpc.StatusCode.CANCELLED, "the client was closed"))

    async def _read(self) -> None:
        try:
            while isinstance(response := await self._call.read(), pb.CarryCallsResponse):
                for answer in response.answers:
                    waiting = self._waiting.pop(answer.id, None)
                    if waiting is not None and not waiting.done():
                        waiting.set_result(answer)
        except grpc.aio.AioRpcError as ended:
            self._fail(partial(_of_stream, ended))
        else:
            self._fail(lambda: _failure(grpc.StatusCode.UNAVAILABLE, "the node ended the stream"))

    def _fail(self, error: Callable[[], Exception]) -> None:
        self.is_over = True
        # One for each: whoever raises it adds to it.
        waiting, self._waiting = self._waiting, {}
        self._unsent.clear()
        for one in waiting.values():
            if not one.done():
                one.set_exception(error())
        self._filled.set()

    async def _write(self) -> None:
        try:
            while not self.is_over:
                if not await self._has_more():
                    self.is_over = True
                    await self._call.done_writing()
                    return
                # The callers that run in this turn of the loop come along.
                await self._call.write(self._batch())
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            # Whoever reads learns why.
            return

    async def _has_more(self) -> bool:
        """Wait for something to send; False when there was nothing for long, and nothing is under way."""
        while not self._filled.is_set():
            try:
                async with asyncio.timeout(IDLE_S):
                    await self._filled.wait()
            except TimeoutError:
                if not self._waiting:
                    return False
        self._filled.clear()
        return True

    def _batch(self) -> pb.CarryCallsRequest:
        request = pb.CarryCallsRequest(cancelled_ids=self._cancelled)
        self._cancelled.clear()
        size_bytes = 0
        while self._unsent and size_bytes < BATCH_BYTES_MAX and len(request.calls) < BATCH_CALLS_MAX:
            call = self._unsent.pop(next(iter(self._unsent)))
            size_bytes += len(call.request)
            request.calls.append(call)
        if self._unsent:
            self._filled.set()
        return request


def _refusal(refusal: pb.Refusal) -> grpc.aio.AioRpcError:
    detail = ((METADATA_KEY, refusal.detail),) if refusal.detail else ()
    return _failure(_CODES.get(refusal.status, grpc.StatusCode.UNKNOWN), refusal.message, detail)


def _of_stream(error: grpc.aio.AioRpcError) -> Exception:
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return _NotCarriedError()
    trailing = tuple(error.trailing_metadata() or ())
    return _failure(error.code(), error.details() or error.code().name, trailing)


def _failure(
    code: grpc.StatusCode, text: str, trailing: Sequence[tuple[str, Any]] = ()
) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details=text)


def _now_s() -> float:
    return asyncio.get_running_loop().time()


_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
