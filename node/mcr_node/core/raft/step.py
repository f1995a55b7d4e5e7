"""What a node does with a message, and with the passing of time."""

from collections.abc import Callable

from mcr_node.core.raft.election import (
    Campaign,
    handle_transfer_request,
    handle_vote_request,
    handle_vote_response,
    learn_commit,
    refuse_vote,
    start_campaign,
)
from mcr_node.core.raft.errors import ProposalDroppedError, ReadDroppedError
from mcr_node.core.raft.messages import (
    CAMPAIGN_TRANSFER,
    NO_NODE,
    Message,
    MessageType,
    entry_bytes,
)
from mcr_node.core.raft.raft import Raft, Role, become_follower, send
from mcr_node.core.raft.reads import beat, handle_read_index, handle_read_index_response
from mcr_node.core.raft.reconfiguration import applied_to, leave_joint_if_due, propose
from mcr_node.core.raft.replication import (
    handle_append,
    handle_append_response,
    handle_heartbeat,
    handle_heartbeat_response,
    handle_snapshot,
    handle_snapshot_status,
    handle_unreachable,
)

# Only a leader of its term sends these.
_FROM_LEADER = frozenset({MessageType.APPEND, MessageType.HEARTBEAT, MessageType.SNAPSHOT})
_VOTE_RESPONSES = frozenset({MessageType.VOTE_RESP, MessageType.PRE_VOTE_RESP})
_VOTE_REQUESTS = frozenset({MessageType.VOTE, MessageType.PRE_VOTE})
# A leader answers for these itself, whoever asks.
_OF_THE_LEADER = frozenset(
    {
        MessageType.BEAT,
        MessageType.CHECK_QUORUM,
        MessageType.PROPOSE,
        MessageType.READ_INDEX,
        MessageType.FORGET_LEADER,
    }
)


def step(raft: Raft, message: Message) -> None:
    """Advance the state by one message; what comes of it is in the outboxes.

    Raises:
        ProposalDroppedError: a proposal was not accepted.
        ReadDroppedError: a read was not begun.
        HaltError: the message contradicts committed state; stop this node.
    """
    term = message.term
    if term != raft.term and term and not _settle_term(raft, message):
        return
    match message.type:
        case MessageType.HUP:
            start_campaign(raft, Campaign.PRE_VOTE if raft.config.pre_vote else Campaign.ELECTION)
        case MessageType.VOTE | MessageType.PRE_VOTE:
            handle_vote_request(raft, message)
        case MessageType.STORAGE_APPEND_RESP:
            if message.index:
                raft.log.stable_to(message.index, message.log_term)
            _snapshot_written(raft, message)
        case MessageType.STORAGE_APPLY_RESP:
            entries = message.entries
            applied_to(raft, entries[-1].index, sum(map(entry_bytes, entries)), entries)
        case _:
            if message.reject and message.type in _VOTE_RESPONSES:
                learn_commit(raft, message)
            _STEP_OF_ROLE[raft.role](raft, message)


def tick(raft: Raft) -> None:
    """Let one tick pass."""
    raft.election_elapsed_ticks += 1
    if raft.role is Role.LEADER:
        _tick_leader(raft)
    elif raft.election_elapsed_ticks >= raft.election_timeout_ticks and raft.is_promotable:
        raft.election_elapsed_ticks = 0
        step(raft, Message(MessageType.HUP, sender=raft.node_id))


def _tick_leader(raft: Raft) -> None:
    raft.heartbeat_elapsed_ticks += 1
    if raft.election_elapsed_ticks >= raft.config.election_ticks:
        raft.election_elapsed_ticks = 0
        if raft.config.check_quorum:
            step(raft, Message(MessageType.CHECK_QUORUM, sender=raft.node_id))
        # Thesis §3.10: a transfer that takes longer than an election is given up, and proposals flow again.
        raft.transfer_target = NO_NODE
        leave_joint_if_due(raft)
    if raft.role is Role.LEADER and raft.heartbeat_elapsed_ticks >= raft.config.heartbeat_ticks:
        raft.heartbeat_elapsed_ticks = 0
        step(raft, Message(MessageType.BEAT, sender=raft.node_id))


def _settle_term(raft: Raft, message: Message) -> bool:
    """Compare the message's term with ours; False if nothing more is to be done with it."""
    if message.term < raft.term:
        _step_lower_term(raft, message)
        return False
    kind = message.type
    if kind in _VOTE_REQUESTS and message.context != CAMPAIGN_TRANSFER and _has_live_leader(raft):
        # Thesis §4.2.3: whoever hears from a leader neither votes nor follows to a higher term, so a node
        # that was cut off or removed cannot disturb the others.
        return False
    if kind is MessageType.PRE_VOTE:
        # Thesis §9.6: asking changes no term.
        return True
    if kind is MessageType.PRE_VOTE_RESP and not message.reject:
        # The term we asked about ourselves; we move there when a quorum says so.
        return True
    # Thesis §3.3: whoever sees a higher term follows.
    become_follower(raft, message.term, message.sender if kind in _FROM_LEADER else NO_NODE)
    return True


def _has_live_leader(raft: Raft) -> bool:
    return (
        raft.config.check_quorum
        and raft.leader != NO_NODE
        and raft.election_elapsed_ticks < raft.config.election_ticks
    )


def _step_lower_term(raft: Raft, message: Message) -> None:
    kind = message.type
    if kind in (MessageType.APPEND, MessageType.HEARTBEAT):
        if raft.config.check_quorum or raft.config.pre_vote:
            # That leader cannot hear of our higher term by our vote requests, which are ignored while it
            # lives. Tell it by an answer, or this node could never come back (etcd#8243).
            send(raft, Message(MessageType.APPEND_RESP, message.sender, raft.node_id, raft.term))
    elif kind is MessageType.PRE_VOTE:
        # Refused aloud: a pre-candidate of a lower term and a candidate of an old release with a higher one
        # would otherwise wait for each other for ever (etcd#8501).
        refuse_vote(raft, message)
    elif kind is MessageType.STORAGE_APPEND_RESP:
        # Entries it speaks of may have been overwritten in a later term and then not be what is durable, even
        # where index and term agree again (the ABA race). A snapshot is committed state and stays right.
        _snapshot_written(raft, message)


def _snapshot_written(raft: Raft, message: Message) -> None:
    if message.snapshot is not None:
        index = message.snapshot.index
        raft.log.stable_snapshot_to(index)
        applied_to(raft, index, 0, ())


def _step_leader(raft: Raft, message: Message) -> None:
    if message.type in _OF_THE_LEADER:
        _step_of_the_leader(raft, message)
        return
    progress = raft.tracker.progress.get(message.sender)
    if progress is None:
        # Removed meanwhile.
        return
    match message.type:
        case MessageType.APPEND_RESP:
            handle_append_response(raft, progress, message)
        case MessageType.HEARTBEAT_RESP:
            handle_heartbeat_response(raft, progress, message)
        case MessageType.SNAP_STATUS:
            handle_snapshot_status(progress, message)
        case MessageType.UNREACHABLE:
            handle_unreachable(progress)
        case MessageType.TRANSFER_LEADER:
            handle_transfer_request(raft, message.sender)
        case _:
            # Votes for an election already won, and what only followers act upon.
            return


def _step_of_the_leader(raft: Raft, message: Message) -> None:
    match message.type:
        case MessageType.PROPOSE:
            propose(raft, message.entries)
        case MessageType.READ_INDEX:
            handle_read_index(raft, message)
        case MessageType.BEAT:
            beat(raft)
        case MessageType.CHECK_QUORUM:
            # Thesis §6.2: out of touch with a quorum it can commit nothing, and its clients had better ask
            # elsewhere.
            if not raft.tracker.quorum_active():
                become_follower(raft, raft.term, NO_NODE)
            for _, progress in raft.tracker.peers:
                progress.recently_active = False
        case _:
            return


def _step_candidate(raft: Raft, message: Message) -> None:
    match message.type:
        case MessageType.APPEND | MessageType.HEARTBEAT | MessageType.SNAPSHOT:
            # Thesis §3.4: somebody else won this term.
            become_follower(raft, message.term, message.sender)
            _follow(raft, message)
        case MessageType.VOTE_RESP | MessageType.PRE_VOTE_RESP:
            handle_vote_response(raft, message)
        case MessageType.PROPOSE:
            raise ProposalDroppedError(f"no leader is known in term {raft.term}")
        case MessageType.READ_INDEX:
            _drop_read(raft, message)
        case _:
            return


def _step_follower(raft: Raft, message: Message) -> None:
    if message.type in _FROM_LEADER:
        _follow(raft, message)
        return
    match message.type:
        case MessageType.PROPOSE:
            if not raft.leader:
                raise ProposalDroppedError(f"no leader is known in term {raft.term}")
            if not raft.config.forward_proposals:
                raise ProposalDroppedError(f"node {raft.leader} leads term {raft.term}")
            _forward(raft, message)
        case MessageType.READ_INDEX if raft.leader:
            _forward(raft, message)
        case MessageType.READ_INDEX:
            _drop_read(raft, message)
        case MessageType.TRANSFER_LEADER if raft.leader:
            _forward(raft, message, term=raft.term)
        case MessageType.READ_INDEX_RESP:
            handle_read_index_response(raft, message)
        case MessageType.TIMEOUT_NOW:
            # Without a pre-vote: the leader itself asked, so nothing is to be found out (thesis §3.10).
            start_campaign(raft, Campaign.TRANSFER)
        case MessageType.FORGET_LEADER if not raft.config.leases_elsewhere:
            raft.leader = NO_NODE
        case _:
            return


def _follow(raft: Raft, message: Message) -> None:
    raft.election_elapsed_ticks = 0
    raft.leader = message.sender
    match message.type:
        case MessageType.APPEND:
            handle_append(raft, message)
        case MessageType.HEARTBEAT:
            handle_heartbeat(raft, message)
        case _:
            handle_snapshot(raft, message)


def _forward(raft: Raft, message: Message, *, term: int = 0) -> None:
    """Pass on what only the leader can do; its sender stays, for the answer goes there."""
    raft.messages.append(
        Message(
            message.type,
            raft.leader,
            message.sender or raft.node_id,
            term,
            entries=message.entries,
            context=message.context,
        )
    )


def _drop_read(raft: Raft, message: Message) -> None:
    if message.sender in (NO_NODE, raft.node_id):
        raise ReadDroppedError(f"no leader is known in term {raft.term}")


_STEP_OF_ROLE: dict[Role, Callable[[Raft, Message], None]] = {
    Role.FOLLOWER: _step_follower,
    Role.PRE_CANDIDATE: _step_candidate,
    Role.CANDIDATE: _step_candidate,
    Role.LEADER: _step_leader,
}
