"""What is replicated, committed and applied, and what survives (thesis §3.5, §3.6.2, §3.8, §5.1)."""

import pytest

from mcr_node.core.raft.config import RaftConfig
from mcr_node.core.raft.errors import HaltError, InvalidMessageError, ProposalDroppedError
from mcr_node.core.raft.messages import (
    APPEND_QUEUE,
    APPLY_QUEUE,
    ConfState,
    Entry,
    HardState,
    Message,
    MessageType,
    Snapshot,
    entry_bytes,
)
from mcr_node.core.raft.node import RawNode
from mcr_node.core.raft.raft import Role
from mcr_node.core.raft.storage import MemoryStorage
from mcr_node.core.raft.tracker import ProgressState
from tests.support.raft_network import RaftNetwork

THREE = ConfState(voters=(1, 2, 3))


def node_with(entries: tuple[Entry, ...], hard_state: HardState, **settings: object) -> RawNode:
    storage = MemoryStorage(THREE)
    storage.append(entries)
    storage.set_hard_state(hard_state)
    defaults: dict[str, object] = {"pre_vote": False, "check_quorum": False}
    config = RaftConfig(node_id=1, draw=lambda _: 0, **(defaults | settings))  # type: ignore[arg-type]
    return RawNode(config, storage)


def carry_out(node: RawNode) -> None:
    """Write what is to be written and drop what is to be sent."""
    ready = node.ready()
    storage = node.raft.log.storage
    assert isinstance(storage, MemoryStorage)
    storage.append(ready.entries)
    node.advance()


def lead(node: RawNode) -> None:
    """Make a node lead its next term by the vote of node 2; its first entry is not written yet."""
    node.campaign()
    carry_out(node)
    node.step(Message(MessageType.VOTE_RESP, 1, 2, node.raft.term))
    assert node.raft.role is Role.LEADER


def test_an_entry_of_an_older_term_is_not_committed_by_counting_copies() -> None:
    # Thesis figure 3.7: (c) the entry of term 2 is on a majority, and may yet be overwritten as in (d).
    node = node_with((Entry(1, 1), Entry(2, 2)), HardState(3, 0, 1))
    lead(node)
    carry_out(node)

    node.step(Message(MessageType.APPEND_RESP, 1, 2, 4, index=2))
    assert node.raft.log.committed == 1
    node.step(Message(MessageType.APPEND_RESP, 1, 2, 4, index=3))

    assert node.raft.log.committed == 3


def test_the_leaders_own_copy_counts_only_once_it_is_durable() -> None:
    node = node_with((), HardState())
    lead(node)

    node.step(Message(MessageType.APPEND_RESP, 1, 2, 1, index=1))
    before = node.raft.log.committed
    carry_out(node)

    assert before == 0
    assert node.raft.log.committed == 1


def test_copies_of_learners_commit_nothing() -> None:
    network = RaftNetwork(voters=3, learners=2)
    network.elect(1)
    network.isolate(1, 4, 5)
    before = network.committed(1)

    network.propose(1, b"x")

    assert network.nodes[1].status().progress[4].match == before + 1
    assert network.committed(1) == before


def test_a_new_leader_overwrites_an_uncommitted_tail() -> None:
    network = RaftNetwork(3)
    network.elect(1)
    network.isolate(1)
    network.propose(1, b"lost")
    network.elect(2)
    network.propose(2, b"kept")

    network.heal()
    network.tick(2)

    assert network.data(1) == network.data(2) == network.data(3) == [b"kept"]


def test_a_late_short_append_does_not_cut_off_what_came_after_it() -> None:
    node = node_with((), HardState())
    entries = tuple(Entry(1, index) for index in (1, 2, 3))
    node.step(Message(MessageType.APPEND, 1, 2, 1, entries=entries))

    node.step(Message(MessageType.APPEND, 1, 2, 1, entries=entries[:1]))

    assert node.raft.log.last_index == 3


def test_a_follower_commits_no_further_than_the_append_it_got() -> None:
    node = node_with((Entry(1, 1), Entry(1, 2), Entry(1, 3)), HardState(1, 0, 0))

    node.step(Message(MessageType.APPEND, 1, 2, 2, 1, 1, commit=3, entries=(Entry(1, 2),)))

    assert node.raft.log.committed == 2


@pytest.mark.parametrize(("match", "commit"), [(0, 0), (1, 1), (9, 2)])
def test_a_heartbeat_never_commits_beyond_the_match(match: int, commit: int) -> None:
    node = node_with((), HardState())
    lead(node)
    node.propose(b"x")
    carry_out(node)
    node.step(Message(MessageType.APPEND_RESP, 1, 3, 1, index=2))
    node.raft.tracker.get(2).match = match
    carry_out(node)

    node.tick()

    beats = [m for m in node.raft.messages if m.type is MessageType.HEARTBEAT and m.to == 2]
    assert [beat.commit for beat in beats] == [commit]


def test_each_conflicting_term_costs_at_most_one_probe() -> None:
    network = RaftNetwork(2)
    ours = tuple(Entry(1 if index <= 5 else 4, index) for index in range(1, 21))
    theirs = tuple(Entry(1 if index <= 5 else 2 if index <= 12 else 3, index) for index in range(1, 21))
    for node_id, entries in ((1, ours), (2, theirs)):
        network.storages[node_id].append(entries)
        network.storages[node_id].set_hard_state(HardState(4, 0, 0))
        network.restart(node_id)

    network.elect(1)

    rejections = [message for message in network.sent(MessageType.APPEND_RESP) if message.reject]
    assert len(rejections) <= 2
    assert network.committed(2) == network.committed(1) == 21


def test_a_restart_takes_up_log_vote_term_and_membership() -> None:
    network = RaftNetwork(3)
    network.elect(1)
    network.propose(1, b"x")
    before = network.nodes[2].status()

    network.restart(2)

    after = network.nodes[2].status()
    assert (after.hard_state, after.config, after.applied) == (
        before.hard_state,
        before.config,
        before.applied,
    )
    assert network.applied[2] == []


def test_everybody_may_crash_at_once_and_nothing_acknowledged_is_lost() -> None:
    network = RaftNetwork(3)
    network.elect(1)
    network.propose(1, b"x")
    for node_id in (1, 2, 3):
        network.restart(node_id)

    network.elect(3)
    network.propose(3, b"y")

    terms = [(entry.term, entry.data) for entry in network.storages[2].entries(1, 5, 1 << 20)]
    assert terms == [(1, b""), (1, b"x"), (2, b""), (2, b"y")]


@pytest.mark.parametrize("commit", [3, 99])
def test_a_log_shorter_than_its_commit_halts(commit: int) -> None:
    with pytest.raises(HaltError):
        node_with((Entry(1, 1), Entry(1, 2)), HardState(1, 0, commit))


def test_a_heartbeat_that_commits_what_was_never_acknowledged_is_refused() -> None:
    node = node_with((), HardState())

    with pytest.raises(InvalidMessageError):
        node.step(Message(MessageType.HEARTBEAT, 1, 2, 1, commit=5))


# -- snapshots -------------------------------------------------------------------------------------


def test_a_node_too_far_behind_catches_up_by_a_snapshot() -> None:
    network = RaftNetwork(3)
    network.elect(1)
    network.isolate(3)
    for data in (b"a", b"b", b"c"):
        network.propose(1, data)
    network.storages[1].compact(3)
    network.heal()

    network.tick(1, ticks=2)

    assert network.storages[3].first_index() > 1
    assert network.committed(3) == network.committed(1)
    assert network.nodes[1].status().progress[3].state is ProgressState.REPLICATE


@pytest.mark.parametrize(
    "snapshot",
    [
        pytest.param(Snapshot(2, 1, THREE), id="behind the commit"),
        pytest.param(Snapshot(3, 1, THREE), id="already in the log"),
        pytest.param(Snapshot(9, 1, ConfState(voters=(2, 3))), id="made before we were a member"),
    ],
)
def test_a_snapshot_that_is_not_needed_changes_no_entry(snapshot: Snapshot) -> None:
    entries = tuple(Entry(1, index) for index in (1, 2, 3, 4))
    node = node_with(entries, HardState(1, 0, 2))

    node.step(Message(MessageType.SNAPSHOT, 1, 2, 1, snapshot=snapshot))

    assert node.raft.log.snapshot is None
    assert node.raft.log.last_index == 4


def test_a_snapshot_older_than_the_log_takes_no_committed_entry_back() -> None:
    # etcd#1763.
    entries = tuple(Entry(1, index) for index in (1, 2, 3, 4))
    node = node_with(entries, HardState(1, 0, 4))
    storage = node.raft.log.storage
    assert isinstance(storage, MemoryStorage)
    storage.compact(3)

    node.step(Message(MessageType.SNAPSHOT, 1, 2, 1, snapshot=Snapshot(2, 1, THREE)))

    assert node.raft.log.snapshot is None
    assert node.raft.log.last_index == 4
    assert [(message.type, message.index) for message in node.raft.messages_after_append] == [
        (MessageType.APPEND_RESP, 4)
    ]


@pytest.mark.parametrize(("failed", "next_index"), [(True, 1), (False, 6)])
def test_after_a_snapshot_a_peer_is_probed_after_what_it_has(failed: bool, next_index: int) -> None:
    network = RaftNetwork(3)
    network.elect(1)
    for data in (b"a", b"b", b"c", b"d"):
        network.propose(1, data)
    progress = network.nodes[1].raft.tracker.get(3)
    progress.match = 0
    progress.become_snapshot(5)

    network.nodes[1].report_snapshot(3, failed=failed)

    assert (progress.state, progress.next, progress.paused) == (ProgressState.PROBE, next_index, True)


def test_nothing_is_sent_to_a_peer_that_waits_for_a_snapshot() -> None:
    network = RaftNetwork(3)
    network.elect(1)
    network.nodes[1].raft.tracker.get(3).become_snapshot(1)
    before = len([message for message in network.sent(MessageType.APPEND) if message.to == 3])

    network.propose(1, b"x")

    assert len([message for message in network.sent(MessageType.APPEND) if message.to == 3]) == before


# -- flow and limits -------------------------------------------------------------------------------


def test_the_uncommitted_tail_of_a_cut_off_leader_is_bounded() -> None:
    size = entry_bytes(Entry(1, 1, data=b"x" * 100))
    network = RaftNetwork(3, uncommitted_bytes_max=3 * size)
    network.elect(1)
    network.isolate(1)
    for _ in range(3):
        network.propose(1, b"x" * 100)

    with pytest.raises(ProposalDroppedError):
        network.propose(1, b"x" * 100)
    network.heal()
    network.tick(1, ticks=3)
    network.propose(1, b"x" * 100)

    assert network.data(2) == [b"x" * 100] * 4


def test_an_empty_tail_takes_a_proposal_of_any_size() -> None:
    network = RaftNetwork(1, uncommitted_bytes_max=10)
    network.elect(1)

    network.propose(1, b"x" * 100)

    assert network.data(1) == [b"x" * 100]


def test_a_full_window_sends_no_more_and_any_answer_opens_it() -> None:
    network = RaftNetwork(3, inflight_messages_max=4)
    network.elect(1)
    network.isolate(3)
    for _ in range(20):
        network.propose(1, b"x")
    sent = [message for message in network.sent(MessageType.APPEND) if message.to == 3 and message.entries]
    assert len(sent) <= 1 + 4

    network.heal()
    network.tick(1, ticks=3)

    assert network.data(3) == [b"x"] * 20


def test_duplicated_and_reordered_answers_move_no_match_back() -> None:
    network = RaftNetwork(3)
    network.elect(1)
    for _ in range(3):
        network.propose(1, b"x")
    progress = network.nodes[1].raft.tracker.get(2)
    match, next_index = progress.match, progress.next

    for message in reversed(network.sent(MessageType.APPEND_RESP)):
        if message.to == 1:
            network.deliver(message)

    assert (progress.match, progress.next) == (match, next_index)


def test_proposals_go_to_the_leader_in_order_from_anywhere() -> None:
    network = RaftNetwork(3)
    network.elect(1)

    network.propose(2, b"a")
    network.propose(3, b"b")
    network.propose(1, b"c")

    assert network.data(3) == [b"a", b"b", b"c"]


def test_without_a_leader_a_proposal_is_refused_at_once() -> None:
    network = RaftNetwork(3)

    with pytest.raises(ProposalDroppedError):
        network.nodes[1].propose(b"x")


# -- asynchronous storage --------------------------------------------------------------------------


def test_only_durable_entries_are_handed_out_to_be_applied() -> None:
    node = node_with((), HardState(), asynchronous=True)
    node.step(Message(MessageType.APPEND, 1, 2, 1, commit=1, entries=(Entry(1, 1),)))

    (append,) = [message for message in node.ready().messages if message.to == APPEND_QUEUE]
    too_early = node.has_ready()
    storage = node.raft.log.storage
    assert isinstance(storage, MemoryStorage)
    storage.append(append.entries)
    for response in append.responses:
        if response.to == 1:
            node.step(response)
    ready = node.ready()

    assert not too_early
    assert [message.to for message in ready.messages] == [APPLY_QUEUE]


def test_promises_wait_for_the_append_queue() -> None:
    node = node_with((), HardState(), asynchronous=True)
    node.step(Message(MessageType.VOTE, 1, 2, 1))

    (message,) = node.ready().messages

    assert message.to == APPEND_QUEUE
    assert (message.term, message.vote) == (1, 2)
    assert [response.type for response in message.responses] == [MessageType.VOTE_RESP]
