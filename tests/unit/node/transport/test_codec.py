"""Messages on the wire: what goes in comes out, and what makes no sense is refused without a trace."""

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from mcr_node.core.entry import LOG_ENTRY_BYTES_MAX
from mcr_node.core.raft.messages import (
    LOCAL_TYPES,
    ConfState,
    Entry,
    EntryType,
    Message,
    MessageType,
    Snapshot,
)
from mcr_node.peer.v1 import entry_pb2, raft_pb2
from mcr_node.transport import codec

numbers = st.integers(0, (1 << 64) - 1)
ids = st.lists(st.integers(1, 1 << 62), max_size=5, unique=True).map(lambda found: tuple(sorted(found)))
entries = st.builds(
    Entry, term=numbers, index=numbers, type=st.sampled_from(list(EntryType)), data=st.binary(max_size=64)
)
confs = st.builds(
    ConfState, voters=ids, learners=ids, voters_outgoing=ids, learners_next=ids, auto_leave=st.booleans()
)
snapshots = st.builds(Snapshot, index=numbers, term=numbers, conf_state=confs)
kinds = st.sampled_from([kind for kind in MessageType if kind not in LOCAL_TYPES])
messages = st.builds(
    Message,
    type=kinds,
    to=st.just(2),
    sender=st.just(1),
    term=numbers,
    log_term=numbers,
    index=numbers,
    commit=numbers,
    reject=st.booleans(),
    reject_hint=numbers,
    read_sequence=numbers,
    entries=st.lists(entries, max_size=4).map(tuple),
    snapshot=st.none() | snapshots,
    context=st.binary(max_size=codec.CONTEXT_BYTES_MAX),
)


@given(messages)
def test_a_message_comes_out_as_it_went_in(message: Message) -> None:
    wire = raft_pb2.RaftMessage.FromString(codec.encode(message).SerializeToString())
    assert codec.decode(wire, sender=1, to=2) == message


@pytest.mark.parametrize("kind", [0, 9, 15, 30, 1 << 31, *sorted(LOCAL_TYPES)])
def test_kinds_that_never_travel_are_refused(kind: int) -> None:
    with pytest.raises(codec.WireError):
        codec.decode(raft_pb2.RaftMessage(type=int(kind)), sender=1, to=2)


@pytest.mark.parametrize(
    "bad",
    [
        raft_pb2.RaftMessage(type=MessageType.APPEND, context=bytes(codec.CONTEXT_BYTES_MAX + 1)),
        raft_pb2.RaftMessage(type=MessageType.APPEND, entries=[entry_pb2.Entry(index=1, term=1, kind=3)]),
        raft_pb2.RaftMessage(
            type=MessageType.APPEND,
            entries=[entry_pb2.Entry(index=1, term=1, data=bytes(LOG_ENTRY_BYTES_MAX + 1))],
        ),
        raft_pb2.RaftMessage(
            type=MessageType.SNAPSHOT, snapshot=raft_pb2.RaftSnapshot(index=1, voters=[2, 1])
        ),
        raft_pb2.RaftMessage(
            type=MessageType.SNAPSHOT, snapshot=raft_pb2.RaftSnapshot(index=1, voters=[1, 1])
        ),
    ],
)
def test_fields_out_of_bounds_are_refused(bad: raft_pb2.RaftMessage) -> None:
    with pytest.raises(codec.WireError):
        codec.decode(bad, sender=1, to=2)


@given(st.binary(max_size=400))
def test_whatever_bytes_come_nothing_but_a_refusal_comes_of_them(data: bytes) -> None:
    try:
        request = raft_pb2.DeliverRequest.FromString(data)
    except DecodeError:
        return
    for wire in request.messages:
        try:
            message = codec.decode(wire, sender=1, to=2)
        except codec.WireError:
            continue
        assert message.type not in LOCAL_TYPES


def test_an_announcement_without_its_snapshot_is_refused() -> None:
    message = codec.encode(Message(MessageType.SNAPSHOT, 2, 1))
    for bad in (
        raft_pb2.SnapshotAnnouncement(message=message, state_digest=bytes(32)),
        raft_pb2.SnapshotAnnouncement(
            message=codec.encode(Message(MessageType.SNAPSHOT, 2, 1, snapshot=Snapshot(1, 1))),
            state_digest=b"short",
        ),
    ):
        with pytest.raises(codec.WireError):
            codec.announced(bad)
