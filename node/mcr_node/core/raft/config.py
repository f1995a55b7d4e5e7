"""Settings of one node's core, checked once."""

from collections.abc import Callable

from mcr.values import dataclass
from mcr_node.core.raft.messages import NO_NODE, NODE_ID_MAX

# "No limit" for sizes in bytes; far above any sum that can occur, and still a small integer.
UNLIMITED = 1 << 62
# In-flight appends a peer: enough for 10 ms of round trip at a message each 40 us, small beside any queue.
INFLIGHT_MESSAGES_MAX = 256
# 1 MiB a message: one gRPC message (measured best size), and 1,000 commands of a KiB at once.
MESSAGE_BYTES_MAX = 1 << 20
# Reads waiting for a round; beyond it new ones are refused, so that memory stays bounded.
READS_WAITING_MAX = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftConfig:
    """Settings of one node; times are in ticks, sizes in bytes as `messages.entry_bytes` counts them.

    Attributes:
        node_id: this node, 1 to NODE_ID_MAX.
        draw: `draw(n)` gives a whole number from 0 to n - 1; the only chance in the core (thesis §3.4).
        election_ticks: T; an election starts T to 2T - 1 ticks after the last sign of a leader.
        heartbeat_ticks: below `election_ticks`; a tenth of it is usual.
        applied: last index the state machine has applied, at a restart.
        asynchronous: storage works through two queues, see `node.RawNode`.
        message_bytes_max: of entries in one APPEND; a single larger entry still travels alone.
        apply_bytes_max: of committed entries handed out and not yet acknowledged.
        uncommitted_bytes_max: of a leader's uncommitted tail; beyond it proposals are dropped.
        inflight_messages_max: APPENDs to one peer without an answer.
        inflight_bytes_max: payload of them.
        reads_waiting_max: reads without an answer at one leader.
        pre_vote: ask before raising the term (thesis §9.6).
        check_quorum: a leader out of touch with a quorum steps down, and a voter in touch with a leader
            refuses to vote (thesis §6.2, §4.2.3).
        forward_proposals: a follower passes proposals on to its leader.
        check_conf_changes: refuse changes that cannot follow the present configuration. Off only in tests.
        learn_commit_from_votes: a refused vote tells the candidate what is committed; see
            `election.refuse_vote`. Off only in the scenario files, which print the messages.
        tell_commit_later: a leader does not tell its peers at once that something was committed: the next
            append or heartbeat says so, or `RawNode.tell_commit`. One round of messages less for each entry.
        step_down_on_removal: a leader that is voter no longer steps down when it applies that.
        leases_elsewhere: something above relies on the leader being obeyed for an election timeout, so
            FORGET_LEADER is refused. The core itself never reads by lease: clocks may run apart.
    """

    node_id: int
    draw: Callable[[int], int]
    election_ticks: int = 10
    heartbeat_ticks: int = 1
    applied: int = 0
    asynchronous: bool = False
    message_bytes_max: int = MESSAGE_BYTES_MAX
    apply_bytes_max: int = UNLIMITED
    uncommitted_bytes_max: int = UNLIMITED
    inflight_messages_max: int = INFLIGHT_MESSAGES_MAX
    inflight_bytes_max: int = UNLIMITED
    reads_waiting_max: int = READS_WAITING_MAX
    pre_vote: bool = True
    check_quorum: bool = True
    forward_proposals: bool = True
    check_conf_changes: bool = True
    learn_commit_from_votes: bool = True
    tell_commit_later: bool = False
    step_down_on_removal: bool = True
    leases_elsewhere: bool = False

    def __post_init__(self) -> None:
        """Refuse settings under which the core cannot make progress.

        Raises:
            ValueError: names the setting and the bound that it breaks.
        """
        if not NO_NODE < self.node_id <= NODE_ID_MAX:
            raise ValueError(f"node_id {self.node_id} is not in 1..{NODE_ID_MAX}")
        if self.heartbeat_ticks < 1:
            raise ValueError(f"heartbeat_ticks {self.heartbeat_ticks} is below 1")
        if self.election_ticks <= self.heartbeat_ticks:
            # Thesis §3.9: the broadcast time is well below the election timeout, or leaders never last.
            raise ValueError(
                f"election_ticks {self.election_ticks} must exceed heartbeat_ticks {self.heartbeat_ticks}"
            )
        for name in (
            "inflight_messages_max",
            "apply_bytes_max",
            "uncommitted_bytes_max",
            "reads_waiting_max",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} is below 1")
        if self.message_bytes_max < 0:
            raise ValueError(f"message_bytes_max {self.message_bytes_max} is negative")
        if self.inflight_bytes_max < self.message_bytes_max and self.inflight_bytes_max != UNLIMITED:
            raise ValueError(
                f"inflight_bytes_max {self.inflight_bytes_max} is below one message, {self.message_bytes_max}"
            )
