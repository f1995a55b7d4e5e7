"""Sending to the other nodes: for each of them one queue, one stream, and at most one snapshot under way."""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import field
from typing import Any

import grpc
import grpc.aio

from mcr._records import Place, RecordError
from mcr.blocking import settle
from mcr.errors import McrError
from mcr.values import dataclass
from mcr_node.core.members import Member
from mcr_node.core.raft.messages import Message, MessageType, entry_bytes
from mcr_node.peer.v1 import raft_pb2
from mcr_node.ports import PeerEvents, SnapshotSource
from mcr_node.transport import codec
from mcr_node.transport.lines import Line

# What waits for a peer that takes nothing. Raft asks again for what is dropped; it must not fill memory.
QUEUE_MESSAGES_MAX = 4096
QUEUE_BYTES_MAX = 32 << 20
# One write to the stream: what waits is sent together, up to about this much.
BATCH_BYTES_MAX = 1 << 20
BATCH_MESSAGES_MAX = 1024
# Nodes that spoke to this one before it knew them as members.
INTRODUCED_MAX = 16
# After a failure; doubled each time, up to the most. A peer that restarts is found again soon.
RECONNECT_S_MIN, RECONNECT_S_MAX = 0.02, 0.5
RANGE_BYTES = 1 << 20
# After a line could not be had or ended; doubled each time it cannot. A node that restarts tells where anew.
REDIAL_S_MIN, REDIAL_S_MAX = 1.0, 60.0
# For the end of a stream that a line takes the place of.
ORDERLY_S = 1.0
# A receiver that takes nothing for so long is given up; raft begins again, the receiver keeps what it has.
SNAPSHOT_STALL_S = 30.0
# What a snapshot takes from the writes that go on meanwhile is spread over so long. Not over longer: the half
# of the log that is kept lasts so long where commits come fastest, and a follower must not fall behind it.
SNAPSHOT_S = 5.0
# Small ones do not wait for that, large ones take longer.
SNAPSHOT_BYTES_PER_S_MIN, SNAPSHOT_BYTES_PER_S_MAX = 16 << 20, 200 << 20
SERVICE = raft_pb2.DESCRIPTOR.services_by_name["RaftService"].full_name
OPTIONS = (
    ("grpc.max_send_message_length", 8 << 20),
    ("grpc.max_receive_message_length", 8 << 20),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    # Nodes of one process, in tests, are to have connections of their own.
    ("grpc.use_local_subchannel_pool", 1),
)

NOWHERE = Place()


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sends, and where answers reach it.

    Attributes:
        place: where it takes lines.
    """

    cluster_id: bytes
    node_id: int
    address: str
    place: Place = NOWHERE

    def greeting(self, to: int) -> raft_pb2.DeliverRequest:
        """Return how a stream or a line begins."""
        return raft_pb2.DeliverRequest(
            cluster_id=self.cluster_id,
            sender=self.node_id,
            to=to,
            address=self.address,
            line_port=self.place.port,
            line_key=self.place.key,
        )


@dataclass(slots=True)
class _Queue:
    """What waits for one peer."""

    items: deque[Message | raft_pb2.ForwardedCommands] = field(default_factory=deque)
    size_bytes: int = 0
    filled: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, item: Message | raft_pb2.ForwardedCommands, size_bytes: int) -> bool:
        """Add an item; False when there is no room."""
        if len(self.items) >= QUEUE_MESSAGES_MAX or self.size_bytes + size_bytes > QUEUE_BYTES_MAX:
            return False
        self.items.append(item)
        self.size_bytes += size_bytes
        self.filled.set()
        return True

    def take(self) -> raft_pb2.DeliverRequest:
        """Return what goes into the next write."""
        request = raft_pb2.DeliverRequest()
        taken_bytes = 0
        while self.items and len(request.messages) < BATCH_MESSAGES_MAX:
            item = self.items[0]
            if taken_bytes and taken_bytes + _size(item) > BATCH_BYTES_MAX:
                break
            self.items.popleft()
            taken_bytes += _size(item)
            self.size_bytes -= _size(item)
            if isinstance(item, Message):
                request.messages.append(codec.encode(item))
            else:
                request.forwarded.append(item)
        if not self.items:
            self.filled.clear()
        return request

    def clear(self) -> None:
        """Drop everything."""
        self.items.clear()
        self.size_bytes = 0
        self.filled.clear()


def _size(item: Message | raft_pb2.ForwardedCommands) -> int:
    if isinstance(item, Message):
        return 32 + sum([entry_bytes(entry) for entry in item.entries])
    return sum(map(len, item.commands))


class _Peer:
    """One other node."""

    def __init__(self, member: Member, sender: Sender, events: PeerEvents) -> None:
        self.member = member
        self._sender = sender
        self._events = events
        self._queue = _Queue()
        self._channel = grpc.aio.insecure_channel(member.address, options=OPTIONS)
        self._deliver = self._channel.stream_unary(
            f"/{SERVICE}/Deliver",
            request_serializer=raft_pb2.DeliverRequest.SerializeToString,
            response_deserializer=raft_pb2.DeliverResponse.FromString,
        )
        self._install = self._channel.stream_stream(
            f"/{SERVICE}/InstallSnapshot",
            request_serializer=raft_pb2.InstallSnapshotRequest.SerializeToString,
            response_deserializer=raft_pb2.InstallSnapshotResponse.FromString,
        )
        # Where it takes lines, as it told last.
        self._place = NOWHERE
        self._told = asyncio.Event()
        self._by_grpc = asyncio.Event()
        # Open and greeted, and all goes over it; None = by gRPC.
        self._line: Line | None = None
        self._stream = asyncio.create_task(self._stream_for_ever(), name="mcr-runner")
        self._dialling = asyncio.create_task(self._dial_for_ever(), name="mcr-runner")
        self._snapshot: asyncio.Task[None] | None = None

    def put(self, item: Message | raft_pb2.ForwardedCommands) -> None:
        if not self._queue.put(item, _size(item)):
            self._events.report_unreachable(self.member.node_id)

    def tell_place(self, place: Place) -> None:
        """Know where it takes lines."""
        if place != self._place:
            self._place = place
            self._told.set()

    def flush(self) -> None:
        """Send what waits over the line, if there is one, as far as there is room; a stream takes its own."""
        line = self._line
        while line is not None and line.has_room and self._queue.items:
            line.send(self._queue.take())

    async def _dial_for_ever(self) -> None:
        wait_s = REDIAL_S_MIN
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s if self._place != NOWHERE else None):
                    await self._told.wait()
            if self._told.is_set():
                wait_s = REDIAL_S_MIN
            self._told.clear()
            try:
                line = await Line.open(self.member.address, self._place, self.flush)
            except RecordError:
                wait_s = min(2 * wait_s, REDIAL_S_MAX)
                continue
            wait_s = REDIAL_S_MIN
            try:
                await self._speak(line)
            finally:
                line.close()

    async def _speak(self, line: Line) -> None:
        """Send all that is to be sent over a line, until it ends."""
        line.send(self._sender.greeting(self.member.node_id))
        self._line = line
        # The stream is not needed any more: it waits for something to send, and finds the line.
        self._queue.filled.set()
        try:
            self.flush()
            await line.ended
        finally:
            self._line = None
            # What was on the line may be lost, and what waits is old: raft sends what is needed now.
            self._queue.clear()
            self._events.report_unreachable(self.member.node_id)
            self._by_grpc.set()

    async def _stream_for_ever(self) -> None:
        """Keep a stream open while there is no line, whether or not there is anything to say.

        Two followers speak to each other when their leader is gone, and not before. To connect only then
        would make an election wait for whatever went with the leader: where names are looked up, the name of
        a host that is gone can hold up all others for tens of seconds.
        """
        wait_s = RECONNECT_S_MIN
        while True:
            if self._line is not None:
                self._by_grpc.clear()
                await self._by_grpc.wait()
            began_s = asyncio.get_running_loop().time()
            try:
                call = self._deliver()
                # One that ends while nothing is said wakes the wait below; the write after it fails.
                call.add_done_callback(lambda _: self._queue.filled.set())
                try:
                    await call.write(self._sender.greeting(self.member.node_id))
                    while self._line is None:
                        await self._queue.filled.wait()
                        if self._line is None:
                            await call.write(self._queue.take())
                    await _ended(call)
                finally:
                    call.cancel()
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                # What was in the stream may be lost, and what waits is old: raft sends what is needed now.
                self._queue.clear()
                self._events.report_unreachable(self.member.node_id)
                if asyncio.get_running_loop().time() - began_s > RECONNECT_S_MAX:
                    # It had lasted. A node that refuses at once is asked no more often than one that is gone.
                    wait_s = RECONNECT_S_MIN
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, RECONNECT_S_MAX)

    def send_snapshot(self, message: Message, source: SnapshotSource) -> None:
        if self._snapshot is not None and not self._snapshot.done():
            # Raft counts on one at a time; the one under way will be reported.
            return
        self._snapshot = asyncio.create_task(self._report_snapshot(message, source), name="mcr-runner")

    async def _report_snapshot(self, message: Message, source: SnapshotSource) -> None:
        failed = True
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError, McrError):
            await self._transfer(message, source)
            failed = False
        self._events.report_snapshot(self.member.node_id, failed=failed)

    async def _transfer(self, message: Message, source: SnapshotSource) -> None:
        call = self._install()
        try:
            announcement = codec.announce(message, source.manifest, cluster_id=self._sender.cluster_id)
            await call.write(raft_pb2.InstallSnapshotRequest(announcement=announcement))
            wanted = await _answer(call)
            pace_bytes_per_s = snapshot_pace(source.manifest.bytes_total)
            started_s, sent_bytes = asyncio.get_running_loop().time(), 0
            is_due = not wanted.name
            for file in source.manifest.files:
                is_due = is_due or file.name == wanted.name
                if not is_due or not wanted.name:
                    continue
                offset = wanted.offset if file.name == wanted.name else 0
                while offset < file.size_bytes:
                    data = await asyncio.to_thread(source.read, file.name, offset, RANGE_BYTES)
                    part = raft_pb2.SnapshotRange(name=file.name, offset=offset, data=data)
                    async with asyncio.timeout(SNAPSHOT_STALL_S):
                        await call.write(raft_pb2.InstallSnapshotRequest(range=part))
                    offset += len(data)
                    sent_bytes += len(data)
                    due_s = started_s + sent_bytes / pace_bytes_per_s
                    await asyncio.sleep(max(0.0, due_s - asyncio.get_running_loop().time()))
            await call.done_writing()
            while (await _answer(call)).name:
                pass
        finally:
            call.cancel()

    async def close(self) -> None:
        await settle([task for task in (self._stream, self._dialling, self._snapshot) if task is not None])
        await self._channel.close()


def snapshot_pace(bytes_total: int) -> float:
    """Return how many bytes a second of a snapshot of that size are sent."""
    return min(max(bytes_total / SNAPSHOT_S, SNAPSHOT_BYTES_PER_S_MIN), SNAPSHOT_BYTES_PER_S_MAX)


async def _ended(call: "grpc.aio.StreamUnaryCall[Any, raft_pb2.DeliverResponse]") -> None:
    """End a stream so that nothing in it is lost, if that does not take long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(ORDERLY_S):
            await call.done_writing()
            await call


async def _answer(
    call: "grpc.aio.StreamStreamCall[Any, raft_pb2.InstallSnapshotResponse]",
) -> raft_pb2.InstallSnapshotResponse:
    async with asyncio.timeout(SNAPSHOT_STALL_S):
        answer = await call.read()
    if not isinstance(answer, raft_pb2.InstallSnapshotResponse):
        # The end of the stream without the word that all is there.
        raise asyncio.InvalidStateError
    return answer


class GrpcPeers:
    """`ports.Peers` over gRPC."""

    def __init__(self, sender: Sender, events: PeerEvents) -> None:
        self._sender = sender
        self._events = events
        self._peers: dict[int, _Peer] = {}
        self._members: Sequence[Member] = ()
        self._introduced: dict[int, Member] = {}
        # As the nodes told, since this one started; of peers only.
        self._places: dict[int, Place] = {}
        self._closing: list[asyncio.Task[None]] = []
        # Those to whom something was said since the last flush; nearly always there is nobody.
        self._addressed: list[_Peer] = []

    def update(self, members: Sequence[Member]) -> None:
        """See `ports.Peers`."""
        self._members = members
        known = {one.node_id: one for one in members if one.address}
        self._introduced = {key: one for key, one in self._introduced.items() if key not in known}
        wanted = self._introduced | known
        wanted.pop(self._sender.node_id, None)
        for node_id, peer in list(self._peers.items()):
            found = wanted.get(node_id)
            if found is None or found.address != peer.member.address:
                del self._peers[node_id]
                self._closing = [task for task in self._closing if not task.done()]
                self._closing.append(asyncio.create_task(peer.close(), name="mcr-runner"))
        self._places = {key: place for key, place in self._places.items() if key in wanted}
        for node_id, member in wanted.items():
            if node_id not in self._peers:
                peer = self._peers[node_id] = _Peer(member, self._sender, self._events)
                peer.tell_place(self._places.get(node_id, NOWHERE))

    def introduce(self, node_id: int, address: str) -> None:
        """See `ports.Peers`."""
        if any(one.node_id == node_id for one in self._members) or node_id == self._sender.node_id:
            return
        if node_id not in self._introduced and len(self._introduced) >= INTRODUCED_MAX:
            return
        self._introduced[node_id] = Member(node_id, f"node {node_id}", address)
        self.update(self._members)

    def tell_place(self, node_id: int, place: Place) -> None:
        """Know where a node takes lines, which said so itself."""
        peer = self._peers.get(node_id)
        if peer is not None:
            self._places[node_id] = place
            peer.tell_place(place)

    def send(self, message: Message) -> None:
        """See `ports.Peers`."""
        assert message.type is not MessageType.SNAPSHOT
        self._put(message.to, message)

    def forward(self, to: int, term: int, commands: Sequence[bytes]) -> None:
        """See `ports.Peers`."""
        self._put(to, raft_pb2.ForwardedCommands(term=term, commands=commands))

    def _put(self, to: int, item: Message | raft_pb2.ForwardedCommands) -> None:
        peer = self._peers.get(to)
        if peer is not None:
            peer.put(item)
            self._addressed.append(peer)

    def flush(self) -> None:
        """See `ports.Peers`."""
        if self._addressed:
            addressed, self._addressed = self._addressed, []
            for peer in addressed:
                peer.flush()

    def send_snapshot(self, message: Message, source: SnapshotSource) -> None:
        """See `ports.Peers`."""
        peer = self._peers.get(message.to)
        if peer is None:
            self._events.report_snapshot(message.to, failed=True)
        else:
            peer.send_snapshot(message, source)

    async def close(self) -> None:
        """End all streams."""
        peers, self._peers = self._peers, {}
        await asyncio.gather(*(peer.close() for peer in peers.values()), *self._closing)
