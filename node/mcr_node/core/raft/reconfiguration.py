"""Proposals, and among them those that change the membership (thesis §4).

A configuration takes effect when its entry is *applied*, not when it is appended as in the thesis: then it is
committed, never taken back, and the same on every node at the same index. What makes this safe: at most one
change is in the log unapplied, and nobody campaigns with one committed but unapplied (etcd#7625).
"""

from dataclasses import replace

from mcr_node.core.raft.conf_codec import decode_conf_change, leaves_joint
from mcr_node.core.raft.errors import ConfChangeError, HaltError, ProposalDroppedError
from mcr_node.core.raft.membership import change
from mcr_node.core.raft.messages import (
    NO_NODE,
    ConfChangeV2,
    ConfState,
    Entry,
    EntryType,
    is_conf_change,
)
from mcr_node.core.raft.raft import Raft, Role, become_follower
from mcr_node.core.raft.reads import confirm_reads
from mcr_node.core.raft.replication import append_entries, maybe_commit, reduce_uncommitted
from mcr_node.core.raft.sending import broadcast_append, send_append


def propose(raft: Raft, entries: tuple[Entry, ...]) -> None:
    """Leader: append `entries` and send them on.

    A membership change that cannot follow is replaced by an empty entry: the others of the batch keep their
    places, and the proposer sees at its index that nothing came of it.

    Raises:
        ProposalDroppedError: this leader takes none now; nothing was appended.
    """
    if raft.node_id not in raft.tracker.progress:
        # Thesis §4.2.2: a leader that is removed manages the cluster until it is, and no longer.
        raise ProposalDroppedError("this leader was removed from the configuration")
    if raft.transfer_target:
        # Thesis §3.10: else the target could never catch up.
        raise ProposalDroppedError(f"leadership is being transferred to {raft.transfer_target}")
    pending_before = raft.pending_conf_index
    if any(map(is_conf_change, entries)):
        entries = _admit_conf_changes(raft, entries)
    try:
        append_entries(raft, entries)
    except ProposalDroppedError:
        raft.pending_conf_index = pending_before
        raise
    broadcast_append(raft)


def applied_to(raft: Raft, index: int, size_bytes: int, entries: tuple[Entry, ...]) -> None:
    """Hear that everything up to `index` is applied."""
    raft.log.applied_to(max(index, raft.log.applied), size_bytes)
    reduce_uncommitted(raft, entries)
    leave_joint_if_due(raft)


def leave_joint_if_due(raft: Raft) -> None:
    """Leader: propose to leave a joint configuration that leaves by itself, once it is applied (thesis §4.3).

    Tried whenever something was applied, and at each election timeout: a transfer of leadership that stands
    in the way, and then fails in a group that is idle, only delays it. Never proposed twice, for the proposal
    itself becomes the pending change.
    """
    config = raft.tracker.config
    if config.auto_leave and raft.role is Role.LEADER and raft.log.applied >= raft.pending_conf_index:
        try:
            propose(raft, (Entry(0, 0, EntryType.CONF_CHANGE_V2),))
        except ProposalDroppedError:
            return


def apply_conf_change(raft: Raft, request: ConfChangeV2) -> ConfState:
    """Put a committed change into force; return the new configuration.

    Raises:
        ConfChangeError: it cannot follow the present one. Nothing changed, here as on every other node, for
            the answer depends on replicated state alone.
        HaltError: this node joined by a log that does not name those who voted before it. It would take
            itself for the only voter, and commit what the others never see.
    """
    changed = change(raft.tracker.config, request)
    if not raft.tracker.config.voters and changed.config.voters == (raft.node_id,):
        raise HaltError(f"the log makes node {raft.node_id} a voter before it names any other")
    raft.tracker.switch(changed.config, raft.node_id, raft.log.last_index, changed.fresh)
    _after_switch(raft)
    return changed.config


def _after_switch(raft: Raft) -> None:
    config = raft.tracker.config
    member = raft.tracker.progress.get(raft.node_id)
    raft.is_learner = member is not None and member.is_learner
    if raft.role is not Role.LEADER:
        return
    if member is None or member.is_learner:
        # Thesis §4.2.2: a leader that is a voter no longer steps down once that is committed.
        if raft.config.step_down_on_removal:
            become_follower(raft, raft.term, NO_NODE)
        return
    if maybe_commit(raft):
        # A smaller quorum may have committed more.
        broadcast_append(raft)
    else:
        # New members need not wait for a heartbeat.
        for peer_id, progress in raft.tracker.peers:
            send_append(raft, peer_id, progress, even_if_empty=False)
    confirm_reads(raft)
    if raft.transfer_target and raft.transfer_target not in (*config.voters, *config.voters_outgoing):
        raft.transfer_target = NO_NODE


def _admit_conf_changes(raft: Raft, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    admitted = list(entries)
    for position, entry in enumerate(entries):
        if not is_conf_change(entry):
            continue
        if raft.config.check_conf_changes and not _may_follow(raft, entry):
            admitted[position] = replace(entry, type=EntryType.NORMAL, data=b"")
        else:
            raft.pending_conf_index = raft.log.last_index + position + 1
    return tuple(admitted)


def _may_follow(raft: Raft, entry: Entry) -> bool:
    # Thesis §4.1: one change at a time. The pending index starts at the end of a new leader's log, so a
    # change also waits until all that older terms left is applied. The bug of single-server changes
    # (raft-dev, July 2015) needs a configuration in force before it is committed; here none ever is.
    if raft.pending_conf_index > raft.log.applied:
        return False
    config = raft.tracker.config
    try:
        request = decode_conf_change(entry)
        if bool(config.voters_outgoing) != leaves_joint(request):
            return False
        # With nothing pending the present configuration is the one that it will follow, so a change that
        # could not be applied is known already now.
        change(config, request)
    except ConfChangeError:
        return False
    return True
