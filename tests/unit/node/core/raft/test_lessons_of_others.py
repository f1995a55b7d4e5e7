"""Situations in which other implementations of Raft failed, each with where that was reported."""

from itertools import combinations

import pytest

from mcr_node.core.raft.errors import ProposalDroppedError
from mcr_node.core.raft.messages import (
    ConfChange,
    ConfChangeType,
    ConfState,
    Entry,
    HardState,
    Message,
    MessageType,
    Snapshot,
    entry_bytes,
)
from mcr_node.core.raft.raft import Role
from mcr_node.core.raft.tracker import ProgressState
from tests.support.raft_network import RaftNetwork

LINKS_OF_FIVE = list(combinations(range(1, 6), 2))


def leaders(network: RaftNetwork) -> list[int]:
    return [node_id for node_id in network.nodes if network.role(node_id) is Role.LEADER]


def test_a_refusal_is_not_taken_back_by_a_second_answer() -> None:
    network = RaftNetwork(3)
    network.isolate(1)
    network.nodes[1].campaign()
    network.work(1)

    network.deliver(Message(MessageType.VOTE_RESP, 1, 2, 1, reject=True))
    network.deliver(Message(MessageType.VOTE_RESP, 1, 2, 1))

    assert network.role(1) is Role.CANDIDATE


def test_voters_vote_again_once_their_leader_was_silent_for_an_election_timeout() -> None:
    network = RaftNetwork(3, check_quorum=True)
    network.elect(1)
    network.isolate(1)
    for _ in range(9):
        network.nodes[2].tick()
    network.deliver(Message(MessageType.VOTE, 2, 3, 2, 1, 1))
    too_early = network.nodes[2].raft.vote

    network.isolate(2)
    network.nodes[2].raft.election_timeout_ticks = 100
    network.nodes[2].tick()
    network.deliver(Message(MessageType.VOTE, 2, 3, 2, 1, 1))

    assert (too_early, network.nodes[2].raft.vote) == (1, 3)


def test_nodes_with_and_without_pre_vote_do_not_wait_for_each_other_for_ever() -> None:
    # etcd#8501: node 3 has the higher term and the shorter log, node 2 the reverse; only 2 can win.
    network = RaftNetwork(3, pre_vote=True)
    network.elect(1)
    network.isolate(3)
    network.propose(1, b"x")
    network.deliver(Message(MessageType.VOTE, 3, 2, 5))
    network.heal()
    network.isolate(1)

    network.tick(2, 3, ticks=60)

    assert leaders(network)[-1] == 2


def test_a_removed_node_that_was_not_told_cannot_disturb() -> None:
    # Thesis §4.2.3.
    network = RaftNetwork(3, check_quorum=True)
    network.elect(1)
    network.isolate(3)
    network.nodes[1].propose_conf_change(ConfChange(ConfChangeType.REMOVE_NODE, 3))
    network.settle()
    network.heal()

    for _ in range(40):
        network.tick(1, 2, 3)

    assert network.term(3) > 1
    assert leaders(network) == [1]
    assert network.term(1) == 1


@pytest.mark.parametrize("first", LINKS_OF_FIVE, ids=str)
def test_with_any_two_links_down_a_group_of_five_commits(first: tuple[int, int]) -> None:
    # cockroach#107060; Cloudflare, November 2020: partial partitions with pre-vote and check-quorum.
    for second in LINKS_OF_FIVE:
        network = RaftNetwork(5, pre_vote=True, check_quorum=True)
        network.elect(1)
        for link in (first, second):
            network.cut(*link)
            network.cut(*reversed(link))
        network.tick(1, 2, 3, 4, 5, ticks=50)

        (leader,) = leaders(network)
        before = network.committed(leader)
        network.propose(leader, b"x")

        assert network.committed(leader) > before, second


def test_a_candidate_takes_the_snapshot_that_it_needs() -> None:
    # nebula#1769: it refused, and asked for votes for ever.
    network = RaftNetwork(3)
    network.elect(1)
    network.isolate(3)
    for _ in range(5):
        network.propose(1, b"x")
    network.storages[1].compact(4)
    network.nodes[3].campaign()
    network.work(3)
    snapshot = network.storages[1].snapshot()

    network.deliver(Message(MessageType.SNAPSHOT, 3, 1, 2, snapshot=snapshot))
    network.work(3)

    assert (network.role(3), network.committed(3)) == (Role.FOLLOWER, snapshot.index)


def test_nobody_campaigns_while_a_snapshot_waits_to_be_written() -> None:
    network = RaftNetwork(3)
    network.deliver(Message(MessageType.SNAPSHOT, 3, 1, 2, snapshot=Snapshot(9, 2, network.conf_state)))

    network.nodes[3].campaign()

    assert network.role(3) is Role.FOLLOWER


def test_a_snapshot_may_make_a_learner_of_a_voter() -> None:
    # etcd#10864.
    network = RaftNetwork(3)
    conf_state = ConfState(voters=(1, 2), learners=(3,))

    network.deliver(Message(MessageType.SNAPSHOT, 3, 1, 2, snapshot=Snapshot(9, 2, conf_state)))
    network.work(3)
    network.tick(3, ticks=50)

    assert network.nodes[3].status().config == conf_state
    assert network.role(3) is Role.FOLLOWER


def test_an_installed_snapshot_survives_two_restarts() -> None:
    # CurvineIO#1551: consistent after the first, not after the second.
    network = RaftNetwork(3)
    snapshot = Snapshot(9, 2, network.conf_state)
    network.deliver(Message(MessageType.SNAPSHOT, 3, 1, 2, snapshot=snapshot))
    network.work(3)

    for _ in range(2):
        network.restart(3)
        status = network.nodes[3].status()
        assert (status.hard_state, status.applied) == (HardState(2, 0, 9), 9)


def test_late_messages_of_a_removed_node_change_nothing() -> None:
    network = RaftNetwork(3)
    network.elect(1)
    network.hold(lambda message: message.sender == 3)
    network.propose(1, b"x")
    network.nodes[1].propose_conf_change(ConfChange(ConfChangeType.REMOVE_NODE, 3))
    network.settle()
    before = network.nodes[1].status()

    network.release()

    assert network.nodes[1].status() == before


def test_a_throttled_follower_is_probed_again() -> None:
    # etcd#14633: all appends of the window were lost, and nothing was ever sent again.
    network = RaftNetwork(3, inflight_messages_max=2)
    network.elect(1)
    network.cut(1, 3)
    for _ in range(5):
        network.propose(1, b"x")
    network.heal()

    network.tick(1, ticks=2)

    assert network.data(3) == [b"x"] * 5


def test_a_lost_message_that_is_reported_makes_the_leader_probe() -> None:
    network = RaftNetwork(3)
    network.elect(1)
    network.isolate(3)
    network.propose(1, b"x")

    network.nodes[1].report_unreachable(3)

    assert network.nodes[1].raft.tracker.get(3).state is ProgressState.PROBE


@pytest.mark.parametrize("entries_per_batch", [1, 2, 3])
def test_applying_in_small_batches_takes_no_commit_back(entries_per_batch: int) -> None:
    # cockroach#28918.
    network = RaftNetwork(3, apply_bytes_max=entries_per_batch * entry_bytes(Entry(1, 1, data=b"x")))
    network.elect(1)
    network.isolate(3)
    for _ in range(10):
        network.nodes[1].propose(b"x")
    network.settle()
    network.heal()

    network.tick(1, ticks=2)

    assert network.data(3) == network.data(1) == [b"x"] * 10
    assert network.committed(3) == 11


def test_a_proposal_is_refused_by_a_candidate_rather_than_lost() -> None:
    network = RaftNetwork(3)
    network.isolate(1)
    network.nodes[1].campaign()

    with pytest.raises(ProposalDroppedError):
        network.nodes[1].propose(b"x")


def test_forgetting_a_leader_lets_a_pre_vote_through_and_keeps_the_timeout() -> None:
    network = RaftNetwork(3, pre_vote=True, check_quorum=True)
    network.elect(1)
    network.isolate(1)
    for _ in range(3):
        network.nodes[2].tick()
    network.nodes[2].forget_leader()

    network.nodes[3].campaign()
    network.settle()

    assert network.role(3) is Role.LEADER
