"""Elections: campaigns, votes, and beginning to lead (thesis §3.4, §3.6.1, §9.6, §3.10)."""

import enum

from mcr_node.core.raft.messages import (
    CAMPAIGN_TRANSFER,
    NO_NODE,
    Entry,
    Message,
    MessageType,
)
from mcr_node.core.raft.quorum import VoteResult
from mcr_node.core.raft.raft import Raft, Role, become_follower, reset, send
from mcr_node.core.raft.replication import append_placed, send_timeout_now
from mcr_node.core.raft.sending import broadcast_append, send_append


class Campaign(enum.Enum):
    """Why, and so how, a node asks for votes."""

    PRE_VOTE = "pre-vote"  # thesis §9.6: would I win? Nobody's term changes.
    ELECTION = "election"
    TRANSFER = "transfer"  # thesis §3.10: the leader asked for it


def start_campaign(raft: Raft, kind: Campaign) -> None:
    """Begin an election, unless this node may not or must not."""
    if raft.role is Role.LEADER or not raft.is_promotable:
        return
    if raft.log.has_unapplied_conf_change():
        # It may have been voted out, or the quorum may be another one (etcd#7625).
        return
    _campaign(raft, kind)


def handle_vote_request(raft: Raft, message: Message) -> None:
    """Grant a vote or refuse it (thesis §3.4, §3.6.1), or say how a vote would go (§9.6).

    Learners vote, too: a learner that was promoted may not have heard of it, and be needed (etcd#10998).
    Whoever asks knows a configuration in which this node is a voter.
    """
    is_pre_vote = message.type is MessageType.PRE_VOTE
    can_vote = (
        raft.vote == message.sender
        or (raft.vote == NO_NODE and raft.leader == NO_NODE)
        or (is_pre_vote and message.term > raft.term)
    )
    granted = can_vote and raft.log.is_up_to_date(message.log_term, message.index)
    if not granted:
        refuse_vote(raft, message)
        return
    # A grant carries the term that was asked for: for a pre-vote it is ahead of both nodes' terms, and an
    # answer in our own, perhaps older one would be thrown away there.
    answer = MessageType.PRE_VOTE_RESP if is_pre_vote else MessageType.VOTE_RESP
    send(raft, Message(answer, message.sender, raft.node_id, message.term))
    if not is_pre_vote:
        # Only a vote that was given postpones our own candidacy (thesis §3.4).
        raft.election_elapsed_ticks = 0
        raft.vote = message.sender


def refuse_vote(raft: Raft, message: Message) -> None:
    """Refuse a (pre-)vote, aloud and in our own term, and say what is known to be committed.

    Without the latter a group can stand still for ever: a leader that removed itself may be the only one that
    knows its removal to be committed. The others hold that entry, do not know, and so still need its vote,
    which they do not get for want of entries that nobody will ever commit (redpanda#3055; the remedy is
    raft-rs's).
    """
    is_pre_vote = message.type is MessageType.PRE_VOTE
    answer = MessageType.PRE_VOTE_RESP if is_pre_vote else MessageType.VOTE_RESP
    commit = raft.log.committed if raft.config.learn_commit_from_votes else 0
    commit_term = (raft.log.term(commit) or 0) if commit else 0
    refusal = Message(
        answer, message.sender, raft.node_id, raft.term, commit_term, commit=commit, reject=True
    )
    send(raft, refusal)


def learn_commit(raft: Raft, message: Message) -> None:
    """Take over the commit index of a refusal, if we hold that very entry.

    An index and a term name one entry with all before it (thesis §3.5, log matching), and what is committed
    stays so for everybody (§3.6, leader completeness), whatever became of the term since.
    """
    if raft.role is Role.LEADER or not message.log_term:
        return
    if raft.log.term(message.commit) == message.log_term:
        raft.log.commit_to(message.commit)
    if raft.role is not Role.FOLLOWER and raft.log.has_unapplied_conf_change():
        # As at the start of a campaign: once the change is applied, another quorum may be asked (etcd#7625).
        become_follower(raft, raft.term, NO_NODE)


def handle_vote_response(raft: Raft, message: Message) -> None:
    """(Pre-)candidate: count an answer; answers to another kind of campaign are old news."""
    asks_pre_votes = raft.role is Role.PRE_CANDIDATE
    if (message.type is MessageType.PRE_VOTE_RESP) is not asks_pre_votes:
        return
    match raft.tracker.record_vote(message.sender, granted=not message.reject):
        case VoteResult.WON if asks_pre_votes:
            _campaign(raft, Campaign.ELECTION)
        case VoteResult.WON:
            become_leader(raft)
            broadcast_append(raft)
        case VoteResult.LOST:
            # A granted pre-vote's term is not ours yet; stay in our own.
            become_follower(raft, raft.term, NO_NODE)
        case VoteResult.PENDING:
            return


def become_leader(raft: Raft) -> None:
    """Candidate: lead (thesis §3.4, §6.4 step 1)."""
    assert raft.role is Role.CANDIDATE
    reset(raft, raft.term)
    raft.role = Role.LEADER
    raft.leader = raft.node_id
    own = raft.tracker.get(raft.node_id)
    own.become_replicate()
    own.recently_active = True
    # There may be a membership change somewhere in the log that is not applied yet. Looking for it could take
    # long; waiting until all that is in the log now is applied is safe, and short.
    raft.pending_conf_index = raft.log.last_index
    # An empty entry of the own term, so that what older terms left can be committed (thesis §3.6.2), and
    # reads be served. It is counted against no limit.
    raft.first_index_of_term = raft.log.last_index + 1
    append_placed(raft, (Entry(0, 0),))


def become_candidate(raft: Raft) -> None:
    """Raise the term and vote for oneself (thesis §3.4)."""
    assert raft.role is not Role.LEADER
    reset(raft, raft.term + 1)
    raft.vote = raft.node_id
    raft.role = Role.CANDIDATE


def become_pre_candidate(raft: Raft) -> None:
    """Ask how an election would go; term and vote stay (thesis §9.6)."""
    assert raft.role is not Role.LEADER
    raft.tracker.votes = {}
    raft.leader = NO_NODE
    raft.role = Role.PRE_CANDIDATE


def handle_transfer_request(raft: Raft, target: int) -> None:
    """Leader: hand leadership to `target` (thesis §3.10).

    Ignored for learners, for this node itself, and for the target of a transfer under way; any other request
    replaces the one under way. The attempt ends after an election timeout, see `step.tick`.
    """
    progress = raft.tracker.get(target)
    if progress.is_learner or raft.transfer_target == target:
        return
    raft.transfer_target = NO_NODE
    if target == raft.node_id:
        return
    raft.election_elapsed_ticks = 0
    raft.transfer_target = target
    if progress.match == raft.log.last_index:
        send_timeout_now(raft, target)
    else:
        send_append(raft, target, progress)


def _campaign(raft: Raft, kind: Campaign) -> None:
    if kind is Campaign.PRE_VOTE:
        become_pre_candidate(raft)
        request, answer, term = MessageType.PRE_VOTE, MessageType.PRE_VOTE_RESP, raft.term + 1
    else:
        become_candidate(raft)
        request, answer, term = MessageType.VOTE, MessageType.VOTE_RESP, raft.term
    context = CAMPAIGN_TRANSFER if kind is Campaign.TRANSFER else b""
    log = raft.log
    for voter in raft.tracker.progress:
        if not raft.tracker.is_voter(voter):
            continue
        if voter == raft.node_id:
            # Its own vote counts like any other, once it is durable (nebula#3415: a candidate that did not
            # record its vote).
            send(raft, Message(answer, voter, voter, term))
            continue
        raft.messages.append(
            Message(request, voter, raft.node_id, term, log.last_term, log.last_index, context=context)
        )
