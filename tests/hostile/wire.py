"""Speak to a real node over gRPC as an enemy on its network would."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import grpc

from mcr.model import DIGEST_BYTES
from mcr_node.core.members import Membership, encode_membership
from mcr_node.core.raft.messages import NODE_ID_MAX, ConfState, Entry, Message, MessageType, Snapshot
from mcr_node.core.raft.validation import TERM_MAX
from mcr_node.peer.v1 import raft_pb2
from mcr_node.transport import codec
from tests.hostile.attack import COMMANDS, mutate
from tests.hostile.messages import number

SERVICE = raft_pb2.DESCRIPTOR.services_by_name["RaftService"].full_name
CALL_S = 20.0
STRANGER = 77
# Of one stream, before it ends: well-formed messages that are refused do not end it.
MESSAGES_PER_STREAM = 50


@dataclass(frozen=True)
class Victim:
    """Who is spoken to, and in what situation it is; the enemy knows everything.

    Attributes:
        peers: ids of the other members.
        last: index near the end of its log; it may grow.
    """

    cluster_id: bytes
    node_id: int
    peers: Sequence[int]
    leader: int
    term: int
    last: int

    @property
    def other(self) -> int:
        """A member that does not lead."""
        return next(one for one in self.peers if one != self.leader)


class Enemy:
    """One connection to a node."""

    def __init__(self, address: str, victim: Victim, seed: int) -> None:
        self._channel = grpc.insecure_channel(
            address, options=[("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        )
        self._deliver: grpc.StreamUnaryMultiCallable[bytes, bytes] = self._channel.stream_unary(
            f"/{SERVICE}/Deliver"
        )
        self._install: grpc.StreamStreamMultiCallable[bytes, bytes] = self._channel.stream_stream(
            f"/{SERVICE}/InstallSnapshot"
        )
        self.victim = victim
        self.chance = random.Random(seed)
        self.outcomes: Counter[str] = Counter()

    def close(self) -> None:
        self._channel.close()

    def attack(self, messages: int) -> Counter[str]:
        """Send so many messages, by every way in."""
        kinds = (
            self._noise,
            self._greetings,
            self._hostile,
            self._commands,
            self._addresses,
            self._snapshots,
        )
        sent = 0
        while sent < messages:
            kind = self.chance.choice(kinds)
            requests = kind()
            status = self._speak(requests, to_install=kind == self._snapshots)
            self.outcomes[f"{kind.__name__.strip('_')}: {status}"] += len(requests)
            sent += len(requests)
        return self.outcomes

    def _speak(self, requests: list[bytes], *, to_install: bool) -> str:
        def stream() -> Iterator[bytes]:
            yield from requests

        try:
            if to_install:
                list(self._install(stream(), timeout=CALL_S))
            else:
                self._deliver(stream(), timeout=CALL_S)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "ended in peace"

    def _greeting(self, sender: int | None = None, **more: object) -> raft_pb2.DeliverRequest:
        told = {
            "cluster_id": self.victim.cluster_id,
            "sender": self.victim.other if sender is None else sender,
            "to": self.victim.node_id,
        } | more
        return raft_pb2.DeliverRequest(**told)  # type: ignore[arg-type]

    def _noise(self) -> list[bytes]:
        """Bytes, beginning as a member would or not."""
        told = self._greeting()
        # Without a type and a term, so that nothing that is changed in it makes it honest by chance.
        told.messages.append(raft_pb2.RaftMessage(index=number(self.chance), context=b"what"))
        data = told.SerializeToString()
        return [self.chance.choice([self.chance.randbytes(60), mutate(self.chance, data)])]

    def _greetings(self) -> list[bytes]:
        """Somebody who means another node, another cluster, or says that it is what nobody is."""
        victim = self.victim
        told = self.chance.choice(
            [
                self._greeting(cluster_id=b"another cluster!"),
                self._greeting(cluster_id=b""),
                self._greeting(to=victim.node_id ^ 1),
                self._greeting(sender=victim.node_id),
                self._greeting(sender=0),
                self._greeting(sender=NODE_ID_MAX + 1),
                self._greeting(sender=NODE_ID_MAX + 2),
            ]
        )
        told.messages.append(
            codec.encode(Message(MessageType.VOTE, term=victim.term + 1, log_term=1, index=1 << 40))
        )
        return [told.SerializeToString()]

    def _hostile(self) -> list[bytes]:
        """What is well formed and cannot be so, in the name of a member or of a stranger."""
        victim = self.victim
        sender = self.chance.choice([victim.other, victim.leader or victim.other, STRANGER])
        if sender == victim.node_id:
            sender = victim.other
        requests = [self._greeting(sender)]
        for _ in range(MESSAGES_PER_STREAM):
            requests[-1].messages.append(codec.encode(self._lie()))
            if self.chance.randrange(4) == 0:
                requests.append(raft_pb2.DeliverRequest())
        return [request.SerializeToString() for request in requests]

    def _lie(self) -> Message:
        chance, term, far = self.chance, self.victim.term, number(self.chance) // 4
        beyond = self.victim.last + 100_000 + far
        return chance.choice(
            [
                Message(MessageType.HEARTBEAT, term=term, commit=beyond),
                Message(MessageType.HEARTBEAT, term=term + 1, commit=beyond),
                Message(MessageType.APPEND, term=term + 1, log_term=term + 9, index=1, commit=beyond),
                # Its second entry is another one than the one that is committed.
                Message(
                    MessageType.APPEND,
                    term=term + 1,
                    entries=(Entry(term, 1, data=b"forged"), Entry(term + 1, 2)),
                ),
                Message(MessageType.APPEND, term=term, entries=(Entry(term, 5 + far),)),
                Message(MessageType.APPEND, term=0),
                Message(MessageType.VOTE, term=TERM_MAX, log_term=1, index=1 << 60),
                Message(MessageType.HEARTBEAT, term=TERM_MAX + 1 + far),
                Message(MessageType.APPEND_RESP, term=TERM_MAX + 1 + far, index=beyond),
                Message(MessageType.TIMEOUT_NOW, term=term + 1 + far),
                Message(MessageType.PROPOSE, entries=(Entry(0, 0, data=b"forged"),)),
                Message(MessageType.READ_INDEX, term=1 + far),
            ]
        )

    def _commands(self) -> list[bytes]:
        """Commands for the log that are none, in the name of a member."""
        told = self._greeting()
        broken = [mutate(self.chance, self.chance.choice(COMMANDS))[:-1] + b"\xff" for _ in range(8)]
        broken.append(bytes(3 << 20))
        told.forwarded.append(raft_pb2.ForwardedCommands(term=self.victim.term, commands=broken))
        return [told.SerializeToString()]

    def _addresses(self) -> list[bytes]:
        """Strangers who say that they are reached where nothing can be."""
        chance = self.chance
        address = chance.choice(
            ["", ":", "\x00", "unix:///dev/null", "a" * 600, "[::1]:x", "host:99999", "%s%n:1"]
        )
        return [self._greeting(chance.randrange(1, 1 << 62), address=address).SerializeToString()]

    def _snapshots(self) -> list[bytes]:
        """Snapshots that are none, in the leader's name."""
        victim, chance = self.victim, self.chance
        sender = victim.leader if victim.leader != victim.node_id else victim.other
        ids = tuple(sorted((victim.node_id, *victim.peers)))
        index = victim.last + 1_000 + number(chance) // 4
        told = Snapshot(index, victim.term, ConfState(voters=ids))
        message = Message(MessageType.SNAPSHOT, victim.node_id, sender, victim.term, snapshot=told)
        data = chance.randbytes(64)
        files = chance.choice(
            [
                [],
                [raft_pb2.SnapshotFile(name="CURRENT", size_bytes=64, digest=bytes(DIGEST_BYTES))],
                [raft_pb2.SnapshotFile(name="../../x", size_bytes=64, digest=bytes(DIGEST_BYTES))],
                [raft_pb2.SnapshotFile(name="1.sst", size_bytes=1 << 60, digest=bytes(DIGEST_BYTES))],
            ]
        )
        announcement = raft_pb2.SnapshotAnnouncement(
            cluster_id=victim.cluster_id,
            sender=sender,
            to=victim.node_id,
            message=codec.encode(message),
            state_digest=chance.randbytes(DIGEST_BYTES),
            configuration=chance.choice([encode_membership(Membership(told.conf_state)), b"none"]),
            files=files,
        )
        first = raft_pb2.InstallSnapshotRequest(announcement=announcement).SerializeToString()
        part = raft_pb2.SnapshotRange(name="CURRENT", offset=0, data=data)
        second = raft_pb2.InstallSnapshotRequest(range=part).SerializeToString()
        return chance.choice([[first], [first, second], [second], [mutate(chance, first), second]])
