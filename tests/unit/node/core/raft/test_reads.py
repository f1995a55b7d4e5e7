"""Linearizable reads (thesis §6.4): after the first commit of the term, and a quorum confirmed the leader."""

import pytest

from mcr_node.core.raft.errors import ReadDroppedError
from mcr_node.core.raft.messages import (
    ConfChange,
    ConfChangeType,
    Message,
    MessageType,
)
from mcr_node.core.raft.raft import ReadState
from tests.support.raft_network import RaftNetwork


def is_heartbeat_answer(message: Message) -> bool:
    return message.type is MessageType.HEARTBEAT_RESP


def test_a_read_names_the_commit_index_of_its_arrival() -> None:
    network = RaftNetwork(3)
    network.elect(1)
    network.hold(is_heartbeat_answer)
    network.nodes[1].read_index(b"r")
    network.settle()
    index = network.committed(1)
    network.propose(1, b"later")

    network.release()

    assert network.read_states[1] == [ReadState(index, b"r")]


def test_without_a_quorum_no_read_is_answered() -> None:
    network = RaftNetwork(5)
    network.elect(1)
    network.isolate(1, 2)

    network.nodes[1].read_index(b"r")
    network.tick(1, ticks=3)
    assert network.read_states[1] == []
    network.heal()
    network.tick(1, ticks=2)

    assert network.read_states[1] == [ReadState(network.committed(1), b"r")]


def test_answers_of_learners_confirm_no_read() -> None:
    network = RaftNetwork(voters=3, learners=2)
    network.elect(1)
    network.isolate(1, 4, 5)

    network.nodes[1].read_index(b"r")
    network.settle()

    assert network.read_states[1] == []


def test_a_read_waits_for_the_first_commit_of_the_term() -> None:
    network = RaftNetwork(3)
    network.hold(lambda message: message.type is MessageType.APPEND)
    network.elect(1)

    network.nodes[1].read_index(b"r")
    network.tick(1, ticks=2)
    assert network.read_states[1] == []
    network.release()

    assert network.read_states[1] == [ReadState(1, b"r")]


def test_a_sole_voter_reads_without_a_round_but_not_before_its_first_commit() -> None:
    network = RaftNetwork(1)
    network.elect(1)
    network.propose(1, b"x")
    network.restart(1)

    with pytest.raises(ReadDroppedError):
        network.nodes[1].read_index(b"early")
    network.elect(1)
    network.nodes[1].read_index(b"r")
    network.settle()

    assert network.read_states[1] == [ReadState(3, b"r")]


def test_late_answers_to_an_earlier_read_do_not_confirm_one_with_the_same_token() -> None:
    # etcd#20418: the answers belong to a round that began before the second read arrived.
    network = RaftNetwork(3)
    network.elect(1)
    network.hold(is_heartbeat_answer)
    network.nodes[1].read_index(b"same")
    network.settle()
    late = list(network.held)
    network.isolate(1)
    network.nodes[1].read_index(b"same")
    network.settle()

    for message in late:
        network.deliver(message)
    network.work(1)

    assert network.read_states[1] == [ReadState(1, b"same")]
    assert len(network.nodes[1].raft.pending_reads) == 1


def test_answers_to_plain_heartbeats_sent_before_a_read_do_not_confirm_it() -> None:
    network = RaftNetwork(3)
    network.elect(1)
    network.hold(is_heartbeat_answer)
    network.tick(1)
    network.isolate(1)
    network.nodes[1].read_index(b"r")
    network.settle()

    network.release()

    assert network.read_states[1] == []


def test_answers_of_an_older_term_confirm_nothing() -> None:
    network = RaftNetwork(3)
    network.elect(1)
    network.hold(is_heartbeat_answer)
    network.nodes[1].read_index(b"old")
    network.settle()
    network.elect(2)
    network.elect(1)
    network.isolate(1)
    network.nodes[1].read_index(b"new")
    network.settle()

    network.release()

    assert network.read_states[1] == []


def test_one_answer_twice_is_not_two() -> None:
    network = RaftNetwork(5)
    network.elect(1)
    network.hold(is_heartbeat_answer)
    network.nodes[1].read_index(b"r")
    network.settle()
    (first, *_) = network.held

    for _ in range(3):
        network.deliver(first)
    network.work(1)

    assert network.read_states[1] == []


def test_a_leader_that_was_replaced_unknowingly_answers_no_read() -> None:
    network = RaftNetwork(3)
    network.elect(1)
    network.isolate(1)
    network.elect(2)
    network.propose(2, b"x")

    network.nodes[1].read_index(b"r")
    network.tick(1, ticks=5)

    assert network.read_states[1] == []


def test_a_thousand_reads_share_two_rounds() -> None:
    network = RaftNetwork(3)
    network.elect(1)

    for number in range(1000):
        network.nodes[1].read_index(b"%d" % number)
    network.settle()

    assert [state.token for state in network.read_states[1]] == [b"%d" % number for number in range(1000)]
    assert network.nodes[1].raft.read_sequence == 2


def test_a_follower_reads_through_its_leader() -> None:
    network = RaftNetwork(3)
    network.elect(1)

    network.nodes[2].read_index(b"r")
    network.settle()

    assert network.read_states[2] == [ReadState(1, b"r")]
    assert network.read_states[1] == []


def test_a_read_at_a_node_without_a_leader_is_refused_at_once() -> None:
    network = RaftNetwork(3)

    with pytest.raises(ReadDroppedError):
        network.nodes[1].read_index(b"r")


def test_reads_beyond_the_limit_are_refused() -> None:
    network = RaftNetwork(3, reads_waiting_max=2)
    network.elect(1)
    for _ in range(2):
        network.nodes[1].read_index(b"r")

    with pytest.raises(ReadDroppedError):
        network.nodes[1].read_index(b"r")


def test_a_read_that_waits_is_answered_when_the_quorum_shrinks() -> None:
    # raft-rs: a read waited for ever when the missing voter was removed.
    network = RaftNetwork(2)
    network.elect(1)
    network.nodes[1].propose_conf_change(ConfChange(ConfChangeType.REMOVE_NODE, 2))
    network.hold(is_heartbeat_answer)
    network.nodes[1].read_index(b"r")

    network.settle()

    assert [state.token for state in network.read_states[1]] == [b"r"]


def test_a_lost_round_is_repeated_by_the_next_heartbeat() -> None:
    network = RaftNetwork(3)
    network.elect(1)
    network.isolate(1)
    network.nodes[1].read_index(b"r")
    network.settle()
    network.heal()

    network.tick(1)

    assert [state.token for state in network.read_states[1]] == [b"r"]


def test_a_leader_that_is_elected_again_begins_its_rounds_anew() -> None:
    network = RaftNetwork(3)
    network.elect(1)
    network.nodes[1].read_index(b"first")
    network.settle()
    network.isolate(1)
    network.nodes[1].read_index(b"given up")
    network.settle()
    network.elect(2)
    network.heal()
    network.tick(2)
    network.elect(1)

    network.nodes[1].read_index(b"second")
    network.settle()

    assert [state.token for state in network.read_states[1]] == [b"first", b"second"]


def test_an_answer_to_a_round_that_never_was_confirms_nothing() -> None:
    network = RaftNetwork(3)
    network.elect(1)
    network.isolate(1)
    network.nodes[1].read_index(b"r")
    network.settle()

    network.deliver(Message(MessageType.HEARTBEAT_RESP, 1, 2, 1, read_sequence=100))
    network.work(1)

    assert network.read_states[1] == []
