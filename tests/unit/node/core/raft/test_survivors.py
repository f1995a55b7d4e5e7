"""Laws that a seeded defect could break unseen, see `tests/mutation`."""

from mcr_node.core.raft.messages import ConfChange, ConfChangeType, Message, MessageType
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
