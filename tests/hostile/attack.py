"""Speak to a node as its enemies would, and see that nothing comes of it. The seed decides everything."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from google.protobuf.message import DecodeError

from mcr.model import ChunkId, LogIndex, RequestId
from mcr_node.core.raft.errors import InvalidMessageError
from mcr_node.core.raft.messages import LOCAL_TYPES, Message
from mcr_node.core.raft.validation import TERM_STEP_MAX
from mcr_node.core.state.apply import apply
from mcr_node.core.state.codec import decode as decode_command
from mcr_node.core.state.codec import encode as encode_command
from mcr_node.core.state.commands import (
    Command,
    CommitVersion,
    LastGoodTarget,
    MoveChannel,
    ProtectChannel,
    RollbackChannel,
    SignVersion,
)
from mcr_node.core.state.memory import MemoryView
from mcr_node.core.state.outcomes import Accepted
from mcr_node.peer.v1 import raft_pb2
from mcr_node.transport import codec
from mcr_node.transport.receiving import is_command
from tests.hostile.messages import LAWS, anybody, wild
from tests.hostile.target import Part, State, Target

# Messages to one target before the next: it must bear many, and cannot hide a slow decay for ever.
MESSAGES_PER_TARGET = 200
# Of wild messages and of mutated bytes, to one of each law.
WEIGHT = 5
# In one request, before it is mutated; doubled parts may make more of it.
MESSAGES_MAX = 8

WHO: dict[str, Any] = {"request_id": RequestId(b"request"), "principal": "eve", "at_ms": 1, "model": "a/b"}
OF_COMMITS: dict[str, Any] = {
    "branch": "main",
    "description": "text",
    "manifest": ChunkId(bytes(32)),
    "metrics": {"loss": 0.5},
}
SIZES: dict[str, Any] = {"bytes_total": 1, "file_count": 1, "chunk_count": 1}
OF_CHANNELS: dict[str, Any] = {"channel": "production", "reason": "why"}
MAKERS: list[Callable[[], Command]] = [
    partial(
        CommitVersion,
        expected_head=None,
        parent=None,
        parameters={"rate": 0.1, "tags": ["x", {"y": None}]},
        **WHO,
        **OF_COMMITS,
        **SIZES,
    ),
    partial(MoveChannel, number=1, expected_generation=None, **WHO, **OF_CHANNELS),
    partial(RollbackChannel, target=LastGoodTarget(), **WHO, **OF_CHANNELS),
    partial(ProtectChannel, channel="production", protection={"actors": ["a"]}, **WHO),
    partial(SignVersion, number=1, version_id=bytes(32), public_key=bytes(32), signature=bytes(64), **WHO),
]
COMMANDS = [encode_command(make()) for make in MAKERS]


@dataclass
class Tally:
    """What became of the messages, by what they were."""

    counts: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def lines(self) -> list[str]:
        return [f"{count:10,} {what}" for what, count in sorted(self.counts.items())]


def attack(seed: int, messages: int) -> Tally:
    """Send so many messages; AssertionError names the one that did something, and how to see it again."""
    tally = Tally()
    kinds = [*LAWS, *["wild"] * WEIGHT, *["bytes"] * WEIGHT, *["command"] * WEIGHT]
    for number in range(messages // MESSAGES_PER_TARGET + 1):
        chance = random.Random(f"{seed}/{number}")
        part = chance.choice(list(Part))
        target = Target(part)
        before = target.state()
        for _ in range(min(MESSAGES_PER_TARGET, messages - tally.total)):
            kind = chance.choice(kinds)
            told: Message | bytes = b""
            try:
                if kind == "bytes":
                    told = mutated(chance, target)
                    outcome = _take_bytes(target, told, anybody(chance, target))
                elif kind == "command":
                    told = mutate(chance, chance.choice(COMMANDS))
                    outcome = _take_command(told)
                elif kind == "wild":
                    told = wild(chance, target)
                    outcome = _take_wild(target, told)
                else:
                    told = LAWS[kind](chance, target)
                    outcome = _take_hostile(target, told)
                after = target.state()
                _check_laws(before, after)
                if outcome == "refused":
                    assert after == before, "it was refused and changed something all the same"
            except Exception as error:
                where = f"seed {seed}, target {number} ({part.value}), {kind}: {told!r}"
                again = f"python -m tests.hostile.run --seed {seed} --messages {messages}"
                raise AssertionError(f"{error!r}\n{where}\nagain: {again}") from error
            tally.counts[f"{kind}: {outcome}"] += 1
            if after != before:
                # A member could have meant it. The next one meets the node as it was.
                target = Target(part)
    return tally


def mutated(chance: random.Random, target: Target) -> bytes:
    """Return the bytes of a request, some of them changed, cut off, doubled or made up."""
    if chance.randrange(8) == 0:
        return chance.randbytes(chance.randrange(200))
    told = [wild(chance, target) for _ in range(chance.randrange(1, MESSAGES_MAX))]
    request = raft_pb2.DeliverRequest(sender=2, to=1, cluster_id=bytes(16))
    request.messages.extend(codec.encode(one) for one in told if one.type not in LOCAL_TYPES)
    assert len(told) <= MESSAGES_MAX
    return mutate(chance, request.SerializeToString())


def mutate(chance: random.Random, original: bytes) -> bytes:
    """Return bytes, some of them changed, cut off or doubled."""
    data = bytearray(original)
    for _ in range(chance.randrange(1, 4)):
        place = chance.randrange(len(data))
        match chance.randrange(4):
            case 0:
                data[place] ^= 1 << chance.randrange(8)
            case 1:
                data[place] = chance.randrange(256)
            case 2:
                del data[place : place + chance.randrange(1, 9)]
            case _:
                data[place:place] = data[place : place + chance.randrange(1, 17)]
        if not data:
            return b""
    return bytes(data)


def _take_bytes(target: Target, data: bytes, sender: int) -> str:
    try:
        request = raft_pb2.DeliverRequest.FromString(data)
    except DecodeError:
        return "refused"
    outcome = "refused"
    for wire in request.messages:
        try:
            message = codec.decode(wire, sender=sender, to=target.node_id)
        except codec.WireError:
            continue
        if _take_wild(target, message) != "refused":
            outcome = "taken, within the laws"
    return outcome


def _take_command(data: bytes) -> str:
    """Hand over what some other node wants in the log: applied it must not stop anybody."""
    if not is_command(data):
        return "refused"
    outcome, _ = apply(MemoryView(), LogIndex(1), decode_command(data))
    return "accepted as a command" if isinstance(outcome, Accepted) else "rejected when applied"


def _take_wild(target: Target, message: Message) -> str:
    try:
        target.take(message)
    except InvalidMessageError:
        target.work()
        return "refused"
    return "taken, within the laws"


def _take_hostile(target: Target, message: Message) -> str:
    # What an old term said is ignored, not judged.
    is_old = 0 < message.term < target.raft.term
    assert _take_wild(target, message) == "refused" or is_old, "it was taken"
    return "refused"


def _check_laws(before: State, after: State) -> None:
    """Check what holds whatever anybody says: raft, figure 3.2, as seen from one node."""
    assert before.hard.term <= after.hard.term <= before.hard.term + MESSAGES_MAX * TERM_STEP_MAX
    assert after.hard.commit >= before.hard.commit
    assert after.applied >= before.applied
    if after.hard.term == before.hard.term and before.hard.vote:
        assert after.hard.vote == before.hard.vote, "a vote was cast twice"
    now = dict(after.log)
    first = after.log[0][0] if after.log else after.applied + 1
    for index, term in before.log:
        if first <= index <= before.hard.commit:
            assert now[index] == term, "a committed entry was changed"
