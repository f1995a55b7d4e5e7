"""Each law of the oracle fails on a history that breaks it, and not on a sound one."""

from collections.abc import Callable
from functools import partial

import pytest

from mcr.model import LogIndex
from mcr_node.core.raft.messages import ConfState, Entry
from mcr_node.core.state.outcomes import Accepted, Outcome, Rejected, ReportResult
from tests.simulation.cluster.history import History, Place
from tests.simulation.cluster.laws import LawBroken
from tests.simulation.cluster.raft_laws import RaftLaws

THREE = ConfState((1, 2, 3))


def _holds(held: dict[tuple[int, int], None], index: int, term: int) -> bool:
    return (index, term) in held


class Disks:
    """What is durable on three nodes, by (index, term)."""

    def __init__(self) -> None:
        self.laws = RaftLaws()
        self.held: dict[int, dict[tuple[int, int], None]] = {1: {}, 2: {}, 3: {}}
        for node_id, held in self.held.items():
            self.laws.add(node_id, partial(_holds, held), THREE)

    def append(self, node_id: int, index: int, term: int, *, leads: int = 0, data: bytes = b"") -> None:
        self.laws.appended(node_id, [Entry(term, index, data=data)], leads=leads)

    def write(self, node_id: int, index: int, term: int, *, leads: int = 0) -> None:
        self.append(node_id, index, term, leads=leads)
        self.held[node_id][index, term] = None
        self.laws.synced(node_id)

    def commit(self, node_id: int, index: int, term: int) -> None:
        self.laws.commits(node_id, index, term=term, conf=THREE)


@pytest.fixture
def disks() -> Disks:
    """Node 1 led term 1 and committed one entry with node 2; node 3 holds nothing."""
    disks = Disks()
    disks.laws.leads(1, 1)
    disks.write(1, 1, 1, leads=1)
    disks.write(2, 1, 1)
    disks.commit(1, 1, 1)
    return disks


def test_a_sound_history_breaks_no_law(disks: Disks) -> None:
    disks.laws.leads(2, 2)
    disks.write(2, 2, 2, leads=2)
    disks.write(3, 1, 1)
    disks.write(3, 2, 2)
    disks.commit(2, 2, 2)
    disks.commit(3, 2, 2)
    disks.laws.applied(3, 2, THREE)
    disks.laws.crashed(3, [1, 2])
    # A tail that nobody committed is cut off.
    disks.append(1, 2, 1, leads=1)
    disks.append(1, 2, 2)
    disks.commit(1, 2, 2)


def two_lead(disks: Disks) -> None:
    disks.laws.leads(2, 1)


def an_entry_not_of_its_leader(disks: Disks) -> None:
    disks.append(3, 1, 1)
    disks.append(3, 2, 1)


def two_entries_at_one_place(disks: Disks) -> None:
    disks.append(3, 1, 1, data=b"another")


def two_pasts_of_one_place(disks: Disks) -> None:
    disks.append(3, 1, 1)
    disks.append(3, 2, 2, leads=2)
    disks.append(3, 3, 2, leads=2)
    disks.append(1, 2, 1, leads=1)
    disks.append(1, 3, 2)


def a_gap(disks: Disks) -> None:
    disks.append(3, 2, 1)


def two_commits_at_one_place(disks: Disks) -> None:
    disks.append(3, 1, 1)
    disks.append(3, 2, 2, leads=2)
    disks.laws.leads(1, 3)
    disks.write(1, 2, 3, leads=3)
    disks.write(2, 2, 3)
    disks.commit(1, 2, 3)
    disks.commit(3, 2, 2)


def a_commit_beyond_the_log(disks: Disks) -> None:
    disks.commit(3, 1, 1)


def a_snapshot_of_what_is_not_committed(disks: Disks) -> None:
    disks.laws.restored(3, 2, 1)


def a_quorum_without_what_is_committed(disks: Disks) -> None:
    # Nodes 1 and 2 come back empty, as if they had never promised anything; node 3 still knows.
    disks.append(3, 1, 1)
    disks.commit(3, 1, 1)
    for node_id in (1, 2):
        disks.laws.add(node_id, partial(_holds, {}), THREE)
        disks.laws.crashed(node_id, [])


def a_winner_without_what_is_committed(disks: Disks) -> None:
    disks.append(3, 1, 2, leads=2)


def a_leader_without_what_is_committed(disks: Disks) -> None:
    disks.laws.leads(3, 2)


def a_commit_that_a_later_leader_lacks(disks: Disks) -> None:
    # Node 3 leads term 2 without the second entry, which node 1 then commits in term 1.
    disks.write(3, 1, 1)
    disks.laws.leads(3, 2)
    disks.write(1, 2, 1, leads=1)
    disks.write(2, 2, 1)
    disks.commit(1, 2, 1)


def a_commit_by_counting_an_older_term(disks: Disks) -> None:
    disks.write(1, 2, 1, leads=1)
    disks.write(2, 2, 1)
    disks.laws.leads(2, 2)
    disks.commit(2, 2, 2)


def a_commit_on_one_disk(disks: Disks) -> None:
    disks.write(1, 2, 1, leads=1)
    disks.append(2, 2, 1)
    disks.commit(1, 2, 1)


def a_crash_that_takes_back(disks: Disks) -> None:
    disks.laws.crashed(2, [])


def a_write_that_takes_back(disks: Disks) -> None:
    disks.held[2].clear()
    disks.laws.synced(2)


def an_entry_applied_before_it_is_durable(disks: Disks) -> None:
    disks.append(3, 1, 1)
    disks.commit(3, 1, 1)
    disks.laws.applied(3, 1, THREE)


@pytest.mark.parametrize(
    ("name", "breach"),
    [
        ("MoreThanOneLeader", two_lead),
        ("ElectionSafety", an_entry_not_of_its_leader),
        ("LogMatching", two_entries_at_one_place),
        ("LogMatching", two_pasts_of_one_place),
        ("LogMatching", a_gap),
        ("LogInv", two_commits_at_one_place),
        ("LogInv", a_commit_beyond_the_log),
        ("LogInv", a_snapshot_of_what_is_not_committed),
        ("QuorumLog", a_quorum_without_what_is_committed),
        ("MoreUpToDateCorrect", a_winner_without_what_is_committed),
        ("LeaderCompleteness", a_leader_without_what_is_committed),
        ("LeaderCompleteness", a_commit_that_a_later_leader_lacks),
        ("LeaderCompleteness", a_commit_by_counting_an_older_term),
        ("CommittedIsDurable", a_commit_on_one_disk),
        ("CommittedIsDurable", a_crash_that_takes_back),
        ("CommittedIsDurable", a_write_that_takes_back),
        ("CommittedIsDurable", an_entry_applied_before_it_is_durable),
    ],
)
def test_a_law_of_raft_that_is_broken_is_named(
    disks: Disks, name: str, breach: Callable[[Disks], None]
) -> None:
    with pytest.raises(LawBroken, match=f"^{name}: "):
        breach(disks)


def accepted(index: int) -> Accepted:
    return Accepted(LogIndex(index), ReportResult(index, 1))


REFUSED = Rejected(LogIndex(2), "head_moved", {})
ONE, TWO = ((1, 0, 0),), ((2, 0, 0),)


@pytest.fixture
def history() -> History:
    """Request a at 1, b refused at 2, c at 3."""
    history = History()
    outcomes: list[tuple[Outcome, tuple[tuple[int, int, int], ...]]] = [
        (accepted(1), ONE),
        (REFUSED, ONE),
        (accepted(3), TWO),
    ]
    for index, (outcome, seen) in enumerate(outcomes, 1):
        if isinstance(outcome, Accepted):
            history.took_effect(b"a" if index == 1 else b"c", index, is_repeated=False, remembered=index)
        history.places.append(Place(outcome, seen))
    return history


def test_a_linearizable_history_breaks_no_law(history: History) -> None:
    # A write of unknown outcome (c) is seen by a read before anybody hears of it; a read that ran beside the
    # write may see it or not.
    history.read_answered(0, (), 0)
    history.write_answered(b"a", accepted(1), 0)
    history.write_answered(b"b", REFUSED, 1)
    history.read_answered(3, TWO, 2)
    history.read_answered(1, ONE, 1)
    history.write_answered(b"c", accepted(3), 2)


def lost_beyond_the_end(history: History) -> None:
    history.write_answered(b"d", accepted(4), 0)


def lost_where_another_was_refused(history: History) -> None:
    history.write_answered(b"b", accepted(2), 0)


def lost_to_another(history: History) -> None:
    history.write_answered(b"d", accepted(3), 0)


def doubled(history: History) -> None:
    history.took_effect(b"a", 4, is_repeated=False, remembered=4)


def remembered_elsewhere(history: History) -> None:
    history.took_effect(b"a", 4, is_repeated=True, remembered=3)


def refused_for_another_reason(history: History) -> None:
    history.write_answered(b"b", Rejected(LogIndex(2), "not_found", {}), 0)


def write_before_its_beginning(history: History) -> None:
    history.read_answered(3, TWO, 0)
    history.write_answered(b"a", accepted(1), history.answered_index)


def stale(history: History) -> None:
    history.write_answered(b"c", accepted(3), 0)
    history.read_answered(2, ONE, history.answered_index)


def back_in_time(history: History) -> None:
    history.read_answered(3, TWO, 0)
    history.read_answered(1, ONE, history.answered_index)


def of_another_state(history: History) -> None:
    history.read_answered(3, ONE, 0)


def of_the_future(history: History) -> None:
    history.read_answered(4, TWO, 0)


@pytest.mark.parametrize(
    ("name", "breach"),
    [
        ("lost write", lost_beyond_the_end),
        ("lost write", lost_where_another_was_refused),
        ("lost write", lost_to_another),
        ("exactly once", doubled),
        ("exactly once", remembered_elsewhere),
        ("wrong answer", refused_for_another_reason),
        ("back in time", write_before_its_beginning),
        ("stale read", stale),
        ("stale read", back_in_time),
        ("wrong read", of_another_state),
        ("wrong read", of_the_future),
    ],
)
def test_a_history_that_is_not_linearizable_is_named(
    history: History, name: str, breach: Callable[[History], None]
) -> None:
    with pytest.raises(LawBroken, match=f"^{name}: "):
        breach(history)
