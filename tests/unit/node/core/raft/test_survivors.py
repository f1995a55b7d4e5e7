"""Laws that a seeded defect could break unseen, see `tests/mutation`."""

import pytest

from mcr_node.core.raft.errors import HaltError, ProposalDroppedError
from mcr_node.core.raft.log import RaftLog
from mcr_node.core.raft.messages import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfChangeV2,
    ConfState,
    Entry,
    Message,
    MessageType,
    entry_bytes,
)
from mcr_node.core.raft.storage import MemoryStorage
from mcr_node.core.raft.tracker import Inflights, Progress
from tests.support.raft_network import RaftNetwork


def test_what_was_answered_makes_room_in_the_window_of_bytes() -> None:
    window = Inflights(count_max=10, bytes_max=100)
    window.add(1, 60)
    window.add(2, 60)
    assert window.full

    window.free_to(1)
    assert not window.full
    window.free_to(2)
    window.add(3, 100)

    assert window.full


def test_a_refusal_never_moves_a_probe_before_what_matches() -> None:
    progress = Progress(6, Inflights(10, 100), is_learner=False)
    progress.maybe_update(5)

    # It refuses what follows 5, although it had acknowledged it: it hints at a place long passed.
    assert progress.maybe_decrease(5, 0)

    assert progress.next == 6


def test_a_late_refusal_of_what_matches_changes_nothing() -> None:
    progress = Progress(6, Inflights(10, 100), is_learner=False)
    progress.maybe_update(5)
    progress.become_replicate()
    progress.sent_entries(3, 30)

    assert not progress.maybe_decrease(4, 3)

    assert progress.next == 9


def test_only_the_last_probe_moves_where_the_next_one_begins() -> None:
    progress = Progress(6, Inflights(10, 100), is_learner=False)

    assert not progress.maybe_decrease(9, 2)

    assert progress.next == 6


def test_a_smaller_quorum_commits_at_once_what_it_holds() -> None:
    network = RaftNetwork(4)
    leader = network.elect(1)
    network.isolate(4)
    network.hold(lambda message: message.type is MessageType.APPEND_RESP and message.to == 1)
    leader.propose_conf_change(ConfChange(ConfChangeType.REMOVE_NODE, 4))
    network.settle()
    network.propose(1, b"on two of four")
    last = leader.raft.log.last_index
    answers, network.held = network.held, []

    def is_late(message: Message) -> bool:
        return message.sender == 3 and message.index == last

    for message in answers:
        if not is_late(message) and message.sender != 1:
            network.deliver(message)
    network.work(1)

    assert network.committed(1) == last


def test_a_removed_leader_answers_no_read_without_those_who_stay() -> None:
    network = RaftNetwork(2, step_down_on_removal=False)
    leader = network.elect(1)
    leader.propose_conf_change(ConfChange(ConfChangeType.REMOVE_NODE, 1))
    network.settle()
    network.isolate(1)

    leader.read_index(b"r")
    network.settle()

    assert network.read_states[1] == []


def test_no_snapshot_is_sent_to_a_node_that_is_not_heard_of() -> None:
    network = RaftNetwork(3, check_quorum=True, election_ticks=3)
    network.elect(1)
    network.isolate(3)
    for data in (b"a", b"b", b"c"):
        network.propose(1, data)
    # A period with node 2 alone, at whose end node 3 counts as silent.
    network.tick(1, ticks=6)
    network.nodes[1].report_unreachable(3)
    network.storages[1].compact(3)

    network.propose(1, b"d")
    network.tick(1)
    assert network.sent(MessageType.SNAPSHOT) == []
    network.heal()
    network.tick(1, ticks=2)

    assert network.committed(3) == network.committed(1)


def test_a_joint_configuration_is_left_once_however_long_that_takes() -> None:
    network = RaftNetwork(3, election_ticks=3)
    leader = network.elect(1)
    network.add(4)
    joint = leader.raft.log.last_index + 1
    network.hold(lambda message: message.type is MessageType.APPEND_RESP and message.index > joint)
    leader.propose_conf_change(
        ConfChangeV2(
            (ConfChangeSingle(ConfChangeType.ADD_NODE, 4), ConfChangeSingle(ConfChangeType.REMOVE_NODE, 3)),
            ConfChangeTransition.AUTO,
        )
    )
    network.settle()
    assert leader.raft.log.last_index == joint + 1

    network.tick(1, ticks=10)

    assert leader.raft.log.last_index == joint + 1


def test_a_change_that_was_not_taken_stands_in_no_ones_way() -> None:
    network = RaftNetwork(3, uncommitted_bytes_max=1)
    leader = network.elect(1)
    network.isolate(1)
    leader.propose(b"not committed yet")
    with pytest.raises(ProposalDroppedError):
        leader.propose_conf_change(ConfChange(ConfChangeType.REMOVE_NODE, 3))
    network.heal()
    network.tick(1, ticks=3)

    leader.propose_conf_change(ConfChange(ConfChangeType.REMOVE_NODE, 3))
    network.settle()

    assert leader.status().config.voters == (1, 2)


def test_a_node_stops_rather_than_overwrite_what_is_committed() -> None:
    storage = MemoryStorage(ConfState((1,)))
    storage.append((Entry(1, 1), Entry(1, 2)))
    log = RaftLog(storage)
    log.commit_to(2)

    with pytest.raises(HaltError, match="overwrite"):
        log.append((Entry(2, 2),))


def test_learners_are_not_asked_for_votes() -> None:
    network = RaftNetwork(voters=3, learners=1, pre_vote=True)

    network.elect(1)

    asked = network.sent(MessageType.PRE_VOTE) + network.sent(MessageType.VOTE)
    assert sorted({message.to for message in asked}) == [2, 3]


def test_a_pre_vote_of_an_older_term_is_refused_aloud() -> None:
    # etcd#8501: both would wait for each other for ever.
    network = RaftNetwork(2, pre_vote=True)
    network.elect(1)
    network.elect(2)

    network.deliver(Message(MessageType.PRE_VOTE, 1, 2, 1, 1, 9))
    network.settle()

    (answer,) = [message for message in network.sent(MessageType.PRE_VOTE_RESP) if message.reject]
    assert (answer.to, answer.term) == (2, network.term(1))


def test_no_more_is_handed_out_to_be_applied_than_the_limit_leaves() -> None:
    storage = MemoryStorage(ConfState((1,)))
    storage.append(tuple(Entry(1, index, data=b"six by") for index in range(1, 6)))
    one_bytes = entry_bytes(storage.entries(1, 2, 1)[0])
    log = RaftLog(storage, applying_bytes_max=3 * one_bytes)
    log.commit_to(1)
    log.accept_applying(log.next_committed(allow_unstable=False), allow_unstable=False)
    log.commit_to(5)

    handed_out = log.next_committed(allow_unstable=False)

    assert [entry.index for entry in handed_out] == [2, 3]


def test_an_append_that_is_older_than_the_commit_is_answered_with_the_commit() -> None:
    network = RaftNetwork(2)
    network.elect(1)
    network.propose(1, b"a")
    network.tick(1)
    network.seen.clear()

    network.deliver(Message(MessageType.APPEND, 2, 1, network.term(1), 1, 1))
    network.settle()

    (answer,) = network.sent(MessageType.APPEND_RESP)
    assert answer.index == network.committed(2) == 2


def test_who_follows_a_leader_of_the_term_votes_for_nobody_else_in_it() -> None:
    network = RaftNetwork(3)
    network.isolate(3)
    network.elect(1)
    network.heal()
    network.tick(1, ticks=2)
    assert network.nodes[3].raft.vote == 0
    assert network.nodes[3].raft.leader == 1

    network.deliver(Message(MessageType.VOTE, 3, 2, network.term(3), network.term(3), 9))
    network.settle()

    (answer,) = [message for message in network.sent(MessageType.VOTE_RESP) if message.sender == 3]
    assert answer.reject
