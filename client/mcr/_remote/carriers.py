"""What small calls are carried on, as parts of messages: a stream of gRPC, and what it shares with a line."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import grpc
import grpc.aio

from mcr._remote.status import METADATA_KEY
from mcr.blocking import settle
from mcr.model import KIB
from mcr.v1 import calls_pb2 as pb

# Of one message; far below what a node takes.
BATCH_BYTES_MAX = 1024 * KIB
BATCH_CALLS_MAX = 512
# Where nothing is under way, stream or line is ended after so long: idle clients shall cost a node nothing.
IDLE_S = 20.0
MS_PER_S = 1000

Metadata = Sequence[tuple[str, str | bytes]]


class NotCarriedError(Exception):
    """The node does not know the stream; nothing was done."""


class Carrier(ABC):
    """Calls under way, until what carries them ends. Used on one event loop."""

    def __init__(self) -> None:
        self.is_over = False
        self._last_id = 0
        self._unsent: dict[int, pb.Call] = {}
        self._cancelled: list[int] = []
        self._waiting: dict[int, asyncio.Future[pb.CallAnswer]] = {}

    async def call(self, method: str, data: bytes, timeout_s: float | None) -> bytes:
        """Make a call.

        Raises:
            AioRpcError: as of an ordinary call.
            NotCarriedError: calls are not carried this way to this node.
        """
        self._last_id += 1
        call_id = self._last_id
        call = pb.Call(id=call_id, method=method, request=data)
        if timeout_s is not None:
            call.timeout_ms = max(1, int(timeout_s * MS_PER_S))
        answered: asyncio.Future[pb.CallAnswer] = asyncio.get_running_loop().create_future()
        self._waiting[call_id] = answered
        self._unsent[call_id] = call
        self._filled()
        try:
            async with asyncio.timeout(timeout_s):
                answer = await answered
        except TimeoutError:
            raise failure(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded") from None
        finally:
            if self._waiting.pop(call_id, None) is not None and self._unsent.pop(call_id, None) is None:
                # The node works on what nobody waits for.
                self._cancelled.append(call_id)
                self._filled()
        if answer.HasField("refusal"):
            raise _refusal(answer.refusal)
        return answer.response

    @abstractmethod
    async def close(self) -> None:
        """End it; what is under way fails."""

    @abstractmethod
    def _filled(self) -> None:
        """There is something to send."""

    @property
    def _has_unsent(self) -> bool:
        return bool(self._unsent or self._cancelled)

    def _batch(self) -> pb.CarryCallsRequest:
        request = pb.CarryCallsRequest(cancelled_ids=self._cancelled)
        self._cancelled.clear()
        size_bytes = 0
        while self._unsent and size_bytes < BATCH_BYTES_MAX and len(request.calls) < BATCH_CALLS_MAX:
            call = self._unsent.pop(next(iter(self._unsent)))
            size_bytes += len(call.request)
            request.calls.append(call)
        return request

    def _take(self, response: pb.CarryCallsResponse) -> None:
        for answer in response.answers:
            waiting = self._waiting.pop(answer.id, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(answer)

    def _fail(self, error: Callable[[], Exception]) -> None:
        self.is_over = True
        # One for each: whoever raises it adds to it.
        waiting, self._waiting = self._waiting, {}
        self._unsent.clear()
        self._cancelled.clear()
        for one in waiting.values():
            if not one.done():
                one.set_exception(error())


class StreamCarrier(Carrier):
    """One stream of gRPC."""

    def __init__(self, channel: Any, metadata: Metadata) -> None:  # noqa: ANN401 (types of grpc lack half of it)
        super().__init__()
        self._call: Any = channel.stream_stream(
            "/mcr.v1.CallsService/CarryCalls",
            request_serializer=pb.CarryCallsRequest.SerializeToString,
            response_deserializer=pb.CarryCallsResponse.FromString,
        )(metadata=metadata)
        self._moved = asyncio.Event()
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._write())]

    async def close(self) -> None:
        """See Carrier."""
        self._call.cancel()
        await settle(self._tasks)
        self._fail(lambda: failure(grpc.StatusCode.CANCELLED, "the client was closed"))

    def _filled(self) -> None:
        self._moved.set()

    async def _read(self) -> None:
        try:
            while isinstance(response := await self._call.read(), pb.CarryCallsResponse):
                self._take(response)
        except grpc.aio.AioRpcError as ended:
            self._fail(partial(_of_stream, ended))
        else:
            self._fail(lambda: failure(grpc.StatusCode.UNAVAILABLE, "the node ended the stream"))

    def _fail(self, error: Callable[[], Exception]) -> None:
        super()._fail(error)
        self._moved.set()

    async def _write(self) -> None:
        try:
            while not self.is_over:
                if not await self._has_more():
                    self.is_over = True
                    await self._call.done_writing()
                    return
                # The callers that run in this turn of the loop come along.
                await self._call.write(self._batch())
                if self._has_unsent:
                    self._moved.set()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            # Whoever reads learns why.
            return

    async def _has_more(self) -> bool:
        """Wait for something to send; False when there was nothing for long, and nothing is under way."""
        while not self._moved.is_set():
            try:
                async with asyncio.timeout(IDLE_S):
                    await self._moved.wait()
            except TimeoutError:
                if not self._waiting:
                    return False
        self._moved.clear()
        return True


def _refusal(refusal: pb.Refusal) -> grpc.aio.AioRpcError:
    detail = ((METADATA_KEY, refusal.detail),) if refusal.detail else ()
    return failure(_CODES.get(refusal.status, grpc.StatusCode.UNKNOWN), refusal.message, detail)


def _of_stream(error: grpc.aio.AioRpcError) -> Exception:
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return NotCarriedError()
    trailing = tuple(error.trailing_metadata() or ())
    return failure(error.code(), error.details() or error.code().name, trailing)


def failure(
    code: grpc.StatusCode, text: str, trailing: Sequence[tuple[str, Any]] = ()
) -> grpc.aio.AioRpcError:
    """Return the error of a call that failed, as gRPC would raise it."""
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details=text)


_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
