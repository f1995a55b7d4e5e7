"""What makes no sense is refused by name and changes nothing; the node goes on."""

import pytest

from mcr_node.core.raft.errors import InvalidMessageError, LocalMessageError, UnknownPeerError
from mcr_node.core.raft.messages import LOCAL_TYPES, ConfState, Entry, Message, MessageType, Snapshot
from tests.support.raft_network import RaftNetwork

THREE = ConfState(voters=(1, 2, 3))


def snapshot(conf_state: ConfState) -> Message:
    return Message(MessageType.SNAPSHOT, 1, 2, 5, snapshot=Snapshot(9, 1, conf_state))


@pytest.mark.parametrize("kind", sorted(LOCAL_TYPES), ids=lambda kind: kind.name)
def test_local_kinds_do_not_come_from_the_network(kind: MessageType) -> None:
    network = RaftNetwork(3)

    with pytest.raises(LocalMessageError):
        network.nodes[1].step(Message(kind, 1, 2, 1))


def test_answers_of_strangers_are_refused() -> None:
    network = RaftNetwork(3)

    with pytest.raises(UnknownPeerError):
        network.nodes[1].step(Message(MessageType.VOTE_RESP, 1, 9, 7))

    assert network.term(1) == 0


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(Message(MessageType.APPEND, 1, 2, 5, entries=(Entry(1, 2),)), id="gap"),
        pytest.param(Message(MessageType.APPEND, 1, 2, 5, entries=(Entry(6, 1),)), id="term ahead"),
        pytest.param(
            Message(MessageType.APPEND, 1, 2, 5, entries=(Entry(2, 1), Entry(1, 2))), id="terms fall"
        ),
        pytest.param(Message(MessageType.APPEND, 1, 2, 0), id="append without term"),
        pytest.param(Message(MessageType.VOTE, 1, 2, 0), id="vote without term"),
        pytest.param(Message(MessageType.TIMEOUT_NOW, 1, 2, 0), id="timeout without term"),
        pytest.param(Message(MessageType.PROPOSE, 1, 2), id="empty proposal"),
        pytest.param(Message(MessageType.SNAPSHOT, 1, 2, 5), id="no snapshot"),
        pytest.param(snapshot(ConfState(voters=(1, 1, 2))), id="voter twice"),
        pytest.param(snapshot(ConfState(voters=(1, 2), learners=(2,))), id="voter and learner"),
        pytest.param(snapshot(ConfState(voters=(1, 2), learners_next=(2,))), id="learner next, not joint"),
        pytest.param(snapshot(ConfState(voters=(1, 2), auto_leave=True)), id="auto leave, not joint"),
        pytest.param(snapshot(ConfState(voters_outgoing=(1, 2))), id="no incoming voters"),
    ],
)
def test_nonsense_changes_nothing(message: Message) -> None:
    network = RaftNetwork(3)
    before = network.nodes[1].status()

    with pytest.raises(InvalidMessageError):
        network.nodes[1].step(message)

    assert network.nodes[1].status() == before
    assert not network.nodes[1].has_ready()


def test_an_answer_about_entries_never_sent_moves_no_match() -> None:
    network = RaftNetwork(3)
    network.elect(1)
    match = network.nodes[1].raft.tracker.get(2).match

    network.deliver(Message(MessageType.APPEND_RESP, 1, 2, 1, index=1_000))

    assert network.nodes[1].raft.tracker.get(2).match == match


def test_a_rejection_beyond_the_log_harms_nothing() -> None:
    network = RaftNetwork(3)
    network.elect(1)

    network.deliver(Message(MessageType.APPEND_RESP, 1, 2, 1, 1, 1_000, reject=True, reject_hint=999))
    network.settle()
    network.propose(1, b"x")

    assert network.data(2) == [b"x"]
