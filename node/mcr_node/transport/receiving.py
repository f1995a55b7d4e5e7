"""Receiving from the other nodes: checks who speaks and that it makes sense, then hands over."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import grpc
import grpc.aio

from mcr.addresses import parse_address
from mcr.errors import McrError
from mcr.model import LogIndex
from mcr_node.core.entry import LOG_ENTRY_BYTES_MAX
from mcr_node.core.members import ADDRESS_BYTES_MAX
from mcr_node.core.raft.messages import NO_NODE, Message, MessageType
from mcr_node.core.state import codec as command_codec
from mcr_node.peer.v1 import raft_pb2, raft_pb2_grpc
from mcr_node.ports import PeerEvents, Snapshots, SnapshotSink
from mcr_node.transport import codec

Result = TypeVar("Result")
Context = grpc.aio.ServicerContext[Any, Any]
COMMANDS_PER_FORWARD_MAX = 4096
# How long a snapshot that has arrived may take to be installed before another one may come.
INSTALL_S = 10.0


class Receiver(PeerEvents, Protocol):
    """What a node does with what arrives; see `runtime.runner.Runner`."""

    def introduce(self, node_id: int, address: str) -> None:
        """A node speaks, and says where answers reach it."""

    def accept_snapshot(self, message: Message, sink: SnapshotSink) -> None:
        """A snapshot has arrived, every byte of it."""

    async def wait_applied(self, index: LogIndex) -> None:
        """Wait until the state has reached `index`."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Who this node is."""

    cluster_id: bytes
    node_id: int


class RaftEdge(raft_pb2_grpc.RaftServiceServicer):
    """mcr_node.peer.v1.RaftService of one node."""

    def __init__(self, owner: Owner, receiver: Receiver, snapshots: Snapshots, executor: Executor) -> None:
        self._owner = owner
        self._receiver = receiver
        self._snapshots = snapshots
        self._executor = executor
        self._installing = asyncio.Lock()
        self._streams: set[asyncio.Task[Any]] = set()
        self._ending = False

    def register(self, server: grpc.aio.Server) -> None:
        """Make a server serve this."""
        raft_pb2_grpc.add_RaftServiceServicer_to_server(self, server)

    def end(self) -> None:
        """End the streams of the other nodes, which would go on for ever; they find another leader."""
        self._ending = True
        for stream in list(self._streams):
            stream.cancel()

    @contextmanager
    def _endable(self) -> Iterator[None]:
        stream = asyncio.current_task()
        assert stream is not None
        self._streams.add(stream)
        try:
            yield
        finally:
            self._streams.discard(stream)

    async def Deliver(  # noqa: N802 (named by the proto)
        self, request_iterator: AsyncIterator[raft_pb2.DeliverRequest], context: Context
    ) -> raft_pb2.DeliverResponse:
        """Take messages until the stream ends."""
        with self._endable():
            try:
                await self._take(request_iterator, context)
            except asyncio.CancelledError:
                if not self._ending:
                    raise
                # Said aloud: a stream whose handler is only cancelled stays open.
                await context.abort(grpc.StatusCode.UNAVAILABLE, "this node is stopping")
        return raft_pb2.DeliverResponse()

    async def _take(self, request_iterator: AsyncIterator[raft_pb2.DeliverRequest], context: Context) -> None:
        sender = 0
        async for request in request_iterator:
            if not sender:
                sender = await self._greet(request.cluster_id, request.sender, request.to, context)
                if is_address(request.address):
                    self._receiver.introduce(sender, request.address)
            try:
                for wire in request.messages:
                    message = codec.decode(wire, sender=sender, to=self._owner.node_id)
                    if message.type is MessageType.SNAPSHOT:
                        raise codec.WireError("a snapshot without its files")
                    self._receiver.deliver(message)
            except codec.WireError as error:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            for forwarded in request.forwarded:
                if len(forwarded.commands) <= COMMANDS_PER_FORWARD_MAX and all(
                    map(is_command, forwarded.commands)
                ):
                    self._receiver.accept_forwarded(forwarded.term, forwarded.commands)

    async def _greet(self, cluster_id: bytes, sender: int, to: int, context: Context) -> int:
        owner = self._owner
        if cluster_id != owner.cluster_id or to != owner.node_id or sender in (NO_NODE, owner.node_id):
            # An address that has another owner now. Its new owner must not hear what was meant for the old.
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "this node is not the one that is meant")
        return sender

    async def InstallSnapshot(  # noqa: N802 (named by the proto)
        self, request_iterator: AsyncIterator[raft_pb2.InstallSnapshotRequest], context: Context
    ) -> AsyncIterator[raft_pb2.InstallSnapshotResponse]:
        """Take a snapshot; answers where to begin, and once more when all is here."""
        if self._installing.locked():
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "a snapshot is being received")
        async with self._installing:
            try:
                sink: SnapshotSink | None = None
                snapshot_index = LogIndex(0)
                message: Message | None = None
                async for request in request_iterator:
                    if sink is None:
                        told = request.announcement
                        await self._greet(told.cluster_id, told.sender, told.to, context)
                        message, manifest = codec.announced(told)
                        snapshot_index = manifest.position.applied
                        sink = await self._run(partial(self._snapshots.receive, manifest))
                        yield await self._wanted(sink)
                    else:
                        part = request.range
                        await self._run(partial(sink.write, part.name, part.offset, part.data))
                if sink is None or message is None:
                    raise codec.WireError("no announcement")
                answer = await self._wanted(sink)
                if not answer.name:
                    # Once raft was told, what cannot be installed stops the node. Nobody shall be able to.
                    await self._run(sink.verify)
                    self._receiver.accept_snapshot(message, sink)
                    # The next one would take the place of this one's files before they are installed. An old
                    # snapshot never is, so the wait is bounded.
                    with suppress(TimeoutError):
                        async with asyncio.timeout(INSTALL_S):
                            await self._receiver.wait_applied(snapshot_index)
                yield answer
            except codec.WireError as error:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            except McrError as error:
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, error.message)

    async def _wanted(self, sink: SnapshotSink) -> raft_pb2.InstallSnapshotResponse:
        wanted = await self._run(sink.wanted)
        name, offset = ("", 0) if wanted is None else wanted
        return raft_pb2.InstallSnapshotResponse(name=name, offset=offset)

    async def _run(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)


def is_address(address: str) -> bool:
    """Say whether answers could be sent there; what is no address would break whoever tries."""
    try:
        parse_address("address", address)
    except McrError:
        return False
    return len(address) <= ADDRESS_BYTES_MAX


def is_command(data: bytes) -> bool:
    """Say whether the log may take this.

    What is in the log is applied by every node, and one that cannot stops: so what this release does not know
    entirely must not get there by way of it, whoever hands it over.
    """
    try:
        command_codec.decode(data)
    except McrError:
        return False
    return len(data) <= LOG_ENTRY_BYTES_MAX
