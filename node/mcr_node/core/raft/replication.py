"""Log replication: a leader's side and a follower's side (thesis §3.5, §3.6.2, §5.1)."""

from mcr_node.core.raft.errors import ProposalDroppedError
from mcr_node.core.raft.messages import Entry, EntryType, Message, MessageType, entry_bytes
from mcr_node.core.raft.raft import Raft, Role, send
from mcr_node.core.raft.reads import handle_ack, release_early_reads
from mcr_node.core.raft.sending import broadcast_append, send_append
from mcr_node.core.raft.tracker import Progress, ProgressState

# -- leader ----------------------------------------------------------------------------------------


def append_entries(raft: Raft, proposed: tuple[Entry, ...]) -> None:
    """Leader: give `proposed` their places at the end of the log.

    Raises:
        ProposalDroppedError: the uncommitted tail would grow beyond its limit.
    """
    added = sum([_uncommitted_bytes(entry) for entry in proposed])
    uncommitted = raft.uncommitted_bytes
    # An empty tail takes a proposal of any size, and the core's own weightless entries always fit: without
    # them a leader could neither begin its term nor leave a joint configuration.
    if uncommitted and added and uncommitted + added > raft.config.uncommitted_bytes_max:
        raise ProposalDroppedError(
            f"{uncommitted} bytes are uncommitted, {added} more exceed {raft.config.uncommitted_bytes_max}"
        )
    raft.uncommitted_bytes = uncommitted + added
    append_placed(raft, proposed)


def append_placed(raft: Raft, proposed: tuple[Entry, ...]) -> None:
    """Leader: append without asking for limits."""
    term = raft.term
    index = raft.log.last_index
    placed = []
    for entry in proposed:
        index += 1
        placed.append(Entry(term, index, entry.type, entry.data))
    raft.log.append(tuple(placed))
    # The leader counts its own copy like any other: by an answer that is released once it is durable (thesis
    # §10.2.1, writing to disk in parallel).
    raft.messages_after_append.append(
        Message(MessageType.APPEND_RESP, raft.node_id, raft.node_id, term, index=index)
    )


def reduce_uncommitted(raft: Raft, applied: tuple[Entry, ...]) -> None:
    """Leader: `applied` are uncommitted no longer; only those that it counted itself are taken off."""
    if raft.role is not Role.LEADER:
        return
    first = raft.first_index_of_term
    raft.uncommitted_bytes -= sum([_uncommitted_bytes(entry) for entry in applied if entry.index > first])


def maybe_commit(raft: Raft) -> bool:
    """Leader: move the commit index to what a quorum holds; True if it moved.

    Thesis §3.6.2: an older term's entry is never committed by counting copies; only an entry of the current
    term carries what is before it. A leader knows where its term begins, so no entry need be looked at.
    """
    index = raft.tracker.committed()
    if index <= raft.log.committed or index < raft.first_index_of_term:
        return False
    raft.log.commit_to(index)
    release_early_reads(raft)
    return True


def handle_append_response(raft: Raft, progress: Progress, message: Message) -> None:
    """Leader: a peer, or its own disk, answered an append."""
    progress.recently_active = True
    if message.reject:
        _handle_rejection(raft, progress, message)
        return
    index = message.index
    if index > raft.log.last_index:
        # No such entry was ever sent in this term; the answer is not about our log.
        return
    # An old answer can still end a probe, if it says what the leader hopes for.
    probe_confirmed = progress.state is ProgressState.PROBE and index == progress.match
    if not progress.maybe_update(index) and not probe_confirmed:
        return
    if progress.state is ProgressState.PROBE:
        progress.become_replicate()
    elif progress.state is ProgressState.REPLICATE:
        progress.inflights.free_to(index)
    elif progress.match + 1 >= raft.log.first_index():
        # Whatever snapshot it got, from here on the log can serve it.
        progress.become_probe()
        progress.become_replicate()
    is_peer = message.sender != raft.node_id
    # Only an answer beyond the commit index can move it.
    if index > raft.log.committed and maybe_commit(raft):
        if not raft.config.tell_commit_later:
            broadcast_append(raft)
    elif is_peer and progress.can_bump_commit(raft.log.committed) and not raft.config.tell_commit_later:
        # Not strictly needed, heartbeats tell it too; but this is sooner.
        send_append(raft, message.sender, progress)
    if not is_peer:
        return
    # The window may have opened for several appends at once.
    while send_append(raft, message.sender, progress, even_if_empty=False):
        pass
    if message.sender == raft.transfer_target and progress.match == raft.log.last_index:
        send_timeout_now(raft, message.sender)


def send_timeout_now(raft: Raft, peer_id: int) -> None:
    """Leader: the transfer's target has the whole log; let it campaign at once (thesis §3.10)."""
    raft.messages.append(Message(MessageType.TIMEOUT_NOW, peer_id, raft.node_id, raft.term))


def handle_heartbeat_response(raft: Raft, progress: Progress, message: Message) -> None:
    """Leader: a peer is alive. Probe it again if it lags, and count the answer for reads."""
    progress.recently_active = True
    progress.flow_paused = False
    # A peer that matches but is probed (it was reported unreachable) is sent an empty append, so that its
    # answer lets it back to streaming.
    if progress.match < raft.log.last_index or progress.state is ProgressState.PROBE:
        send_append(raft, message.sender, progress)
    if message.read_sequence:
        handle_ack(raft, message.sender, message.read_sequence)


def handle_snapshot_status(progress: Progress, message: Message) -> None:
    """Leader: the transport says how sending a snapshot ended."""
    if progress.state is not ProgressState.SNAPSHOT:
        return
    if message.reject:
        # Before the change of state, or the next probe would start after a snapshot that never arrived.
        progress.pending_snapshot = 0
    progress.become_probe()
    # It arrived: wait for the peer's own answer. It did not: wait for a heartbeat before the next try.
    progress.flow_paused = True


def handle_unreachable(progress: Progress) -> None:
    """Leader: the transport lost something; what was streamed ahead is probably lost as well."""
    if progress.state is ProgressState.REPLICATE:
        progress.become_probe()


def _handle_rejection(raft: Raft, progress: Progress, message: Message) -> None:
    hint = message.reject_hint
    if message.log_term:
        # Thesis §3.5: all of a term at once. The peer has term `log_term` at `hint`, and terms only grow
        # within a log: places of ours up to there with a larger term cannot match, so skip them.
        hint, _ = raft.log.find_conflict_by_term(min(hint, raft.log.last_index), message.log_term)
    if progress.maybe_decrease(message.index, hint):
        if progress.state is ProgressState.REPLICATE:
            progress.become_probe()
        send_append(raft, message.sender, progress)


def _uncommitted_bytes(entry: Entry) -> int:
    if not entry.data and entry.type is EntryType.CONF_CHANGE_V2:
        return 0
    return entry_bytes(entry)


# -- follower --------------------------------------------------------------------------------------


def handle_append(raft: Raft, message: Message) -> None:
    """Follower: take in what the leader sent, or say where the logs may still agree."""
    log = raft.log
    if message.index < log.committed:
        # Old news: say how far we are for certain.
        _acknowledge(raft, message.sender, log.committed)
        return
    matching = log.maybe_append(message.index, message.log_term, message.entries, message.commit)
    if matching is not None:
        _acknowledge(raft, message.sender, matching)
        return
    # The mirror of `_handle_rejection`: places of ours with a term above the leader's at `message.index`
    # cannot match anything before it. So at most one probe a term, whichever log is the longer.
    hint, hint_term = log.find_conflict_by_term(min(message.index, log.last_index), message.log_term)
    send(
        raft,
        Message(
            MessageType.APPEND_RESP,
            message.sender,
            raft.node_id,
            raft.term,
            hint_term,
            message.index,
            reject=True,
            reject_hint=hint,
        ),
    )


def handle_heartbeat(raft: Raft, message: Message) -> None:
    """Follower: the leader is alive, and knows that we match it up to its commit index."""
    raft.log.commit_to(message.commit)
    raft.messages.append(
        Message(
            MessageType.HEARTBEAT_RESP,
            message.sender,
            raft.node_id,
            raft.term,
            read_sequence=message.read_sequence,
        )
    )


def handle_snapshot(raft: Raft, message: Message) -> None:
    """Follower: start anew from a snapshot, or say that it is not needed (thesis §5.1)."""
    restored = _restore(raft, message)
    _acknowledge(raft, message.sender, raft.log.last_index if restored else raft.log.committed)


def _restore(raft: Raft, message: Message) -> bool:
    snapshot = message.snapshot
    log = raft.log
    if snapshot is None or snapshot.index <= log.committed:
        # Out of date; taking it would throw away entries that were acknowledged (etcd#1763).
        return False
    assert raft.role is Role.FOLLOWER
    config = snapshot.conf_state
    if raft.node_id not in (*config.voters, *config.learners, *config.voters_outgoing):
        # It was made before we were a member (raft-rs#472): with it we could never be one.
        return False
    if log.term(snapshot.index) == snapshot.term:
        # We have that entry, so we match up to there, and keep what follows it.
        log.commit_to(snapshot.index)
        return False
    log.restore(snapshot)
    raft.tracker.progress = {}
    raft.tracker.switch(config, raft.node_id, log.last_index)
    raft.is_learner = raft.node_id in config.learners
    return True


def _acknowledge(raft: Raft, leader: int, index: int) -> None:
    raft.messages_after_append.append(
        Message(MessageType.APPEND_RESP, leader, raft.node_id, raft.term, index=index)
    )
