"""Changing who votes, one change at a time (thesis §4)."""

import pytest

from mcr_node.core.raft.errors import HaltError
from mcr_node.core.raft.messages import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfChangeV2,
    EntryType,
    MessageType,
)
from mcr_node.core.raft.raft import Role
from tests.support.raft_network import RaftNetwork

ADD, REMOVE, LEARN = ConfChangeType.ADD_NODE, ConfChangeType.REMOVE_NODE, ConfChangeType.ADD_LEARNER


def joint(*changes: tuple[ConfChangeType, int], explicit: bool = False) -> ConfChangeV2:
    transition = ConfChangeTransition.JOINT_EXPLICIT if explicit else ConfChangeTransition.JOINT_IMPLICIT
    return ConfChangeV2(tuple(ConfChangeSingle(*change) for change in changes), transition)


def changes_in_log(network: RaftNetwork, node_id: int) -> list[EntryType]:
    storage = network.storages[node_id]
    entries = storage.entries(storage.first_index(), storage.last_index() + 1, 1 << 30)
    return [entry.type for entry in entries if entry.type is not EntryType.NORMAL]


def test_a_second_change_is_refused_while_one_is_pending() -> None:
    network = RaftNetwork(3)
    network.elect(1)

    network.nodes[1].propose_conf_change(ConfChange(LEARN, 4))
    network.nodes[1].propose_conf_change(ConfChange(LEARN, 5))
    network.settle()

    assert network.nodes[1].status().config.learners == (4,)
    assert changes_in_log(network, 1) == [EntryType.CONF_CHANGE]


def test_a_change_waits_until_what_older_terms_left_is_applied() -> None:
    network = RaftNetwork(3)
    network.elect(1)
    network.hold(lambda message: message.type is MessageType.APPEND_RESP)
    network.propose(1, b"of an older term")
    network.elect(2)

    network.nodes[2].propose_conf_change(ConfChange(LEARN, 4))
    network.settle()
    refused = changes_in_log(network, 2)
    network.release()
    network.nodes[2].propose_conf_change(ConfChange(LEARN, 4))
    network.settle()

    assert refused == []
    assert network.nodes[2].status().config.learners == (4,)


def test_an_uncommitted_change_of_a_former_leader_blocks_the_next_one_until_it_is_applied() -> None:
    network = RaftNetwork(3)
    network.elect(1)
    network.hold(lambda message: message.type is MessageType.APPEND_RESP and message.to == 1)
    network.nodes[1].propose_conf_change(ConfChange(LEARN, 4))
    network.settle()
    network.hold(lambda message: message.type is MessageType.APPEND_RESP and message.to == 2)
    network.elect(2)

    network.nodes[2].propose_conf_change(ConfChange(LEARN, 5))
    network.release()

    assert network.nodes[2].status().config.learners == (4,)


def test_nobody_campaigns_with_a_committed_change_unapplied() -> None:
    # etcd#7625.
    network = RaftNetwork(3)
    network.elect(1)
    network.nodes[1].propose_conf_change(ConfChange(LEARN, 4))
    network.settle()
    log = network.nodes[2].raft.log
    log.applied = log.applying = network.committed(2) - 1

    network.nodes[2].campaign()

    assert network.role(2) is Role.FOLLOWER
    assert network.term(2) == 1


@pytest.mark.parametrize("explicit", [False, True])
def test_while_joint_both_majorities_must_agree(explicit: bool) -> None:
    network = RaftNetwork(3)
    network.elect(1)
    for newcomer in (4, 5):
        network.add(newcomer)
    network.nodes[1].propose_conf_change(
        joint((ADD, 4), (ADD, 5), (REMOVE, 2), (REMOVE, 3), explicit=explicit)
    )
    network.isolate(4, 5)
    network.settle()
    before = network.committed(1)

    network.nodes[1].propose(b"x")
    network.settle()

    assert network.nodes[1].status().config.voters_outgoing == (1, 2, 3)
    assert network.committed(1) == before


def test_an_implicit_joint_change_leaves_by_itself_and_once() -> None:
    network = RaftNetwork(3)
    network.elect(1)
    for newcomer in (4, 5):
        network.add(newcomer)
    # The first voters are not in the log, so newcomers must begin with a snapshot.
    network.storages[1].compact(1)

    network.nodes[1].propose_conf_change(joint((ADD, 4), (ADD, 5), (REMOVE, 2), (REMOVE, 3)))
    network.tick(1, ticks=5)

    config = network.nodes[5].status().config
    assert (config.voters, config.voters_outgoing) == ((1, 4, 5), ())
    assert changes_in_log(network, 1) == [EntryType.CONF_CHANGE_V2] * 2


def test_a_new_leader_leaves_the_joint_configuration_of_the_old_one() -> None:
    network = RaftNetwork(3)
    network.elect(1)
    network.hold(lambda message: message.type is MessageType.APPEND_RESP and message.to == 1)
    network.nodes[1].propose_conf_change(joint((LEARN, 4)))
    network.settle()
    network.isolate(1)

    network.elect(2)

    config = network.nodes[2].status().config
    assert (config.learners, config.voters_outgoing) == ((4,), ())


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(ConfChangeV2(), id="leave without being joint"),
        pytest.param(joint((REMOVE, 1), (REMOVE, 2), (REMOVE, 3)), id="nobody left"),
    ],
)
def test_a_change_that_cannot_follow_becomes_an_empty_entry(change: ConfChangeV2) -> None:
    network = RaftNetwork(3)
    network.elect(1)
    last = network.storages[1].last_index()

    network.nodes[1].propose_conf_change(change)
    network.settle()

    assert network.storages[1].last_index() == last + 1
    assert changes_in_log(network, 1) == []


def test_a_removed_leader_commits_its_removal_without_counting_itself_and_steps_down() -> None:
    network = RaftNetwork(3)
    network.elect(1)

    network.nodes[1].propose_conf_change(ConfChange(REMOVE, 1))
    network.settle()

    assert network.role(1) is Role.FOLLOWER
    assert network.elect(2).status().config.voters == (2, 3)


def test_a_leader_removed_while_its_disk_is_at_work_hears_of_the_write_without_harm() -> None:
    network = RaftNetwork(3, asynchronous=True)
    network.elect(1)
    network.nodes[1].propose_conf_change(ConfChange(REMOVE, 1))
    network.begin(1)
    network.finish_append(1)
    for member in (2, 3, 1):
        arriving, network.in_flight = network.in_flight, []
        for message in arriving:
            network.deliver(message)
        if member != 1:
            network.work(2)
            network.work(3)
    network.nodes[1].propose(b"x")
    network.begin(1)

    network.finish_apply(1)
    removed = network.nodes[1].status().config.voters
    network.settle()

    assert removed == (2, 3)
    assert network.role(1) is Role.FOLLOWER


def test_removing_a_silent_voter_commits_what_waited_for_it() -> None:
    network = RaftNetwork(4)
    network.elect(1)
    network.isolate(4)
    network.nodes[1].propose_conf_change(ConfChange(REMOVE, 4))
    network.settle()
    network.isolate(3)

    network.propose(1, b"x")

    assert network.data(1) == [b"x"]


def test_a_promoted_learner_counts_and_a_demoted_voter_does_not() -> None:
    network = RaftNetwork(voters=2, learners=1)
    network.elect(1)
    network.nodes[1].propose_conf_change(joint((ADD, 3), (LEARN, 2)))
    network.settle()

    config = network.nodes[1].status().config
    assert (config.voters, config.learners) == ((1, 3), (2,))
    network.isolate(2)
    network.propose(1, b"x")
    assert network.data(1) == [b"x"]


def test_a_new_node_is_caught_up_from_nothing() -> None:
    network = RaftNetwork(1)
    network.elect(1)
    for _ in range(3):
        network.propose(1, b"x")
    network.storages[1].compact(3)
    network.add(2)

    network.nodes[1].propose_conf_change(ConfChange(ADD, 2))
    network.tick(1, ticks=3)

    assert network.committed(2) == network.committed(1)
    assert network.nodes[2].status().config.voters == (1, 2)


def test_a_newcomer_whose_log_lacks_the_first_voters_halts_rather_than_lead_alone() -> None:
    network = RaftNetwork(1)
    network.elect(1)
    network.add(2)

    network.nodes[1].propose_conf_change(ConfChange(ADD, 2))

    with pytest.raises(HaltError):
        network.tick(1, ticks=2)


def test_a_newcomer_whose_log_names_the_first_voter_is_told_the_same_as_everybody() -> None:
    network = RaftNetwork(1)
    network.elect(1)
    network.add(2)

    for voter in (1, 2):
        network.nodes[1].propose_conf_change(ConfChange(ADD, voter))
        network.settle()
    network.tick(1, ticks=2)

    assert network.nodes[2].status().config == network.nodes[1].status().config


def test_an_id_removed_and_added_by_one_change_starts_anew() -> None:
    network = RaftNetwork(3, learners=1)
    network.elect(1)
    network.propose(1, b"x")
    match = network.nodes[1].raft.tracker.get(4).match
    network.isolate(4)

    network.nodes[1].propose_conf_change(joint((REMOVE, 4), (LEARN, 4)))
    network.settle()

    assert match > 0
    assert network.nodes[1].raft.tracker.get(4).match == 0


def test_a_restart_in_the_middle_of_a_joint_change_stays_joint() -> None:
    network = RaftNetwork(3)
    network.elect(1)
    network.nodes[1].propose_conf_change(joint((LEARN, 3), explicit=True))
    network.tick(1)
    before = network.nodes[2].status().config

    network.restart(2)

    assert before.learners_next == (3,)
    assert network.nodes[2].status().config == before
