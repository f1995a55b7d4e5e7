"""Receiving from the other nodes: checks who speaks and that it makes sense, then hands over."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import Executor
from contextlib import aclosing, contextmanager, suppress
from functools import partial
from typing import Any, Protocol, TypeVar

import grpc
import grpc.aio

from mcr._records import KEY_BYTES, Place
from mcr.addresses import parse_address
from mcr.errors import FailedError, McrError
from mcr.model import LogIndex
from mcr.values import dataclass
from mcr_node.core.entry import LOG_ENTRY_BYTES_MAX
from mcr_node.core.members import ADDRESS_BYTES_MAX
from mcr_node.core.raft.messages import NO_NODE, Message, MessageType
from mcr_node.core.state import codec as command_codec
from mcr_node.peer.v1 import raft_pb2, raft_pb2_grpc
from mcr_node.ports import PeerEvents, Snapshots, SnapshotSink, SnapshotSource
from mcr_node.transport import codec

Result = TypeVar("Result")
Context = grpc.aio.ServicerContext[Any, Any]
COMMANDS_PER_FORWARD_MAX = 4096
PORT_LIMIT = 1 << 16
# How long a snapshot that has arrived may take to be installed before another one may come.
INSTALL_S = 10.0
# How long a node that is asked for its state may take to find out whether it is the one to give it.
CONFIRM_S = 5.0
RANGE_BYTES = 1 << 20


class Receiver(PeerEvents, Protocol):
    """What a node does with what arrives; see `runtime.runner.Runner`."""

    def introduce(self, node_id: int, address: str) -> None:
        """A node speaks, and says where answers reach it."""

    def accept_snapshot(self, message: Message, sink: SnapshotSink) -> None:
        """A snapshot has arrived, every byte of it."""

    async def wait_applied(self, index: LogIndex) -> None:
        """Wait until the state has reached `index`."""

    async def read_index(self, *, at_least: LogIndex | None, stale_ok: bool) -> LogIndex:
        """Wait until the state is as fresh as a read asks for."""

    @property
    def is_leader(self) -> bool:
        """Whether this node leads."""

    @property
    def failure(self) -> McrError | None:
        """Why the node takes nothing in; None while it does."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Who this node is."""

    cluster_id: bytes
    node_id: int


class RaftEdge(raft_pb2_grpc.RaftServiceServicer):
    """mcr_node.peer.v1.RaftService of one node."""

    def __init__(
        self, owner: Owner, receiver: Receiver, snapshots: Snapshots, given: Snapshots, executor: Executor
    ) -> None:
        """Serve one node.

        Args:
            owner: who it is.
            receiver: takes what arrives.
            snapshots: those that raft sends here.
            given: those that other nodes ask for; apart, so that neither takes the other's place.
            executor: reads and writes their files.
        """
        self._owner = owner
        self._receiver = receiver
        self._snapshots = snapshots
        self._given = given
        self._executor = executor
        self._installing = asyncio.Lock()
        # One at a time: the next one's copy takes the place of this one's.
        self._giving = asyncio.Lock()
        self._streams: set[asyncio.Task[Any]] = set()
        self._ending = False
        self._tell_place: Callable[[int, Place], None] = _nobody_dials

    def register(self, server: grpc.aio.Server) -> None:
        """Make a server serve this."""
        raft_pb2_grpc.add_RaftServiceServicer_to_server(self, server)

    def on_place(self, tell: Callable[[int, Place], None]) -> None:
        """Have `tell` called with the places where other nodes take lines."""
        self._tell_place = tell

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
                await self._greet(request.cluster_id, request.sender, request.to, context)
            try:
                sender = self.take(request, sender)
            except codec.WireError as error:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

    def take(self, request: raft_pb2.DeliverRequest, sender: int) -> int:
        """Take what another node tells, and return who it is.

        Args:
            request: one of a stream or a line.
            sender: who the requests before it are from; 0 = it is the first, and says so.

        Raises:
            codec.WireError: it makes no sense, or is not meant for this node.
        """
        if not sender:
            if not self._is_meant(request.cluster_id, request.sender, request.to):
                raise codec.WireError("this node is not the one that is meant")
            sender = request.sender
            if is_address(request.address):
                self._receiver.introduce(sender, request.address)
                if 0 < request.line_port < PORT_LIMIT and len(request.line_key) == KEY_BYTES:
                    self._tell_place(sender, Place(request.line_port, request.line_key))
        messages = [codec.decode(wire, sender=sender, to=self._owner.node_id) for wire in request.messages]
        if any(message.type is MessageType.SNAPSHOT for message in messages):
            raise codec.WireError("a snapshot without its files")
        if messages:
            self._receiver.deliver(messages)
        for forwarded in request.forwarded:
            if len(forwarded.commands) <= COMMANDS_PER_FORWARD_MAX and all(
                map(is_command, forwarded.commands)
            ):
                self._receiver.accept_forwarded(forwarded.term, forwarded.commands)
        return sender

    def _is_meant(self, cluster_id: bytes, sender: int, to: int) -> bool:
        owner = self._owner
        return cluster_id == owner.cluster_id and to == owner.node_id and sender not in (NO_NODE, to)

    async def _greet(self, cluster_id: bytes, sender: int, to: int, context: Context) -> None:
        if not self._is_meant(cluster_id, sender, to):
            # An address that has another owner now. Its new owner must not hear what was meant for the old.
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "this node is not the one that is meant")

    async def InstallSnapshot(  # noqa: N802 (named by the proto)
        self, request_iterator: AsyncIterator[raft_pb2.InstallSnapshotRequest], context: Context
    ) -> AsyncIterator[raft_pb2.InstallSnapshotResponse]:
        """Take a snapshot; answers where to begin, and once more when all is here."""
        if self._installing.locked():
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "a snapshot is being received")
        if self._receiver.failure is not None:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, self._receiver.failure.message)
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

    async def FetchSnapshot(  # noqa: N802 (named by the proto)
        self, request: raft_pb2.FetchSnapshotRequest, context: Context
    ) -> AsyncIterator[raft_pb2.FetchSnapshotResponse]:
        """Give the state to a node whose own is wrong, if this node leads now."""
        await self._greet(request.cluster_id, request.sender, request.to, context)
        if self._giving.locked():
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "a snapshot is being given")
        async with self._giving:
            with self._endable():
                async with aclosing(self._give(request, context)) as parts:
                    async for part in parts:
                        yield part

    async def _give(
        self, request: raft_pb2.FetchSnapshotRequest, context: Context
    ) -> AsyncGenerator[raft_pb2.FetchSnapshotResponse]:
        try:
            source = await self._export(LogIndex(request.index_min))
            yield raft_pb2.FetchSnapshotResponse(manifest=codec.manifest_to(source.manifest))
            for file in source.manifest.files:
                for offset in range(0, file.size_bytes, RANGE_BYTES):
                    data = await self._run(partial(source.read, file.name, offset, RANGE_BYTES))
                    part = raft_pb2.SnapshotRange(name=file.name, offset=offset, data=data)
                    yield raft_pb2.FetchSnapshotResponse(range=part)
        except McrError as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, error.message)
        except TimeoutError:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "this node lacks what was asked for, still")

    async def _export(self, index_min: LogIndex) -> SnapshotSource:
        """Make a snapshot of a state that passed the comparison at `index_min` and is a leader's."""
        async with asyncio.timeout(CONFIRM_S):
            # Also says whether this node is fenced itself, or leads no more and does not know it.
            await self._receiver.read_index(at_least=None, stale_ok=False)
            await self._receiver.wait_applied(index_min)
        if not self._receiver.is_leader:
            raise FailedError("snapshot", "only the leader gives one")
        return await self._run(self._given.export)

    async def _wanted(self, sink: SnapshotSink) -> raft_pb2.InstallSnapshotResponse:
        wanted = await self._run(sink.wanted)
        name, offset = ("", 0) if wanted is None else wanted
        return raft_pb2.InstallSnapshotResponse(name=name, offset=offset)

    async def _run(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)


def _nobody_dials(node_id: int, place: Place) -> None:
    """Before there are peers, nobody does."""


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
