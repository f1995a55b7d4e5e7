"""Handing leadership over (thesis §3.10)."""

import pytest

from mcr_node.core.raft.errors import ProposalDroppedError
from mcr_node.core.raft.messages import (
    NO_NODE,
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfChangeV2,
    MessageType,
)
from mcr_node.core.raft.raft import Role
from tests.support.raft_network import RaftNetwork


@pytest.mark.parametrize("asked", [1, 3])
@pytest.mark.parametrize("safety", [False, True])
def test_leadership_moves_to_the_target_whoever_is_asked(asked: int, safety: bool) -> None:
    network = RaftNetwork(3, pre_vote=safety, check_quorum=safety)
    network.elect(1)

    network.nodes[asked].transfer_leader(2)
    network.settle()

    assert (network.role(1), network.role(2)) == (Role.FOLLOWER, Role.LEADER)


def test_a_lagging_target_catches_up_first() -> None:
    network = RaftNetwork(3)
    network.elect(1)
    network.isolate(3)
    for _ in range(5):
        network.propose(1, b"x")
    network.heal()

    network.nodes[1].transfer_leader(3)
    network.tick(1)

    assert network.role(3) is Role.LEADER
    assert network.data(3) == [b"x"] * 5


@pytest.mark.parametrize("target", [1, 4, 9])
def test_itself_learners_and_strangers_are_no_targets(target: int) -> None:
    network = RaftNetwork(voters=3, learners=1)
    network.elect(1)

    network.nodes[1].transfer_leader(target)
    network.settle()

    assert network.role(1) is Role.LEADER
    assert network.nodes[1].raft.transfer_target == NO_NODE
    assert network.sent(MessageType.TIMEOUT_NOW) == []


def test_proposals_wait_for_the_transfer_and_flow_again_after_an_election_timeout() -> None:
    network = RaftNetwork(3)
    network.elect(1)
    network.isolate(3)
    network.nodes[1].transfer_leader(3)

    with pytest.raises(ProposalDroppedError):
        network.nodes[1].propose(b"x")
    network.tick(1, ticks=10)
    network.propose(1, b"y")

    assert network.data(2) == [b"y"]


def test_asking_again_for_the_same_target_does_not_prolong_the_attempt() -> None:
    network = RaftNetwork(3)
    network.elect(1)
    network.isolate(3)

    for _ in range(10):
        network.nodes[1].transfer_leader(3)
        network.tick(1)

    assert network.nodes[1].raft.transfer_target == NO_NODE


def test_another_target_replaces_the_first() -> None:
    network = RaftNetwork(3)
    network.elect(1)
    network.isolate(3)
    network.nodes[1].transfer_leader(3)

    network.nodes[1].transfer_leader(2)
    network.settle()

    assert network.role(2) is Role.LEADER


def test_a_transfer_ends_with_the_term() -> None:
    network = RaftNetwork(3)
    network.elect(1)
    network.isolate(3)
    network.nodes[1].transfer_leader(3)

    network.elect(2)
    network.elect(1)

    assert network.nodes[1].raft.transfer_target == NO_NODE


def test_a_transfer_to_a_removed_voter_ends() -> None:
    network = RaftNetwork(3)
    network.elect(1)
    network.isolate(3)
    network.nodes[1].propose_conf_change(ConfChange(ConfChangeType.REMOVE_NODE, 3))
    network.nodes[1].transfer_leader(3)

    network.settle()

    assert network.nodes[1].raft.transfer_target == NO_NODE
    network.propose(1, b"x")
    assert network.data(2) == [b"x"]


def test_a_node_that_was_removed_does_not_campaign_when_told() -> None:
    network = RaftNetwork(3)
    network.elect(1)
    network.nodes[1].propose_conf_change(ConfChange(ConfChangeType.REMOVE_NODE, 3))
    network.settle()
    network.tick(1)
    before = network.term(3)

    network.nodes[3].campaign()
    network.tick(3, ticks=50)

    assert network.term(3) == before


def test_a_joint_configuration_is_left_although_a_transfer_stood_in_the_way() -> None:
    network = RaftNetwork(3)
    network.elect(1)
    network.isolate(3)
    changes = (
        ConfChangeSingle(ConfChangeType.ADD_LEARNER, 4),
        ConfChangeSingle(ConfChangeType.ADD_LEARNER, 5),
    )
    network.nodes[1].propose_conf_change(ConfChangeV2(changes, ConfChangeTransition.JOINT_IMPLICIT))
    network.nodes[1].transfer_leader(3)
    network.settle()
    assert network.nodes[1].status().config.auto_leave

    network.tick(1, ticks=15)

    assert network.nodes[1].status().config.voters_outgoing == ()
