"""Who may lead (thesis §3.4, §3.6.1, §4.2.3, §6.2, §9.6)."""

import pytest

from mcr_node.core.raft.messages import CAMPAIGN_TRANSFER, Entry, Message, MessageType
from mcr_node.core.raft.raft import Role
from tests.support.raft_network import RaftNetwork


def vote_request(sender: int, *, to: int, term: int, last: tuple[int, int] = (0, 0)) -> Message:
    return Message(MessageType.VOTE, to, sender, term, *last)


def answers(network: RaftNetwork, kind: MessageType) -> list[tuple[int, bool]]:
    return [(message.to, not message.reject) for message in network.sent(kind)]


def test_a_voter_votes_once_a_term_however_often_it_is_asked() -> None:
    network = RaftNetwork(3)

    for candidate in (2, 3, 2):
        network.deliver(vote_request(candidate, to=1, term=1))
        network.work(1)

    assert answers(network, MessageType.VOTE_RESP) == [(2, True), (3, False), (2, True)]


def test_a_vote_outlives_a_crash() -> None:
    network = RaftNetwork(3)
    network.deliver(vote_request(2, to=1, term=1))
    network.work(1)

    network.restart(1)
    network.deliver(vote_request(3, to=1, term=1))
    network.work(1)

    assert answers(network, MessageType.VOTE_RESP) == [(2, True), (3, False)]


def test_a_candidate_refuses_others_in_its_own_term() -> None:
    network = RaftNetwork(3)
    network.isolate(1)
    network.nodes[1].campaign()
    network.work(1)

    network.deliver(vote_request(2, to=1, term=1))
    network.work(1)

    assert network.nodes[1].raft.vote == 1
    assert answers(network, MessageType.VOTE_RESP) == [(2, False)]


@pytest.mark.parametrize(
    ("last", "granted"),
    [((1, 1), False), ((1, 2), True), ((1, 3), True), ((2, 1), True), ((0, 9), False)],
)
def test_a_vote_goes_only_to_a_log_at_least_as_up_to_date(last: tuple[int, int], granted: bool) -> None:
    network = RaftNetwork(3)
    entries = (Entry(1, 1), Entry(1, 2))
    network.deliver(Message(MessageType.APPEND, 1, 2, 1, entries=entries))
    network.work(1)

    network.deliver(vote_request(3, to=1, term=5, last=last))
    network.work(1)

    assert answers(network, MessageType.VOTE_RESP) == [(3, granted)]


def test_only_a_granted_vote_postpones_the_own_candidacy() -> None:
    network = RaftNetwork(3)
    network.deliver(Message(MessageType.APPEND, 1, 2, 1, entries=(Entry(1, 1),)))
    network.deliver(vote_request(3, to=1, term=2))
    for _ in range(5):
        network.nodes[1].tick()

    network.deliver(vote_request(3, to=1, term=2))
    refused = network.nodes[1].raft.election_elapsed_ticks
    network.deliver(vote_request(2, to=1, term=2, last=(1, 1)))

    assert refused == 5
    assert network.nodes[1].raft.election_elapsed_ticks == 0


@pytest.mark.parametrize("voters", [1, 2, 3, 5])
def test_a_majority_elects_and_exactly_one_leads(voters: int) -> None:
    network = RaftNetwork(voters)
    network.isolate(*range(1, (voters - 1) // 2 + 1))

    network.elect(voters)

    leaders = [node_id for node_id in network.nodes if network.role(node_id) is Role.LEADER]
    assert leaders == [voters]


def test_a_minority_elects_nobody() -> None:
    network = RaftNetwork(5)
    network.isolate(1, 2)

    network.nodes[1].campaign()
    network.settle()

    assert network.role(1) is Role.CANDIDATE


def test_votes_of_learners_elect_nobody() -> None:
    network = RaftNetwork(voters=3, learners=2)
    network.isolate(1, 4, 5)
    network.nodes[1].campaign()
    network.work(1)

    for learner in (4, 5):
        network.deliver(Message(MessageType.VOTE_RESP, 1, learner, 1))

    assert network.role(1) is Role.CANDIDATE


def test_a_second_answer_of_one_voter_is_not_a_second_vote() -> None:
    network = RaftNetwork(5)
    network.isolate(1)
    network.nodes[1].campaign()
    network.work(1)

    for _ in range(3):
        network.deliver(Message(MessageType.VOTE_RESP, 1, 2, 1))

    assert network.role(1) is Role.CANDIDATE


def test_a_learner_neither_campaigns_by_itself_nor_when_told() -> None:
    network = RaftNetwork(voters=1, learners=1)

    network.elect(1)

    network.tick(2, ticks=50)
    network.nodes[2].campaign()
    network.deliver(Message(MessageType.TIMEOUT_NOW, 2, 1, 1))

    assert network.role(2) is Role.FOLLOWER
    assert network.term(2) == 1


def test_a_learner_grants_a_vote_since_its_promotion_may_be_news_to_it() -> None:
    network = RaftNetwork(voters=2, learners=1)

    network.deliver(vote_request(2, to=3, term=1))
    network.work(3)

    assert answers(network, MessageType.VOTE_RESP) == [(2, True)]


@pytest.mark.parametrize("kind", [MessageType.APPEND_RESP, MessageType.HEARTBEAT_RESP, MessageType.VOTE_RESP])
@pytest.mark.parametrize("reject", [False, True])
def test_whoever_sees_a_higher_term_follows(kind: MessageType, reject: bool) -> None:
    network = RaftNetwork(3)
    network.elect(1)

    network.deliver(Message(kind, 1, 2, 7, reject=reject))

    assert network.role(1) is Role.FOLLOWER
    assert network.term(1) == 7


def test_a_rejected_pre_vote_of_a_higher_term_moves_the_term() -> None:
    network = RaftNetwork(3, pre_vote=True)
    network.isolate(1)
    network.nodes[1].campaign()
    network.work(1)

    network.deliver(Message(MessageType.PRE_VOTE_RESP, 1, 2, 7, reject=True))

    assert (network.role(1), network.term(1)) == (Role.FOLLOWER, 7)


def test_pre_votes_change_nobodys_term_or_vote() -> None:
    network = RaftNetwork(3, pre_vote=True)
    network.isolate(1)

    network.tick(1, ticks=100)
    network.heal()
    network.deliver(Message(MessageType.PRE_VOTE, 2, 1, 1))
    network.work(2)

    assert network.role(1) is Role.PRE_CANDIDATE
    assert [network.term(node_id) for node_id in (1, 2)] == [0, 0]
    assert network.nodes[2].raft.vote == 0


def test_pre_vote_answers_do_not_count_as_votes() -> None:
    network = RaftNetwork(5)
    network.isolate(1)
    network.nodes[1].campaign()
    network.work(1)

    for voter in (2, 3, 4):
        network.deliver(Message(MessageType.PRE_VOTE_RESP, 1, voter, 1))

    assert network.role(1) is Role.CANDIDATE


def test_a_pre_candidate_with_a_stale_log_cannot_disturb_the_leader() -> None:
    network = RaftNetwork(3, pre_vote=True)
    network.elect(1)
    network.isolate(3)
    network.propose(1, b"x")
    network.heal()

    network.nodes[3].campaign()
    network.settle()

    assert network.role(1) is Role.LEADER
    assert network.term(1) == 1


def test_a_node_stuck_at_a_higher_term_frees_itself_by_its_answer() -> None:
    # etcd#8243: node 3 raised its term alone; with check-quorum its vote requests are ignored.
    network = RaftNetwork(3, check_quorum=True)
    network.elect(1)
    network.isolate(3)
    network.nodes[3].campaign()
    network.work(3)
    network.in_flight = []
    network.heal()
    assert network.term(3) == 2

    network.tick(1)

    assert network.term(1) == 2
    assert network.role(1) is Role.FOLLOWER


@pytest.mark.parametrize(("context", "leads"), [(b"", False), (CAMPAIGN_TRANSFER, True)])
def test_voters_in_touch_with_a_leader_refuse_unless_it_asked_for_it(context: bytes, leads: bool) -> None:
    network = RaftNetwork(3, check_quorum=True)
    network.elect(1)

    network.deliver(Message(MessageType.VOTE, 2, 3, 2, 1, 1, context=context))

    assert (network.nodes[2].raft.vote == 3) is leads


def test_a_leader_without_a_quorum_steps_down() -> None:
    network = RaftNetwork(3, check_quorum=True)
    network.elect(1)
    network.isolate(1)

    network.tick(1, ticks=20)

    assert network.role(1) is Role.FOLLOWER


def test_learners_do_not_keep_a_leader_in_office() -> None:
    network = RaftNetwork(voters=3, learners=2, check_quorum=True)
    network.elect(1)
    network.isolate(1, 4, 5)

    network.tick(1, ticks=20)

    assert network.role(1) is Role.FOLLOWER


@pytest.mark.parametrize("cut", [(1, 2), (1, 3), (2, 3)])
def test_with_one_link_down_somebody_leads_and_commits(cut: tuple[int, int]) -> None:
    network = RaftNetwork(3, pre_vote=True, check_quorum=True)
    network.elect(1)
    network.cut(*cut)
    network.cut(*reversed(cut))

    network.tick(1, 2, 3, ticks=60)
    leaders = [node_id for node_id in network.nodes if network.role(node_id) is Role.LEADER]
    assert len(leaders) == 1
    before = network.committed(leaders[0])
    network.propose(leaders[0], b"x")

    assert network.committed(leaders[0]) == before + 1
