"""The face of the core: messages and time in, `Ready` out.

Synchronous contract, for each `Ready`, in this order:

1. Write `entries`, then `hard_state`, then `snapshot`, best in one atomic write; sync if `must_sync`. Writing
   index i discards everything at i and beyond.
2. Only then send `messages`: among them are promises about what was written.
3. Apply `snapshot`, then `committed_entries`; call `apply_conf_change` for each membership change among them.
4. Call `advance` once. A second `ready` before it is a bug of the caller.

Asynchronous contract (`RaftConfig.asynchronous`): no `advance`. `messages` holds STORAGE_APPEND and
STORAGE_APPLY messages to two local queues, each ordered and reliable; when one is done its `responses` are
delivered, to peers or to this node's `step`. All other messages may leave at once, before anything is
written: whatever promises something about durable state is among the responses. Only durable entries are
handed out to be applied.
"""

from mcr.values import dataclass
from mcr_node.core.raft.conf_codec import conf_change_entry
from mcr_node.core.raft.config import RaftConfig
from mcr_node.core.raft.messages import (
    APPEND_QUEUE,
    APPLY_QUEUE,
    EMPTY_HARD_STATE,
    ConfChange,
    ConfChangeV2,
    ConfState,
    Entry,
    EntryType,
    HardState,
    Message,
    MessageType,
    Snapshot,
)
from mcr_node.core.raft.raft import Raft, ReadState, Role
from mcr_node.core.raft.reconfiguration import apply_conf_change
from mcr_node.core.raft.sending import send_append
from mcr_node.core.raft.step import step, tick
from mcr_node.core.raft.storage import LogStorage
from mcr_node.core.raft.tracker import Progress
from mcr_node.core.raft.validation import admit

# What the two local queues answer; from anybody else it is checked, and refused.
_FROM_QUEUES = frozenset({MessageType.STORAGE_APPEND_RESP, MessageType.STORAGE_APPLY_RESP})


@dataclass(frozen=True, slots=True)
class SoftState:
    """What need not be durable, but callers want to know."""

    leader: int
    role: Role


@dataclass(slots=True)
class Ready:
    """What is to be done now; see the module's docstring for the order. None and () mean "nothing"."""

    soft_state: SoftState | None
    hard_state: HardState | None
    read_states: tuple[ReadState, ...]
    entries: tuple[Entry, ...]
    snapshot: Snapshot | None
    committed_entries: tuple[Entry, ...]
    messages: list[Message]
    must_sync: bool


@dataclass(frozen=True, slots=True)
class Status:
    """A view of one node, for people and for tests. `progress` is empty on all but a leader."""

    node_id: int
    soft_state: SoftState
    hard_state: HardState
    applied: int
    config: ConfState
    transfer_target: int
    progress: dict[int, Progress]


class RawNode:
    """One node of one group, driven by one thread; no method waits for anything."""

    __slots__ = ("_advance_steps", "_allow_unstable", "_previous_hard", "_previous_soft", "raft")

    def __init__(self, config: RaftConfig, storage: LogStorage) -> None:
        """Start, or start again, from what `storage` holds.

        Raises:
            HaltError: what it holds contradicts itself.
            ConfChangeError: its configuration is none.
        """
        self.raft = Raft(config, storage)
        self._allow_unstable = not config.asynchronous
        self._previous_soft = self._soft_state()
        self._previous_hard = self.raft.hard_state()
        # Synchronous mode: what to step on `advance`; None while no `Ready` is out.
        self._advance_steps: list[Message] | None = None

    # -- input -------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Let one tick pass."""
        tick(self.raft)

    def step(self, message: Message) -> None:
        """Take in a message of a peer, or a response of a local queue.

        The sender's identity is the transport's to prove, and that it is a node: what a local queue says is
        believed. What a peer says is checked, see `validation`.

        Raises:
            InvalidMessageError: drop the message; nothing changed.
            ProposalDroppedError: a forwarded proposal was not accepted.
            HaltError: stop this node.
        """
        if message.type not in _FROM_QUEUES or message.sender not in (APPEND_QUEUE, APPLY_QUEUE):
            message = admit(self.raft, message)
        step(self.raft, message)

    def propose(self, *data: bytes) -> None:
        """Propose commands, all or none; several at once cost little more than one.

        Raises:
            ProposalDroppedError: none was accepted.
        """
        assert data
        entries = tuple([Entry(0, 0, EntryType.NORMAL, command) for command in data])
        self._propose(entries)

    def propose_conf_change(self, change: ConfChange | ConfChangeV2) -> None:
        """Propose a membership change. One that cannot follow is replaced by an empty entry in the log.

        Raises:
            ConfChangeError: it cannot be encoded.
            ProposalDroppedError: it was not accepted.
        """
        self._propose((conf_change_entry(change),))

    def apply_conf_change(self, change: ConfChangeV2) -> ConfState:
        """Put a committed change into force, see `conf_codec.decode_conf_change`.

        To be called for each membership change among the committed entries, before they are acknowledged;
        for one that does not decode or is refused, do nothing: every node refuses it alike.

        Returns:
            The configuration, to be stored with the state machine at this index.

        Raises:
            ConfChangeError: refused, nothing changed.
            HaltError: stop this node, it joined by a log that lacks the beginning.
        """
        return apply_conf_change(self.raft, change)

    def campaign(self) -> None:
        """Start an election now."""
        step(self.raft, Message(MessageType.HUP))

    def read_index(self, token: bytes) -> None:
        """Ask for a linearizable read; `Ready.read_states` will hold `token`, or never, if a message is lost.

        Raises:
            ReadDroppedError: nothing was begun.
        """
        step(self.raft, Message(MessageType.READ_INDEX, context=token))

    def transfer_leader(self, target: int) -> None:
        """Ask for `target` to lead; nothing comes of it if it is a learner, unknown or too slow."""
        step(self.raft, Message(MessageType.TRANSFER_LEADER, sender=target))

    @property
    def has_news(self) -> bool:
        """Whether this node leads, and a peer has not been told of a commit; see `tell_commit_later`."""
        if self.raft.role is not Role.LEADER:
            return False
        committed = self.raft.log.committed
        return any(progress.has_news(committed) for _, progress in self.raft.tracker.peers)

    def tell_commit(self) -> None:
        """Leader: send those peers an empty append that have not been told of the last commit."""
        if self.has_news:
            for peer_id, progress in self.raft.tracker.peers:
                if progress.has_news(self.raft.log.committed):
                    send_append(self.raft, peer_id, progress)

    def forget_leader(self) -> None:
        """Follower: take the leader for dead on other evidence, and let others' campaigns through."""
        step(self.raft, Message(MessageType.FORGET_LEADER))

    def report_unreachable(self, peer_id: int) -> None:
        """Transport: something to `peer_id` was lost."""
        step(self.raft, Message(MessageType.UNREACHABLE, sender=peer_id))

    def report_snapshot(self, peer_id: int, *, failed: bool) -> None:
        """Transport: sending the snapshot to `peer_id` ended. Must be called, or the peer stays paused."""
        step(self.raft, Message(MessageType.SNAP_STATUS, sender=peer_id, reject=failed))

    # -- output ------------------------------------------------------------------------------------

    def has_ready(self) -> bool:
        """Say whether `ready` has anything to hand out."""
        raft = self.raft
        log = raft.log
        return bool(
            raft.messages
            or raft.messages_after_append
            or raft.read_states
            or log.offset_in_progress < log.offset + len(log.unstable)
            or log.has_next_committed(allow_unstable=self._allow_unstable)
            or log.next_snapshot() is not None
            or self._soft_changed()
            or self._hard_changed()
        )

    def ready(self) -> Ready:
        """Hand out what is to be done; it counts as taken."""
        assert self._advance_steps is None, "advance() is due before the next ready()"
        raft = self.raft
        log = raft.log
        entries = log.next_unstable()
        snapshot = log.next_snapshot()
        committed = log.next_committed(allow_unstable=self._allow_unstable)
        previous = self._previous_hard
        ready = Ready(
            soft_state=self._soft_state() if self._soft_changed() else None,
            hard_state=raft.hard_state() if self._hard_changed() else None,
            read_states=tuple(raft.read_states),
            entries=entries,
            snapshot=snapshot,
            committed_entries=committed,
            messages=raft.messages,
            # A commit index that is behind after a crash is found again; a term, a vote or an entry is not.
            must_sync=bool(entries) or raft.vote != previous.vote or raft.term != previous.term,
        )
        append_responses = raft.messages_after_append
        writes = bool(entries or append_responses) or (ready.hard_state or snapshot) is not None
        if writes and (log.unstable or snapshot is not None):
            self._add_append_response(append_responses, snapshot)
        raft.messages, raft.messages_after_append = [], []
        if raft.read_states:
            raft.read_states = []
        if ready.soft_state is not None:
            self._previous_soft = ready.soft_state
        if ready.hard_state is not None:
            self._previous_hard = ready.hard_state
        log.accept_unstable()
        if committed:
            log.accept_applying(committed, allow_unstable=self._allow_unstable)
        if self._allow_unstable:
            self._keep_for_advance(ready, append_responses)
        else:
            self._address_queues(ready, append_responses)
        return ready

    def advance(self) -> None:
        """Synchronous mode: hear that the last `Ready` was carried out entirely."""
        steps = self._advance_steps
        assert steps is not None, "advance() without ready()"
        self._advance_steps = None
        for message in steps:
            step(self.raft, message)

    def status(self) -> Status:
        """Return a view of this node; the progress in it is live, not a copy."""
        raft = self.raft
        return Status(
            raft.node_id,
            self._soft_state(),
            raft.hard_state(),
            raft.log.applied,
            raft.tracker.config,
            raft.transfer_target,
            raft.tracker.progress if raft.role is Role.LEADER else {},
        )

    # -- inside ------------------------------------------------------------------------------------

    def _propose(self, entries: tuple[Entry, ...]) -> None:
        step(self.raft, Message(MessageType.PROPOSE, sender=self.raft.node_id, entries=entries))

    def _soft_state(self) -> SoftState:
        return SoftState(self.raft.leader, self.raft.role)

    def _soft_changed(self) -> bool:
        previous = self._previous_soft
        return self.raft.leader != previous.leader or self.raft.role is not previous.role

    def _hard_changed(self) -> bool:
        raft = self.raft
        previous = self._previous_hard
        return (
            raft.log.committed != previous.commit or raft.term != previous.term or raft.vote != previous.vote
        )

    def _add_append_response(self, responses: list[Message], snapshot: Snapshot | None) -> None:
        """Add the word that all that is unstable now is durable, up to the log's present end.

        It names the end even where nothing new is handed out, and this term: a response of an older term must
        not trim the log, so each term sends its own, or the log would stay unstable for ever.
        """
        log = self.raft.log
        has_entries = bool(log.unstable)
        responses.append(
            Message(
                MessageType.STORAGE_APPEND_RESP,
                self.raft.node_id,
                APPEND_QUEUE,
                self.raft.term,
                log.last_term if has_entries else 0,
                log.last_index if has_entries else 0,
                snapshot=snapshot,
            )
        )

    def _keep_for_advance(self, ready: Ready, append_responses: list[Message]) -> None:
        own = self.raft.node_id
        steps: list[Message] = []
        for message in append_responses:
            (steps if message.to == own else ready.messages).append(message)
        if ready.committed_entries:
            steps.append(self._apply_response(ready))
        self._advance_steps = steps

    def _address_queues(self, ready: Ready, append_responses: list[Message]) -> None:
        own = self.raft.node_id
        if append_responses or ready.hard_state is not None:
            hard_state = ready.hard_state or EMPTY_HARD_STATE
            ready.messages.append(
                Message(
                    MessageType.STORAGE_APPEND,
                    APPEND_QUEUE,
                    own,
                    hard_state.term,
                    commit=hard_state.commit,
                    vote=hard_state.vote,
                    entries=ready.entries,
                    snapshot=ready.snapshot,
                    responses=tuple(append_responses),
                )
            )
        if ready.committed_entries:
            ready.messages.append(
                Message(
                    MessageType.STORAGE_APPLY,
                    APPLY_QUEUE,
                    own,
                    entries=ready.committed_entries,
                    responses=(self._apply_response(ready),),
                )
            )

    def _apply_response(self, ready: Ready) -> Message:
        # Committed entries belong to no term: it counts whenever it comes.
        return Message(
            MessageType.STORAGE_APPLY_RESP,
            self.raft.node_id,
            APPLY_QUEUE,
            entries=ready.committed_entries,
        )
