"""Linearizable reads without a log entry: ReadIndex (thesis §6.4).

A leader notes its commit index, makes sure by a round of heartbeats that it was still the leader after the
read arrived, and answers with the noted index. No clock takes part: lease reads (thesis §6.4.1) rest on
bounded clock drift, and are not offered.

Rounds are numbered by the leader, from 1 in each term. An answer counts for (its term, its number): for
nothing of an older term, and for no round begun after the heartbeat it answers left. The caller's token plays
no part in it; two reads with one token are two reads (etcd#20418 served stale data for want of this).

One round at a time is under way; reads that arrive meanwhile share the next one. So a thousand reads a
millisecond cost two rounds, not a thousand. A lost heartbeat delays the round to the next tick, which repeats
the number and takes in whoever waits.
"""

from mcr_node.core.raft.errors import ReadDroppedError
from mcr_node.core.raft.messages import NO_NODE, Message, MessageType
from mcr_node.core.raft.quorum import joint_index
from mcr_node.core.raft.raft import PendingRead, Raft, ReadState
from mcr_node.core.raft.sending import broadcast_heartbeat


def handle_read_index(raft: Raft, message: Message) -> None:
    """Leader: take in a read, its own or forwarded.

    Raises:
        ReadDroppedError: too many wait; only for a read of this node's own.
    """
    if len(raft.pending_reads) + len(raft.early_reads) >= raft.config.reads_waiting_max:
        if _is_own(raft, message):
            raise ReadDroppedError(f"{raft.config.reads_waiting_max} reads wait already")
        return
    if not raft.has_committed_in_term:
        # Thesis §6.4, step 1: a new leader does not know yet which entries are committed; its commit index
        # may lag behind what a former leader answered. True for a single voter, too, that has just restarted.
        raft.early_reads.append(message)
        return
    _admit(raft, message)
    _start_round_if_idle(raft)


def release_early_reads(raft: Raft) -> None:
    """Leader: the first entry of the term was committed; begin the reads that waited for it."""
    if not raft.early_reads:
        return
    early, raft.early_reads = raft.early_reads, []
    for message in early:
        _admit(raft, message)
    _start_round_if_idle(raft)


def handle_ack(raft: Raft, peer_id: int, sequence: int) -> None:
    """Leader: a peer answered a heartbeat of this term that carried `sequence`."""
    if sequence > raft.read_acks.get(peer_id, 0) and sequence <= raft.read_sequence:
        raft.read_acks[peer_id] = sequence
        confirm_reads(raft)


def confirm_reads(raft: Raft) -> None:
    """Leader: answer the reads whose round a quorum has answered; called again when the quorum changes."""
    if not raft.pending_reads:
        return
    config = raft.tracker.config
    confirmed = joint_index(config.voters, config.voters_outgoing, raft.read_acks)
    waiting = raft.pending_reads
    done = 0
    while done < len(waiting) and waiting[done].sequence <= confirmed:
        _answer(raft, waiting[done].request, waiting[done].index)
        done += 1
    if done:
        del waiting[:done]
        _start_round_if_idle(raft)


def beat(raft: Raft) -> None:
    """Leader: the periodic heartbeat; takes waiting reads into a new round."""
    if raft.pending_reads and raft.pending_reads[-1].sequence > raft.read_sequence:
        _next_round(raft)
    broadcast_heartbeat(raft)


def handle_read_index_response(raft: Raft, message: Message) -> None:
    """Follower: its leader answered a read that was passed on."""
    raft.read_states.append(ReadState(message.index, message.context))


def _admit(raft: Raft, message: Message) -> None:
    if raft.tracker.is_singleton and raft.node_id in raft.tracker.config.voters:
        # A quorum of one needs no round.
        _answer(raft, message, raft.log.committed)
        return
    # The round after the newest: it will begin after this moment, which is what makes its answers count.
    raft.pending_reads.append(PendingRead(raft.read_sequence + 1, raft.log.committed, message))


def _start_round_if_idle(raft: Raft) -> None:
    waiting = raft.pending_reads
    # The oldest read waits for a round not begun: then no round is under way.
    if waiting and waiting[0].sequence > raft.read_sequence:
        _next_round(raft)
        broadcast_heartbeat(raft)


def _next_round(raft: Raft) -> None:
    raft.read_sequence += 1
    raft.read_acks[raft.node_id] = raft.read_sequence


def _answer(raft: Raft, request: Message, index: int) -> None:
    if _is_own(raft, request):
        raft.read_states.append(ReadState(index, request.context))
        return
    raft.messages.append(
        Message(
            MessageType.READ_INDEX_RESP,
            request.sender,
            raft.node_id,
            raft.term,
            index=index,
            context=request.context,
        )
    )


def _is_own(raft: Raft, message: Message) -> bool:
    return message.sender in (NO_NODE, raft.node_id)
