"""Seeded defects: each is one that real systems had, put into the core or around it for one test."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from unittest.mock import patch

from mcr_node.core import replica as replica_module
from mcr_node.core.raft import (
    election,
    log,
    node,
    quorum,
    raft,
    reads,
    reconfiguration,
    replication,
    sending,
    step,
    tracker,
)
from mcr_node.core.raft.messages import APPEND_QUEUE, ConfChangeV2, Entry, HardState, Message, MessageType
from mcr_node.core.replica import Append, Replica
from mcr_node.core.state import requests
from tests.simulation.cluster import disk
from tests.simulation.cluster import node as node_module

Wrong = AbstractContextManager[object]
Defect = Callable[[], Wrong]
DEFECTS: dict[str, Defect] = {}


def defect(make: Defect) -> Defect:
    """Enter a defect under the name of its function."""
    DEFECTS[make.__name__.strip("_")] = make
    return make


def _wrong(target: object, name: str, wrong: object) -> Wrong:
    return patch.object(target, name, wrong)


@contextmanager
def _all(patches: Sequence[Wrong]) -> Iterator[None]:
    with ExitStack() as stack:
        for each in patches:
            stack.enter_context(each)
        yield


# ---- durability ----


@defect
def _answers_before_the_sync() -> Wrong:
    """etcd#14370: promises leave when the write is handed out."""

    def append(process: node_module.Process, effect: Append) -> None:
        process.replica.on_appended(replace(effect, message=effect.message))

    original = node_module.Process._write

    def write(process: node_module.Process, batch: Sequence[Append]) -> None:
        if any(one.message.snapshot for one in batch):
            original(process, batch)
            return
        for one in batch:
            append(process, one)
            one.message.responses = ()
        process.pump()
        original(process, batch)

    return _wrong(node_module.Process, "_write", write)


@defect
def _sync_does_nothing() -> Wrong:
    return _wrong(disk.LogDisk, "sync", lambda _: None)


@defect
def _vote_is_not_written() -> Wrong:
    """NodeDB#161."""
    original = disk.LogContent.write

    def write(content: disk.LogContent, entries: Sequence[Entry], hard: HardState | None) -> None:
        original(
            content,
            entries,
            None
            if hard is None
            else replace(hard, vote=content.hard.vote if hard.term == content.hard.term else 0),
        )

    return _wrong(disk.LogContent, "write", write)


@defect
def _term_is_not_written() -> Wrong:
    original = disk.LogContent.write

    def write(content: disk.LogContent, entries: Sequence[Entry], hard: HardState | None) -> None:
        if hard is not None:
            hard = replace(hard, term=content.hard.term if not entries else hard.term, vote=content.hard.vote)
        original(content, entries, hard)

    return _wrong(disk.LogContent, "write", write)


@defect
def _vote_leaves_before_the_write() -> Wrong:
    original = raft.send

    def send(of: raft.Raft, message: Message) -> None:
        if message.type is MessageType.VOTE_RESP and message.to != of.node_id:
            of.messages.append(message)
        else:
            original(of, message)

    return _all([_wrong(election, "send", send), _wrong(step, "send", send)])


@defect
def _acknowledgement_leaves_before_the_write() -> Wrong:
    def acknowledge(of: raft.Raft, leader: int, index: int) -> None:
        of.messages.append(Message(MessageType.APPEND_RESP, leader, of.node_id, of.term, index=index))

    return _wrong(replication, "_acknowledge", acknowledge)


@defect
def _log_is_cut_before_the_state_is_durable() -> Wrong:
    original = node_module.Process._cut_log_back

    def cut(process: node_module.Process) -> None:
        with _wrong(disk.StateDisk, "sync", lambda _: None):
            original(process)

    return _wrong(node_module.Process, "_cut_log_back", cut)


@defect
def _unstable_entries_are_applied() -> Wrong:
    return _wrong(log.RaftLog, "_appliable_index", lambda one, **_: one.committed)


@defect
def _stable_without_a_look_at_the_term() -> Wrong:
    """The ABA race of asynchronous appends."""

    original = log.RaftLog.stable_to

    def stable_to(one: log.RaftLog, index: int, _: int) -> None:
        original(one, index, one.term(index) or 0)

    return _wrong(log.RaftLog, "stable_to", stable_to)


@defect
def _old_storage_answers_count() -> Wrong:
    original = step._step_lower_term

    def lower(of: raft.Raft, message: Message) -> None:
        if message.type is MessageType.STORAGE_APPEND_RESP and message.index:
            of.log.stable_to(message.index, message.log_term)
        original(of, message)

    return _wrong(step, "_step_lower_term", lower)


# ---- elections ----


@defect
def _votes_twice() -> Wrong:
    """camunda#5356."""
    original = election.handle_vote_request

    def vote(of: raft.Raft, message: Message) -> None:
        of.vote = message.sender
        original(of, message)

    return _wrong(step, "handle_vote_request", vote)


@defect
def _votes_for_a_shorter_log() -> Wrong:
    return _wrong(log.RaftLog, "is_up_to_date", lambda one, term, index: term >= one.last_term)


@defect
def _votes_for_an_older_log() -> Wrong:
    return _wrong(log.RaftLog, "is_up_to_date", lambda one, term, index: index >= one.last_index)


@defect
def _votes_for_any_log() -> Wrong:
    return _wrong(log.RaftLog, "is_up_to_date", lambda one, term, index: True)


@defect
def _half_is_a_majority() -> Wrong:
    def index_of(indexes: Sequence[int]) -> int:
        return (
            sorted(indexes)[len(indexes) // 2]
            if len(indexes) % 2 == 0
            else sorted(indexes)[len(indexes) // 2 + 1 if len(indexes) > 1 else 0]
        )

    return _wrong(tracker, "majority_index", index_of)


@defect
def _campaigns_with_an_unapplied_change() -> Wrong:
    """etcd#7625."""
    return _wrong(log.RaftLog, "has_unapplied_conf_change", lambda _: False)


@defect
def _vote_is_forgotten_on_stepping_down() -> Wrong:
    original = raft.become_follower

    def follow(of: raft.Raft, term: int, leader: int) -> None:
        original(of, term, leader)
        if not leader:
            of.vote = 0

    return _all([_wrong(step, "become_follower", follow), _wrong(election, "become_follower", follow)])


# ---- commit and log ----


@defect
def _older_term_is_committed_by_counting() -> Wrong:
    """Raft, Figure 8."""

    def maybe_commit(of: raft.Raft) -> bool:
        index = of.tracker.committed()
        if index <= of.log.committed:
            return False
        of.log.commit_to(index)
        reads.release_early_reads(of)
        return True

    return _all(
        [
            _wrong(replication, "maybe_commit", maybe_commit),
            _wrong(reconfiguration, "maybe_commit", maybe_commit),
        ]
    )


@defect
def _learner_counts() -> Wrong:
    def committed(of: tracker.Tracker) -> int:
        members = [progress.match for progress in of.progress.values()]
        return quorum.majority_index(members)

    return _wrong(tracker.Tracker, "committed", committed)


@defect
def _joint_counts_only_the_new_half() -> Wrong:
    def committed(of: tracker.Tracker) -> int:
        return quorum.majority_index([of.progress[voter].match for voter in of.config.voters])

    return _wrong(tracker.Tracker, "committed", committed)


@defect
def _append_ignores_the_place_before() -> Wrong:
    original = log.RaftLog.maybe_append

    def maybe_append(
        one: log.RaftLog, index: int, _: int, entries: tuple[Entry, ...], commit: int
    ) -> int | None:
        return original(one, index, one.term(index) or 0, entries, commit)

    return _wrong(log.RaftLog, "maybe_append", maybe_append)


@defect
def _late_append_cuts_off_the_tail() -> Wrong:
    return _wrong(
        log.RaftLog,
        "_after_common_prefix",
        lambda one, entries: entries if entries and entries[0].index > one.committed else (),
    )


@defect
def _commits_beyond_the_append() -> Wrong:
    original = log.RaftLog.maybe_append

    def maybe_append(
        one: log.RaftLog, index: int, term: int, entries: tuple[Entry, ...], commit: int
    ) -> int | None:
        matching = original(one, index, term, entries, commit)
        if matching is not None:
            one.commit_to(min(commit, one.last_index))
        return matching

    return _wrong(log.RaftLog, "maybe_append", maybe_append)


@defect
def _heartbeat_commits_beyond_the_match() -> Wrong:
    def broadcast(of: raft.Raft) -> None:
        for peer_id, _ in of.tracker.peers:
            of.messages.append(
                Message(
                    MessageType.HEARTBEAT,
                    peer_id,
                    of.node_id,
                    of.term,
                    commit=of.log.committed,
                    read_sequence=of.read_sequence,
                )
            )

    return _all(
        [_wrong(reads, "broadcast_heartbeat", broadcast), _wrong(sending, "broadcast_heartbeat", broadcast)]
    )


@defect
def _stale_snapshot_is_taken() -> Wrong:
    """etcd#1763."""

    def restore(of: raft.Raft, message: Message) -> bool:
        assert message.snapshot is not None
        if message.snapshot.index < of.log.applied:
            return False
        of.log.restore(message.snapshot)
        of.tracker.switch(message.snapshot.conf_state, of.node_id, of.log.last_index)
        return True

    return _wrong(replication, "_restore", restore)


# ---- membership ----


@defect
def _two_changes_at_once() -> Wrong:
    def may_follow(of: raft.Raft, entry: Entry) -> bool:
        return True

    return _wrong(reconfiguration, "_may_follow", may_follow)


@defect
def _founder_is_not_told() -> Wrong:
    """A new node that reads the log from its beginning takes itself for the only voter."""

    def change(of: Replica, wanted: ConfChangeV2) -> None:
        if of.is_leader:
            of._node.propose_conf_change(wanted)

    return _wrong(Replica, "change_members", change)


@defect
def _own_answer_after_removal_raises() -> Wrong:
    def release(of: Replica, message: Message) -> None:
        for response in message.responses:
            if response.to == of.node_id:
                of._node.step(response)
            else:
                of._effects.append(replica_module.Send(response))

    return _wrong(Replica, "_release", release)


@defect
def _read_that_went_in_a_circle_raises() -> Wrong:
    return _wrong(Replica, "deliver", lambda of, message: of._node.step(message))


@defect
def _reads_wait_for_an_entry_after_the_snapshot() -> Wrong:
    def appended(of: Replica, append: Append) -> None:
        if append.message.snapshot is not None:
            of.applied = max(of.applied, append.message.snapshot.index)
        of._release(append.message)

    return _wrong(Replica, "on_appended", appended)


@defect
def _snapshot_brings_no_members() -> Wrong:
    return _wrong(Replica, "on_snapshot_installed", lambda *_: None)


# ---- reads ----


@defect
def _read_without_a_quorum() -> Wrong:
    def admit(of: raft.Raft, message: Message) -> None:
        reads._answer(of, message, of.log.committed)

    return _wrong(reads, "_admit", admit)


@defect
def _read_before_the_term_commits() -> Wrong:
    """etcd#7331."""
    return _wrong(raft.Raft, "has_committed_in_term", property(lambda _: True))


@defect
def _old_acknowledgements_confirm_reads() -> Wrong:
    """etcd#20418: an answer to any heartbeat counts for the newest round."""

    def ack(of: raft.Raft, peer_id: int, _: int) -> None:
        of.read_acks[peer_id] = of.read_sequence
        reads.confirm_reads(of)

    return _wrong(replication, "handle_ack", ack)


@defect
def _read_before_it_is_applied() -> Wrong:
    def answer(of: Replica) -> None:
        while of._reads_confirmed:
            _, tickets = of._reads_confirmed.popleft()
            of._effects.extend(replica_module.AnswerRead(ticket, 0) for ticket in tickets)

    return _wrong(Replica, "_answer_reads", answer)


@defect
def _read_joins_a_round_under_way() -> Wrong:
    original = Replica.read

    def read(of: Replica, ticket: int) -> None:
        if of._round_tickets:
            of._round_tickets.append(ticket)
        else:
            original(of, ticket)

    return _wrong(Replica, "read", read)


@defect
def _any_answer_confirms_the_present_round() -> Wrong:
    original = Replica._on_read_state

    def on_read_state(of: Replica, index: int, token: bytes) -> None:
        original(of, index, of._round_token.to_bytes(len(token), "big"))

    return _wrong(Replica, "_on_read_state", on_read_state)


@defect
def _tokens_of_reads_start_anew() -> Wrong:
    """An answer that an earlier life asked for confirms a read of this one."""
    return _wrong(replica_module, "_TOKENS_PER_START", 0)


# ---- callers ----


@defect
def _requests_are_not_remembered() -> Wrong:
    return _wrong(requests, "recall", lambda *_: None)


@defect
def _what_is_to_be_applied_is_appended() -> Wrong:
    return _wrong(node, "APPLY_QUEUE", APPEND_QUEUE)
