"""A leader that tells of commits later: with the next append, when it is asked to, or with a heartbeat."""

from mcr_node.core.raft.messages import MessageType
from tests.support.raft_network import RaftNetwork


def group(*, later: bool = True) -> RaftNetwork:
    network = RaftNetwork(3, tell_commit_later=later)
    network.elect(1)
    network.nodes[1].tell_commit()
    network.settle()
    network.seen.clear()
    return network


def empty_appends(network: RaftNetwork) -> int:
    return sum(not message.entries for message in network.sent(MessageType.APPEND))


def test_a_commit_costs_no_round_of_its_own() -> None:
    network = group()

    network.propose(1, b"a")
    network.settle()

    assert empty_appends(network) == 0
    assert network.committed(1) == 2
    assert network.committed(2) == network.committed(3) == 1
    assert network.nodes[1].has_news


def test_without_the_setting_each_commit_is_told_at_once() -> None:
    network = group(later=False)

    network.propose(1, b"a")
    network.settle()

    assert empty_appends(network) > 0
    assert network.committed(2) == network.committed(3) == 2


def test_the_next_append_tells_it() -> None:
    network = group()
    network.propose(1, b"a")
    network.settle()

    network.propose(1, b"b")
    network.settle()

    assert network.committed(2) == network.committed(3) == 2
    assert empty_appends(network) == 0


def test_it_is_told_when_asked_for_and_then_no_more() -> None:
    network = group()
    network.propose(1, b"a")
    network.settle()

    network.nodes[1].tell_commit()
    network.settle()
    assert network.committed(2) == network.committed(3) == 2
    assert not network.nodes[1].has_news

    network.seen.clear()
    network.nodes[1].tell_commit()
    network.settle()
    assert network.seen == []


def test_a_heartbeat_tells_it_at_the_latest() -> None:
    network = group()
    network.propose(1, b"a")
    network.settle()

    network.tick(1)
    network.settle()

    assert network.committed(2) == network.committed(3) == 2
    assert not network.nodes[1].has_news


def test_followers_have_no_news_to_tell() -> None:
    network = group()
    network.propose(1, b"a")
    network.settle()

    network.nodes[2].tell_commit()
    network.settle()

    assert not network.nodes[2].has_news
    assert network.committed(3) == 1


def test_a_peer_that_takes_nothing_now_is_not_news() -> None:
    """Else a timer would run for ever for a peer that is gone."""
    network = group()
    network.isolate(3)
    network.propose(1, b"a")
    network.settle()
    network.nodes[1].report_unreachable(3)
    network.nodes[1].tell_commit()
    network.settle()

    assert not network.nodes[1].has_news
