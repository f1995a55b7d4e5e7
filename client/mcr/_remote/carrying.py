"""Small calls as parts of messages to a node: what is ready at once goes together.

A call of gRPC costs the client a third of a millisecond and the node half of one, before anything is done; a
message of a stream half of that, however many calls it carries; a record of a line a tenth. Deadlines and
refusals are those of ordinary calls, so whoever makes a call cannot tell which way it went. A node of an
older release does not know lines, or not even the stream, and is called in the way that it knows.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from mcr._records import Place
from mcr._remote.call_lines import CallLine
from mcr._remote.carriers import Carrier, Metadata, NotCarriedError, StreamCarrier
from mcr.model import KIB

_PREFIX = "/mcr.v1."
# What is called often, and is small both ways. All else goes by itself, lest it hold these up.
CARRIED = frozenset(
    {
        f"{_PREFIX}ChunksService/FindMissing",
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
# A node that does not know the stream is asked again after so long: it may have been brought up to date.
UNKNOWN_S = 600.0
# Who calls, in the metadata of a call.
ACCOUNT_KEY = "mcr-account-bin"

Result = TypeVar("Result")
Answer = TypeVar("Answer", covariant=True)


class Rpc(Protocol[Answer]):
    """A call as the stubs make it."""

    def __call__(self, request: Message, *, timeout: float | None, metadata: Metadata) -> Awaitable[Answer]:
        """Make it."""


class CarryingChannel:
    """Takes the place of a channel for stubs: small calls go by line or stream, all others by themselves."""

    def __init__(self, channel: grpc.aio.Channel, address: str) -> None:
        """Carry what goes to the node at `address` over `channel`."""
        self._channel: Any = channel
        self._stream: StreamCarrier | None = None
        self._metadata: Metadata | None = None
        self._account = b""
        self._line = CallLine(address)
        # Until when nothing is carried, and single methods are not.
        self._unknown_until_s = 0.0
        self._strange: dict[str, float] = {}

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
            unknown_until_s = max(self._unknown_until_s, self._strange.get(path, 0.0))
            if len(data) <= REQUEST_BYTES_MAX and _now_s() >= unknown_until_s:
                try:
                    return response_deserializer(await self._carry(method, data, timeout, metadata))
                except NotCarriedError:
                    self._unknown_until_s = _now_s() + UNKNOWN_S
                except grpc.aio.AioRpcError as error:
                    # The node carries calls, but not yet this one.
                    if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                        raise
                    self._strange[path] = _now_s() + UNKNOWN_S
            return await plain(request, timeout=timeout, metadata=metadata)

        return call

    def offer(self, place: Place) -> None:
        """Know where the node takes lines."""
        self._line.offer(place)

    async def _carry(self, method: str, data: bytes, timeout_s: float | None, metadata: Metadata) -> bytes:
        if self._metadata is None:
            self._metadata, self._account = metadata, _account(metadata)
        assert self._metadata == metadata, "one client speaks in one name"
        carrier: Carrier | None = self._line.find(self._account)
        if carrier is None:
            if self._stream is None or self._stream.is_over:
                self._stream = StreamCarrier(self._channel, metadata)
            carrier = self._stream
        return await carrier.call(method, data, timeout_s)

    async def end(self) -> None:
        """End stream and line; calls under way fail."""
        await self._line.close()
        if self._stream is not None:
            await self._stream.close()


def _account(metadata: Metadata) -> bytes:
    found = dict(metadata).get(ACCOUNT_KEY, b"")
    assert isinstance(found, bytes), "as keys that end in -bin have it"
    return found


def _now_s() -> float:
    return asyncio.get_running_loop().time()
