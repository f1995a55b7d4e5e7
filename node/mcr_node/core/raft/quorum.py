"""Majorities, single and joint (thesis §3.3, §4.3).

While joint, a decision needs a majority of *each* half. The empty half agrees with everything: a
configuration with no outgoing voters then behaves as if it were not joint at all, without a special case.
"""

import enum
from collections.abc import Mapping, Sequence

# What the empty majority has committed: more than any index.
INDEX_INFINITE = (1 << 64) - 1


class VoteResult(enum.Enum):
    """Where an election stands."""

    PENDING = "pending"
    LOST = "lost"
    WON = "won"


def majority_index(indexes: Sequence[int]) -> int:
    """Return the largest index that a majority has reached; one element a voter, 0 for "nothing heard"."""
    if not indexes:
        return INDEX_INFINITE
    # Sorted upwards, everything from this place on is at least as large, and that is a majority:
    # n - (n - 1) // 2 = n // 2 + 1 voters.
    return sorted(indexes)[(len(indexes) - 1) // 2]


def joint_index(voters: Sequence[int], outgoing: Sequence[int], reached: Mapping[int, int]) -> int:
    """Return the largest index that both halves have reached, by node id in `reached`."""
    incoming_index = majority_index([reached.get(node_id, 0) for node_id in voters])
    if not outgoing:
        return incoming_index
    return min(incoming_index, majority_index([reached.get(node_id, 0) for node_id in outgoing]))


def majority_vote(voters: Sequence[int], votes: Mapping[int, bool]) -> VoteResult:
    """Count `votes` of `voters`; a voter absent from `votes` has not answered."""
    if not voters:
        return VoteResult.WON
    granted = 0
    missing = 0
    for node_id in voters:
        vote = votes.get(node_id)
        if vote is None:
            missing += 1
        elif vote:
            granted += 1
    quorum = len(voters) // 2 + 1
    if granted >= quorum:
        return VoteResult.WON
    return VoteResult.PENDING if granted + missing >= quorum else VoteResult.LOST


def joint_vote(voters: Sequence[int], outgoing: Sequence[int], votes: Mapping[int, bool]) -> VoteResult:
    """Count `votes` in both halves: won if both are, lost if either is (thesis §4.3)."""
    results = (majority_vote(voters, votes), majority_vote(outgoing, votes))
    if VoteResult.LOST in results:
        return VoteResult.LOST
    return VoteResult.PENDING if VoteResult.PENDING in results else VoteResult.WON
