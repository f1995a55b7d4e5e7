"""What a leader knows of its peers: how far each log matches, and what is on the way (thesis §3.5, §10.2.1).

Three states of a peer:

- PROBE: where its log matches is unknown; at most one append a heartbeat, until it answers.
- REPLICATE: it matches; appends are sent ahead of the answers, within a window of messages and bytes.
- SNAPSHOT: what it lacks is no longer in the log; nothing is sent until the snapshot is reported or answered.

Invariant everywhere: `match < next`.
"""

import enum
from collections import deque

from mcr_node.core.raft.errors import HaltError
from mcr_node.core.raft.messages import ConfState
from mcr_node.core.raft.quorum import VoteResult, joint_vote, majority_index


class ProgressState(enum.Enum):
    """See the module's docstring."""

    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


class Inflights:
    """The window of appends without an answer, oldest first; bounded by number and by payload."""

    __slots__ = ("_bytes", "_bytes_max", "_count_max", "_window")

    def __init__(self, count_max: int, bytes_max: int) -> None:
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._bytes = 0
        self._window: deque[tuple[int, int]] = deque()

    def __len__(self) -> int:
        """Return the number of appends under way."""
        return len(self._window)

    @property
    def full(self) -> bool:
        """Whether nothing more may be sent. Bytes may overshoot by the last message, never by two."""
        return len(self._window) >= self._count_max or self._bytes >= self._bytes_max

    def add(self, last_index: int, payload_bytes: int) -> None:
        """Note one append that ends at `last_index`; the caller checked `full`."""
        assert not self.full
        self._window.append((last_index, payload_bytes))
        self._bytes += payload_bytes

    def free_to(self, index: int) -> None:
        """Forget every append that ends at or before `index`."""
        window = self._window
        while window and window[0][0] <= index:
            self._bytes -= window.popleft()[1]

    def clear(self) -> None:
        """Forget everything under way."""
        self._window.clear()
        self._bytes = 0


class Progress:
    """One peer as its leader sees it. `match` only grows within a term; `next` moves both ways."""

    __slots__ = (
        "flow_paused",
        "inflights",
        "is_learner",
        "match",
        "next",
        "pending_snapshot",
        "recently_active",
        "sent_commit",
        "state",
    )

    def __init__(self, next_index: int, inflights: Inflights, *, is_learner: bool) -> None:
        self.match = 0
        self.next = next_index
        # Highest commit index it was sent in this term; a lower bound after losses.
        self.sent_commit = 0
        self.state = ProgressState.PROBE
        # Index of the snapshot under way; 0 unless SNAPSHOT.
        self.pending_snapshot = 0
        # Heard of since the last check of the quorum. A new peer gets the benefit of the doubt for one
        # period, or a leader that adds nodes would step down before they can answer.
        self.recently_active = True
        self.flow_paused = False
        self.inflights = inflights
        self.is_learner = is_learner

    def reset(self, next_index: int) -> None:
        """Start a new term: nothing is known of the peer any more."""
        self._enter(ProgressState.PROBE)
        self.match = 0
        self.next = next_index
        self.sent_commit = 0
        self.recently_active = False

    def become_probe(self) -> None:
        """Send one append at a time again, after the last known match or the snapshot that was sent."""
        after = self.match
        if self.state is ProgressState.SNAPSHOT and self.pending_snapshot > after:
            after = self.pending_snapshot
        self._enter(ProgressState.PROBE)
        self.next = after + 1
        self.sent_commit = min(self.sent_commit, after)

    def become_replicate(self) -> None:
        """Stream appends after the match."""
        self._enter(ProgressState.REPLICATE)
        self.next = self.match + 1

    def become_snapshot(self, index: int) -> None:
        """Wait for a snapshot at `index`."""
        self._enter(ProgressState.SNAPSHOT)
        self.pending_snapshot = index
        self.next = index + 1
        self.sent_commit = index

    def sent_entries(self, count: int, payload_bytes: int) -> None:
        """Note that an append of `count` entries left."""
        if self.state is ProgressState.REPLICATE:
            if count:
                # Optimistic: the next append follows this one before it is answered.
                self.next += count
                self.inflights.add(self.next - 1, payload_bytes)
            self.flow_paused = self.inflights.full
        else:
            assert self.state is ProgressState.PROBE
            if count:
                self.flow_paused = True

    def has_news(self, commit: int) -> bool:
        """Say whether an empty append may go to the peer now, and would tell it of a commit it can use."""
        is_open = not self.flow_paused and self.state is not ProgressState.SNAPSHOT
        return is_open and self.can_bump_commit(commit)

    def can_bump_commit(self, commit: int) -> bool:
        """Say whether an empty append would tell the peer of a commit it can use."""
        return commit > self.sent_commit and self.sent_commit < self.next - 1

    def maybe_update(self, index: int) -> bool:
        """Take an acknowledgement up to `index`; False if it is old news."""
        if index <= self.match:
            return False
        self.match = index
        if self.next <= index:
            self.next = index + 1
        self.flow_paused = False
        return True

    def maybe_decrease(self, rejected: int, hint: int) -> bool:
        """Take a refusal of the append after `rejected`; False if it answers something long superseded."""
        if self.state is ProgressState.REPLICATE:
            if rejected <= self.match:
                # It was sent before the match was known.
                return False
            self.next = self.match + 1
        else:
            if self.next - 1 != rejected:
                # While probing only the last probe counts.
                return False
            self.next = max(min(rejected, hint + 1), self.match + 1)
            self.flow_paused = False
        self.sent_commit = min(self.sent_commit, self.next - 1)
        return True

    @property
    def paused(self) -> bool:
        """Whether appends must wait."""
        return self.flow_paused or self.state is ProgressState.SNAPSHOT

    def _enter(self, state: ProgressState) -> None:
        self.flow_paused = False
        self.pending_snapshot = 0
        self.state = state
        self.inflights.clear()


class Tracker:
    """The configuration in force, the progress of each of its members, and the votes of an election."""

    __slots__ = ("config", "inflight_bytes_max", "inflight_messages_max", "peers", "progress", "votes")

    def __init__(self, inflight_messages_max: int, inflight_bytes_max: int) -> None:
        self.inflight_messages_max = inflight_messages_max
        self.inflight_bytes_max = inflight_bytes_max
        self.config = ConfState()
        # Ordered by id, so that broadcasts go out in the same order everywhere.
        self.progress: dict[int, Progress] = {}
        # The same without this node, ready for the loops that run per proposal.
        self.peers: tuple[tuple[int, Progress], ...] = ()
        self.votes: dict[int, bool] = {}

    def switch(self, config: ConfState, node_id: int, last_index: int, fresh: tuple[int, ...] = ()) -> None:
        """Make `config` the one in force; members known already keep their progress.

        Args:
            config: the new configuration, valid by `membership`.
            node_id: this node.
            last_index: of the log; a new member is probed from there.
            fresh: members to start anew although their id was known (removed and added by one change).
        """
        members = sorted(dict.fromkeys((*config.voters, *config.voters_outgoing, *config.learners)))
        progress: dict[int, Progress] = {}
        for member in members:
            is_learner = member in config.learners
            known = None if member in fresh else self.progress.get(member)
            if known is None:
                # `next` at the last index, not beyond: the first probe then carries an entry, and so gets an
                # answer and a pause like any other.
                known = Progress(max(last_index, 1), self.new_inflights(), is_learner=is_learner)
            known.is_learner = is_learner
            progress[member] = known
        self.config = config
        self.progress = progress
        self.peers = tuple((member, known) for member, known in progress.items() if member != node_id)

    def new_inflights(self) -> Inflights:
        """Return an empty window."""
        return Inflights(self.inflight_messages_max, self.inflight_bytes_max)

    @property
    def is_singleton(self) -> bool:
        """Whether one voter decides alone."""
        return len(self.config.voters) == 1 and not self.config.voters_outgoing

    def is_voter(self, node_id: int) -> bool:
        """Say whether `node_id` votes, in either half."""
        return node_id in self.config.voters or node_id in self.config.voters_outgoing

    def committed(self) -> int:
        """Return the index that a quorum of each half holds durably (thesis §3.5, §4.3)."""
        progress = self.progress
        index = majority_index([progress[voter].match for voter in self.config.voters])
        if self.config.voters_outgoing:
            index = min(index, majority_index([progress[v].match for v in self.config.voters_outgoing]))
        return index

    def quorum_active(self) -> bool:
        """Say whether a quorum was heard of since the last check (thesis §6.2)."""
        active = {member: progress.recently_active for member, progress in self.progress.items()}
        return joint_vote(self.config.voters, self.config.voters_outgoing, active) is VoteResult.WON

    def record_vote(self, node_id: int, *, granted: bool) -> VoteResult:
        """Count one answer; a second answer of the same node changes nothing."""
        self.votes.setdefault(node_id, granted)
        return joint_vote(self.config.voters, self.config.voters_outgoing, self.votes)

    def get(self, node_id: int) -> Progress:
        """Return the progress of a member.

        Raises:
            HaltError: there is none, which the caller had made sure of.
        """
        progress = self.progress.get(node_id)
        if progress is None:
            raise HaltError(f"no progress for node {node_id} in {self.config}")
        return progress
