"""The state of one node, and the few moves that everything else is made of.

What a node does with a message is in `step`; elections, replication, reads and reconfiguration are modules of
functions over this one object, so that each can be read beside its section of the thesis.
"""

import enum

from mcr.values import dataclass
from mcr_node.core.raft.config import RaftConfig
from mcr_node.core.raft.errors import HaltError
from mcr_node.core.raft.log import RaftLog
from mcr_node.core.raft.membership import check_config
from mcr_node.core.raft.messages import NO_NODE, HardState, Message, MessageType
from mcr_node.core.raft.storage import LogStorage
from mcr_node.core.raft.tracker import Tracker


class Role(enum.Enum):
    """What a node is at the moment (thesis, figure 3.3; pre-candidates: §9.6)."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


@dataclass(frozen=True, slots=True)
class ReadState:
    """A read that may be served once everything up to `index` is applied.

    `token` is the caller's, handed back as it came; two reads may carry the same one.
    """

    index: int
    token: bytes


@dataclass(slots=True)
class PendingRead:
    """A read that waits for its leader to be confirmed.

    Attributes:
        sequence: the read round that confirms it: one that began after it arrived.
        index: commit index at its arrival.
        request: the READ_INDEX message.
    """

    sequence: int
    index: int
    request: Message


class Raft:
    """One node. Every attribute is read by the modules around; only they and this class write to it."""

    __slots__ = (
        "config",
        "early_reads",
        "election_elapsed_ticks",
        "election_timeout_ticks",
        "first_index_of_term",
        "heartbeat_elapsed_ticks",
        "is_learner",
        "leader",
        "log",
        "messages",
        "messages_after_append",
        "node_id",
        "pending_conf_index",
        "pending_reads",
        "read_acks",
        "read_sequence",
        "read_states",
        "role",
        "term",
        "tracker",
        "transfer_target",
        "uncommitted_bytes",
        "vote",
    )

    def __init__(self, config: RaftConfig, storage: LogStorage) -> None:
        """Take up where `storage` left off, as a follower (thesis §3.8).

        Raises:
            HaltError: hard state and log contradict each other.
        """
        self.config = config
        self.node_id = config.node_id
        self.log = RaftLog(storage, config.apply_bytes_max)
        self.tracker = Tracker(config.inflight_messages_max, config.inflight_bytes_max)
        self.term = 0
        self.vote = NO_NODE
        self.role = Role.FOLLOWER
        self.leader = NO_NODE
        self.is_learner = False
        # Thesis §3.10: the peer that shall lead next; proposals are refused until it does or the attempt
        # ends.
        self.transfer_target = NO_NODE
        # At or after the last membership change in the log that may not be applied yet; only leaders keep it.
        self.pending_conf_index = 0
        # Of the uncommitted entries proposed in this term.
        self.uncommitted_bytes = 0
        # Leader: index of the empty entry that began its term. What is before it belongs to older terms.
        self.first_index_of_term = 0
        self.election_elapsed_ticks = 0
        self.heartbeat_elapsed_ticks = 0
        self.election_timeout_ticks = 0
        # Two outboxes. The first may leave at once; the second holds promises about durable state (votes,
        # acknowledgements) and must wait until all that is unstable now is written (thesis §3.8).
        self.messages: list[Message] = []
        self.messages_after_append: list[Message] = []
        # Reads, see `reads`.
        self.read_states: list[ReadState] = []
        self.early_reads: list[Message] = []
        self.pending_reads: list[PendingRead] = []
        self.read_sequence = 0
        self.read_acks: dict[int, int] = {}

        hard_state, conf_state = storage.initial_state()
        check_config(conf_state)
        self.tracker.switch(conf_state, self.node_id, self.log.last_index)
        self.is_learner = self.node_id in conf_state.learners
        if hard_state != HardState():
            self._load(hard_state)
        if config.applied:
            self.log.applied_to(config.applied, 0)
        become_follower(self, self.term, NO_NODE)

    def _load(self, hard_state: HardState) -> None:
        if not self.log.committed <= hard_state.commit <= self.log.last_index:
            # A hard state written before the entries that it commits, or a log that lost its tail.
            raise HaltError(
                f"commit {hard_state.commit} is not between {self.log.committed} and {self.log.last_index}"
            )
        self.log.committed = hard_state.commit
        self.term = hard_state.term
        self.vote = hard_state.vote

    def hard_state(self) -> HardState:
        """Return what must be durable, as of now."""
        return HardState(self.term, self.vote, self.log.committed)

    @property
    def is_promotable(self) -> bool:
        """Whether this node may campaign: a voter by its own configuration, no snapshot to be written."""
        return self.tracker.is_voter(self.node_id) and self.log.snapshot is None

    @property
    def has_committed_in_term(self) -> bool:
        """Leader: whether an entry of its own term is committed (thesis §6.4, step 1)."""
        return self.log.committed >= self.first_index_of_term


# Answers that promise something about durable state.
_PROMISES = frozenset({MessageType.APPEND_RESP, MessageType.VOTE_RESP, MessageType.PRE_VOTE_RESP})


def send(raft: Raft, message: Message) -> None:
    """Queue `message` for the network, or for after the write where it is a promise about durable state.

    Refusals wait too: they may rest on a vote or an entry that is not durable yet. They are rare, and nobody
    has proved that they need not.
    """
    if message.type in _PROMISES:
        raft.messages_after_append.append(message)
    else:
        assert message.to != raft.node_id
        raft.messages.append(message)


def become_follower(raft: Raft, term: int, leader: int) -> None:
    """Follow `leader`, or nobody yet, in `term` (thesis §3.3: whoever sees a higher term follows)."""
    reset(raft, term)
    raft.role = Role.FOLLOWER
    raft.leader = leader


def reset(raft: Raft, term: int) -> None:
    """Forget what belongs to one role in one term. A vote belongs to the term and outlives roles."""
    if raft.term != term:
        raft.term = term
        raft.vote = NO_NODE
    raft.leader = NO_NODE
    raft.election_elapsed_ticks = 0
    raft.heartbeat_elapsed_ticks = 0
    # Thesis §3.4: a fresh draw each time, so that split votes do not repeat.
    ticks = raft.config.election_ticks
    raft.election_timeout_ticks = ticks + raft.config.draw(ticks)
    raft.transfer_target = NO_NODE
    raft.pending_conf_index = 0
    raft.uncommitted_bytes = 0
    raft.first_index_of_term = 0
    raft.early_reads = []
    raft.pending_reads = []
    raft.read_sequence = 0
    raft.read_acks = {}
    raft.tracker.votes = {}
    last_index = raft.log.last_index
    for peer_id, progress in raft.tracker.progress.items():
        progress.reset(last_index + 1)
        if peer_id == raft.node_id:
            progress.match = last_index
