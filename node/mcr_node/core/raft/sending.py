"""Appends, snapshots and heartbeats to peers: what leaves a leader (thesis §3.5, §10.2)."""

from mcr_node.core.raft.errors import CompactedError, SnapshotUnavailableError
from mcr_node.core.raft.messages import Entry, Message, MessageType
from mcr_node.core.raft.raft import Raft
from mcr_node.core.raft.tracker import Progress, ProgressState


def send_append(raft: Raft, peer_id: int, progress: Progress, *, even_if_empty: bool = True) -> bool:
    """Send the peer what it lacks next; True if anything was sent.

    An empty append is worth sending for the commit index it carries, or as a probe; not when several are sent
    in a row.
    """
    if progress.flow_paused or progress.state is ProgressState.SNAPSHOT:
        return False
    log = raft.log
    next_index = progress.next
    if next_index > log.last_index and not even_if_empty:
        return False
    previous_term = log.term(next_index - 1)
    if previous_term is None:
        # Compacted away: only a snapshot can help (thesis §5.1).
        return send_snapshot(raft, peer_id, progress)
    entries: tuple[Entry, ...] = ()
    # With a full window only an empty append is sent: if all appends of the window were lost nothing would
    # ever be answered, while this one will be, and either answer empties the window.
    throttled = progress.state is ProgressState.REPLICATE and progress.inflights.full
    if next_index <= log.last_index and not throttled:
        try:
            entries = log.slice(next_index, log.last_index + 1, raft.config.message_bytes_max)
        except CompactedError:
            return send_snapshot(raft, peer_id, progress)
    if not entries and not even_if_empty:
        return False
    raft.messages.append(
        Message(
            MessageType.APPEND,
            peer_id,
            raft.node_id,
            raft.term,
            previous_term,
            next_index - 1,
            log.committed,
            entries=entries,
        )
    )
    progress.sent_entries(len(entries), sum([len(entry.data) for entry in entries]))
    progress.sent_commit = log.committed
    return True


def send_snapshot(raft: Raft, peer_id: int, progress: Progress) -> bool:
    """Send the peer a snapshot, unless it has been silent or none can be had now (thesis §5.1)."""
    if not progress.recently_active:
        # Gigabytes to a dead node help nobody; it will be noticed when it speaks.
        return False
    try:
        snapshot = raft.log.snapshot or raft.log.storage.snapshot()
    except SnapshotUnavailableError:
        return False
    assert snapshot.index > 0
    progress.become_snapshot(snapshot.index)
    raft.messages.append(Message(MessageType.SNAPSHOT, peer_id, raft.node_id, raft.term, snapshot=snapshot))
    return True


def broadcast_append(raft: Raft) -> None:
    """Send every peer what it lacks, or at least the commit index."""
    for peer_id, progress in raft.tracker.peers:
        send_append(raft, peer_id, progress)


def broadcast_heartbeat(raft: Raft) -> None:
    """Tell every peer that this leader is alive, how far to commit, and which read round is the newest."""
    committed = raft.log.committed
    for peer_id, progress in raft.tracker.peers:
        # Never beyond the match: what follows it in the peer's log may not be ours, and must not be
        # committed.
        commit = min(progress.match, committed)
        raft.messages.append(
            Message(
                MessageType.HEARTBEAT,
                peer_id,
                raft.node_id,
                raft.term,
                commit=commit,
                read_sequence=raft.read_sequence,
            )
        )
        progress.sent_commit = commit
