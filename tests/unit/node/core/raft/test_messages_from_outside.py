"""What makes no sense is refused by name and changes nothing; the node goes on."""

import pytest

from mcr_node.core.raft.errors import InvalidMessageError, LocalMessageError, UnknownPeerError
from mcr_node.core.raft.messages import (
    APPEND_QUEUE,
    APPLY_QUEUE,
    LOCAL_TYPES,
    ConfState,
    Entry,
    Message,
    MessageType,
    Snapshot,
)
from mcr_node.core.raft.raft import Role
from mcr_node.core.raft.validation import TERM_MAX, TERM_STEP_MAX
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


def test_an_order_to_campaign_of_who_is_no_member_as_far_as_known_is_refused_as_such() -> None:
    # Who restarts may have a leader's entries, and not know yet that the one adding that leader is committed.
    network = RaftNetwork(3)
    network.nodes[1].step(Message(MessageType.VOTE, 1, 2, 4))

    with pytest.raises(UnknownPeerError):
        network.nodes[1].step(Message(MessageType.TIMEOUT_NOW, 1, 9, 4))
    # Of a later term it is no leader's that this node could have acknowledged anything to.
    with pytest.raises(InvalidMessageError) as refused:
        network.nodes[1].step(Message(MessageType.TIMEOUT_NOW, 1, 9, 5))

    assert not isinstance(refused.value, UnknownPeerError)
    assert network.term(1) == 4


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


def test_nodes_that_were_torn_apart_in_terms_find_each_other_step_by_step() -> None:
    network = RaftNetwork(3, pre_vote=True, check_quorum=True)
    network.elect(1)
    far = 5 * TERM_STEP_MAX
    # Somebody speaks to node 2 in a member's name, again and again.
    while network.term(2) < far:
        network.nodes[2].step(Message(MessageType.HEARTBEAT, 2, 3, TERM_MAX))

    # Vote requests from so far away are refused, which loses them.
    votes = (MessageType.VOTE, MessageType.PRE_VOTE)
    network.hold(lambda sent: sent.type in votes and sent.term > network.term(sent.to) + TERM_STEP_MAX)
    for _ in range(200):
        network.tick(1, 2, 3)
        network.settle()

    assert len({network.term(node_id) for node_id in (1, 2, 3)}) == 1
    leader = next(node_id for node_id in (1, 2, 3) if network.role(node_id) is Role.LEADER)
    network.propose(leader, b"x")
    assert network.data(2) == [b"x"]


def test_a_term_that_nobody_reaches_is_refused() -> None:
    network = RaftNetwork(3)

    for sender in (2, 3):
        with pytest.raises(InvalidMessageError):
            network.nodes[1].step(Message(MessageType.HEARTBEAT, 1, sender, TERM_MAX + 1))

    assert network.term(1) == 0


def test_a_second_leader_in_a_term_is_refused() -> None:
    network = RaftNetwork(3)
    network.elect(1)

    for to in (1, 2):
        with pytest.raises(InvalidMessageError):
            network.nodes[to].step(Message(MessageType.HEARTBEAT, to, 3, network.term(to)))


def test_a_member_leads_where_a_stranger_spoke_first() -> None:
    network = RaftNetwork(3)
    network.nodes[1].step(Message(MessageType.HEARTBEAT, 1, 9, 4))
    assert network.nodes[1].raft.leader == 9

    network.nodes[1].step(Message(MessageType.HEARTBEAT, 1, 2, 4))

    assert network.nodes[1].raft.leader == 2
    with pytest.raises(InvalidMessageError):
        network.nodes[1].step(Message(MessageType.HEARTBEAT, 1, 9, 4))


def test_the_name_of_a_local_queue_makes_nothing_believed() -> None:
    network = RaftNetwork(3)

    for sender in (APPEND_QUEUE, APPLY_QUEUE):
        with pytest.raises(InvalidMessageError):
            network.nodes[1].step(Message(MessageType.APPEND, 1, sender, 5, entries=(Entry(1, 2),)))
