"""The services behind gRPC: who calls, how long it may take, what a refusal looks like on the wire.

Every unary rpc of a service is served by the method of the same name in snake case, so a new rpc needs its
method and nothing here.
"""

import asyncio
import re
import unicodedata
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import field
from typing import Any, TypeAlias, TypeVar

import grpc
import grpc.aio
from google.protobuf import message_factory
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import DecodeError, Message

from mcr.errors import DeadlineError, FailedError, InvalidArgumentError, McrError, NodeBusyError
from mcr.values import dataclass
from mcr_node.ports import Clock
from mcr_node.services import errors, statuses
from mcr_node.services.deadlines import set_time_left
from mcr_node.telemetry import Telemetry

Request = TypeVar("Request", bound=Message)
Context = grpc.aio.ServicerContext[Any, Any]
# In quotes: generic for type checkers only.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
# A caller that names no deadline, or one beyond all need, gets this one; long enough to look through the
# manifest of a model with millions of chunks.
CALL_S_MAX = 600.0
ACCOUNT_KEY = "mcr-account-bin"
ACCOUNT_BYTES_MAX = 128
# Nobody is authenticated yet: records name whoever the client says it is, and say so.
UNVERIFIED = "unverified:"


class UnderWay:
    """How many calls are under way, for a node that stops once there are none."""

    def __init__(self) -> None:
        self._now = 0
        self._none = asyncio.Event()
        self._none.set()

    def __enter__(self) -> None:
        self._now += 1
        self._none.clear()

    def __exit__(self, *_: object) -> None:
        self._now -= 1
        if not self._now:
            self._none.set()

    async def wait_none(self) -> None:
        """Wait until none is."""
        await self._none.wait()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a call failed, as its caller is told."""

    status: grpc.StatusCode
    text: str
    detail: bytes


@dataclass(frozen=True, slots=True)
class Edge:
    """What every call needs."""

    clock: Clock
    telemetry: Telemetry
    under_way: UnderWay = field(default_factory=UnderWay)

    @asynccontextmanager
    async def call(self, context: Context, method: str, *, bounded: bool = True) -> AsyncIterator[None]:
        """Bound a call, and turn what it raises into a status for the client."""
        start_ns = self.clock.monotonic_ns()
        left_s = _time_left_s(context) if bounded else None
        set_time_left(left_s)
        try:
            with self.under_way:
                async with asyncio.timeout(left_s):
                    yield
        except BaseException as error:  # noqa: BLE001 (`refuse` raises what is not for the client)
            await self.refuse(context, method, start_ns, error)
        else:
            self.telemetry.observe(method, "OK", self.clock.monotonic_ns() - start_ns)

    async def unary(self, context: Context, method: str, work: Callable[[], Awaitable[Message]]) -> Message:
        """Do a call of one request and one response as `call` does, but without the cost of a generator."""
        start_ns = self.clock.monotonic_ns()
        left_s = _time_left_s(context)
        set_time_left(left_s)
        try:
            with self.under_way:
                async with asyncio.timeout(left_s):
                    response = await work()
        except BaseException as error:
            await self.refuse(context, method, start_ns, error)
            raise
        self.telemetry.observe(method, "OK", self.clock.monotonic_ns() - start_ns)
        return response

    async def carried(
        self, method: str, left_s: float, work: Callable[[], Awaitable[Message]]
    ) -> Message | Refusal:
        """Do a call that is a part of a message, as `unary` does; return why it failed where it did."""
        start_ns = self.clock.monotonic_ns()
        left_s = min(left_s, CALL_S_MAX)
        set_time_left(left_s)
        try:
            with self.under_way:
                async with asyncio.timeout(left_s):
                    response = await work()
        except BaseException as error:  # noqa: BLE001 (`refusal` raises what is not for the client)
            return self.refusal(method, start_ns, error)
        self.telemetry.observe(method, "OK", self.clock.monotonic_ns() - start_ns)
        return response

    async def refuse(self, context: Context, method: str, start_ns: int, raised: BaseException) -> None:
        """End a call that failed with a status for the client; raises that, or what is not for the client."""
        if isinstance(raised, grpc.aio.AbortError):
            raise raised
        refusal = self.refusal(method, start_ns, raised)
        await context.abort(refusal.status, refusal.text, ((errors.METADATA_KEY, refusal.detail),))

    def refusal(self, method: str, start_ns: int, raised: BaseException) -> Refusal:
        """Say what a failure means to the client; raises what is not for the client."""
        error: McrError
        match raised:
            case asyncio.CancelledError():
                self.telemetry.observe(method, "CANCELLED", self.clock.monotonic_ns() - start_ns)
                raise raised
            case TimeoutError():
                error = DeadlineError("the time given", method)
            case McrError():
                error = raised
            case Exception():
                # The client is told; the node lives on.
                self.telemetry.bug(method, raised)
                error = FailedError("the node met a bug of its own", f"{type(raised).__name__} in {method}")
            case _:
                raise raised
        status = statuses.status_of(error)
        self.telemetry.observe(method, status.name, self.clock.monotonic_ns() - start_ns)
        return Refusal(status, error.message[: errors.TEXT_CHARACTERS_MAX], errors.detail_of(error))


def _time_left_s(context: Context) -> float:
    left_s = context.time_remaining()
    return CALL_S_MAX if left_s is None else min(left_s, CALL_S_MAX)


def principal_of(context: Context) -> str:
    """Return who calls, as far as it is known."""
    for key, value in context.invocation_metadata() or ():
        if key == ACCOUNT_KEY and isinstance(value, bytes):
            return principal_named(value)
    return principal_named(b"unknown")


def principal_named(account: bytes) -> str:
    """Return who calls, by the account that the client named."""
    text = account[:ACCOUNT_BYTES_MAX].decode("utf-8", "replace")
    # What stands in a record for ever must not drive the terminal of whoever reads it.
    return UNVERIFIED + "".join(c for c in text if unicodedata.category(c)[0] != "C")


class Limit:
    """How many of one kind may be under way; whoever comes beyond is refused at once, not queued."""

    def __init__(self, what: str, most: int) -> None:
        self._what = what
        self._most = most
        self._now = 0

    def __enter__(self) -> None:
        if self._now >= self._most:
            raise NodeBusyError(self._what, self._most)
        self._now += 1

    def __exit__(self, *_: object) -> None:
        self._now -= 1


def parsed(cls: type[Request], data: bytes) -> Request:
    """Read a request here rather than in gRPC, which would answer garbage as if it were our bug.

    Raises:
        InvalidArgumentError: the bytes are no such message.
    """
    try:
        return cls.FromString(data)
    except DecodeError as error:
        raise InvalidArgumentError("request", f"it is no {cls.__name__}") from error


def snake(name: str) -> str:
    """Return the method that serves an rpc: `GetVersion` → `get_version`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


@dataclass(frozen=True, slots=True)
class UnaryMethod:
    """An rpc of one request and one response, however it is called."""

    full_name: str
    name: str
    served_by: Callable[[str], object]
    request_class: type[Message]
    response_class: type[Message]

    async def serve(self, data: bytes, principal: str) -> Message:
        """Do the call for somebody.

        Raises:
            McrError: whatever the service refuses with; also what is no such request.
        """
        serve: Callable[[Message], Awaitable[Message]] = getattr(self.served_by(principal), self.name)
        return await serve(parsed(self.request_class, data))


def unary_methods(service: ServiceDescriptor, served_by: Callable[[str], object]) -> dict[str, UnaryMethod]:
    """Return all unary rpcs of a service, by name.

    Args:
        service: its descriptor.
        served_by: gives the object whose methods serve a call, from who calls.
    """
    return {
        method.name: UnaryMethod(
            method.full_name,
            snake(method.name),
            served_by,
            message_factory.GetMessageClass(method.input_type),
            message_factory.GetMessageClass(method.output_type),
        )
        for method in service.methods
        if not (method.client_streaming or method.server_streaming)
    }


def unary_handlers(edge: Edge, methods: Mapping[str, UnaryMethod]) -> dict[str, Handler]:
    """Return handlers that make gRPC serve rpcs one by one."""
    return {name: _unary(edge, method) for name, method in methods.items()}


def _unary(edge: Edge, method: UnaryMethod) -> Handler:
    async def handle(data: bytes, context: Context) -> Message:
        return await edge.unary(context, method.full_name, lambda: method.serve(data, principal_of(context)))

    return grpc.unary_unary_rpc_method_handler(
        handle, response_serializer=method.response_class.SerializeToString
    )
