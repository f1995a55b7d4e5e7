"""Raft and the state as one machine: events in, effects out, in the order in which they must be carried out.

Pure. The runner carries out what `take_effects` returns and reports back; the simulator does the same on a
virtual clock. What is decided here, and nowhere else:

- Nothing is promised before it is durable: what Raft says about written entries leaves with `on_appended`.
- Nothing is answered before it is applied on this node, and only what is committed is applied.
- A proposal belongs to one term. A follower hands it to the leader of that term, which takes it in that term
  or not at all. So when an entry of a later term is applied, a proposal of an earlier one that was not seen
  is certainly lost, and may be made again: never twice, and without guessing by a clock.
- One round of confirmation serves all reads that waited when it began (thesis §6.4); a read is answered once
  this node has applied what was committed then.
- A log tells its members from its first change on; who founded the cluster is not in it. So the first change
  is preceded by one that says so; else a new node, which reads the log from its beginning, would take itself
  for the only voter.
- A sole voter needs nobody: what it has applied is all there is, so it reads without an election. It begins
  a term only when there is something to write.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

from mcr.errors import InvalidArgumentError
from mcr_node.core.effects import Answer, AnswerRead, Append, Apply, Effect, Forward, Send
from mcr_node.core.members import Membership, Told, decode_context, encode_context
from mcr_node.core.proposals import Proposals
from mcr_node.core.raft.conf_codec import decode_conf_change
from mcr_node.core.raft.config import RaftConfig
from mcr_node.core.raft.errors import (
    ConfChangeError,
    InvalidMessageError,
    ProposalDroppedError,
    ReadDroppedError,
    UnknownPeerError,
)
from mcr_node.core.raft.messages import (
    APPEND_QUEUE,
    APPLY_QUEUE,
    NO_NODE,
    ConfChangeSingle,
    ConfChangeType,
    ConfChangeV2,
    Entry,
    Message,
    MessageType,
)
from mcr_node.core.raft.node import RawNode
from mcr_node.core.raft.raft import Role
from mcr_node.core.raft.storage import LogStorage
from mcr_node.core.settings import config_of as config_of
from mcr_node.core.state.outcomes import Outcome

# A confirmation that was lost is asked for again after so many ticks.
READ_ROUND_TICKS: Final = 2
_TOKEN_BYTES: Final = 8
_TOKEN_STARTS: Final = 1 << 31
_TOKENS_PER_START: Final = 1 << 32


class Replica:
    """One node of the replicated log. One thread; nothing waits."""

    def __init__(
        self, config: RaftConfig, storage: LogStorage, membership: Membership, *, is_told: bool = True
    ) -> None:
        """Take up from what `storage` holds.

        Args:
            config: see `config_of`.
            storage: the log.
            membership: that of the applied index.
            is_told: the state or the log says so; False for a founder whose members never changed.
        """
        assert config.asynchronous, "the runner works through two queues"
        assert not config.forward_proposals, "proposals are handed on by term, see the module's text"
        self.membership = membership
        self.applied = config.applied
        self.applied_term = 0
        self._is_told = is_told
        # What shall follow the founder's own entry.
        self._change_after_founding: ConfChangeV2 | None = None
        self._node = RawNode(config, storage)
        self._effects: list[Effect] = []
        self._proposals = Proposals()
        self._reads_waiting: list[int] = []
        self._reads_confirmed: deque[tuple[int, list[int]]] = deque()
        self._round_tickets: list[int] = []
        # Not from 0 at each start: an answer that the life before asked for, and that comes late, must not
        # confirm a read of this one (etcd#20418 is the like among acknowledgements).
        self._round_token = config.draw(_TOKEN_STARTS) * _TOKENS_PER_START
        self._round_ticks = 0
        # Others wait to hear that this index is committed; 0 for none.
        self._awaited = 0

    # ---- what is known ----

    @property
    def node_id(self) -> int:
        """This node."""
        return self._node.raft.node_id

    @property
    def term(self) -> int:
        """The present term."""
        return self._node.raft.term

    @property
    def leader(self) -> int:
        """The leader as far as this node knows, 0 for none."""
        return self._node.raft.leader

    @property
    def is_leader(self) -> bool:
        """Whether this node leads."""
        return self._node.raft.role is Role.LEADER

    @property
    def commit(self) -> int:
        """Index of the last entry known to be committed."""
        return self._node.raft.log.committed

    @property
    def last(self) -> int:
        """Index of the last entry here, durable or not."""
        return self._node.raft.log.last_index

    @property
    def is_sole_voter(self) -> bool:
        """Whether this node decides alone."""
        return self.membership.decides_alone(self.node_id)

    @property
    def is_transferring(self) -> bool:
        """Leader: whether leadership is being handed over; it is given up after an election timeout."""
        return self._node.raft.transfer_target != NO_NODE

    @property
    def has_news(self) -> bool:
        """Whether this node leads, and another one does not know yet that something was committed.

        Told by the next append. When none follows soon, `tell_news`: others wait to apply and to answer.
        """
        return self._node.has_news

    @property
    def waiting(self) -> int:
        """How many proposals wait for their outcome."""
        return self._proposals.waiting

    def match_of(self, node_id: int) -> int | None:
        """Leader: the last index known to be on a member; None when unknown or not leading."""
        progress = self._node.raft.tracker.progress.get(node_id) if self.is_leader else None
        return None if progress is None else progress.match

    def is_active(self, node_id: int) -> bool:
        """Leader: whether a member was heard of within the last election timeout."""
        progress = self._node.raft.tracker.progress.get(node_id) if self.is_leader else None
        return node_id == self.node_id or (progress is not None and progress.recently_active)

    # ---- events ----

    def take_effects(self) -> list[Effect]:
        """Return what has to be done now, in order; it counts as taken."""
        self._flush()
        node = self._node
        while node.has_ready():
            ready = node.ready()
            for message in ready.messages:
                if message.to == APPEND_QUEUE:
                    self._effects.append(Append(message))
                elif message.to == APPLY_QUEUE:
                    self._effects.append(Apply(message))
                else:
                    self._effects.append(Send(message))
            for read in ready.read_states:
                self._on_read_state(read.index, read.token)
            self._flush()
        effects, self._effects = self._effects, []
        return effects

    def tick(self) -> None:
        """Let one tick pass."""
        self._node.tick()
        self._proposals.end_gathering()
        if self._round_tickets:
            self._round_ticks -= 1
            if self._round_ticks <= 0:
                # Lost, or its leader is gone. A later round confirms at least as much.
                self._reads_waiting[:0] = self._round_tickets
                self._round_tickets = []

    def deliver(self, message: Message) -> None:
        """Take in a message of a peer; one that makes no sense changes nothing.

        Raises:
            InvalidMessageError: it was dropped.
            HaltError: this node must stop.
        """
        is_own = message.sender == self.node_id and message.type is not MessageType.READ_INDEX
        if is_own or message.sender in (APPEND_QUEUE, APPLY_QUEUE):
            raise InvalidMessageError("no peer speaks under this node's name, or that of its disk")
        if message.type is MessageType.PROPOSE:
            raise InvalidMessageError("commands are handed on by term, never as messages of raft")
        if message.type is MessageType.READ_INDEX:
            # It can be served only where all that is committed now is known to be.
            self._awaited = max(self._awaited, self.commit)
        try:
            self._node.step(message)
        except ReadDroppedError:
            # This node's own read: the leader that it was sent to leads no more, and passed it on to us. As
            # good as lost on the way, so it is asked for again.
            return

    def accept_forwarded(self, term: int, commands: Iterable[bytes]) -> None:
        """Leader: take commands that another node was given, if this is still the term it means."""
        if term == self.term and self.is_leader:
            self._proposals.accept_forwarded(term, commands)

    @property
    def is_idle(self) -> bool:
        """Whether this node leads, its log is committed to the end, and commands do not come in crowds."""
        log = self._node.raft.log
        return self.is_leader and log.committed == log.last_index and not self._proposals.is_gathering

    @property
    def is_gathering(self) -> bool:
        """Leader: whether commands wait for more of them although the log is free.

        Only where the batch before shows that many come at a time. `end_gathering` soon, a tick at the
        latest.
        """
        return self.is_leader and self._proposals.is_gathering

    def end_gathering(self) -> None:
        """Let what waits go into the log."""
        self._proposals.end_gathering()

    def tell_news(self) -> None:
        """Leader: tell the others now what was committed."""
        self._node.tell_commit()

    def propose(self, ticket: int, command: bytes) -> None:
        """Propose a command; `Answer` comes once it is applied here, or never, while there is no quorum."""
        self._proposals.add(ticket, command)
        self.begin_term_alone()

    def read(self, ticket: int) -> None:
        """Ask for a linearizable read; `AnswerRead` comes once it may be served here."""
        if self.is_sole_voter and not self.is_leader and self.applied == self.last:
            self._effects.append(AnswerRead(ticket, self.applied))
            return
        self._reads_waiting.append(ticket)
        self.begin_term_alone()

    def forget(self, ticket: int, command: bytes | None = None) -> None:
        """Stop waiting for an answer; a proposal may be applied all the same."""
        if command is None:
            for tickets in (self._reads_waiting, self._round_tickets, *(t for _, t in self._reads_confirmed)):
                if ticket in tickets:
                    tickets.remove(ticket)
            return
        self._proposals.forget(ticket, command)

    def begin_term_alone(self) -> None:
        """Become leader at once where nobody else has a vote."""
        if self.is_sole_voter and self._node.raft.role is Role.FOLLOWER:
            self._node.campaign()

    def change_members(self, change: ConfChangeV2) -> None:
        """Leader: propose a membership change.

        Raises:
            ConfChangeError: it cannot follow the present configuration.
            ProposalDroppedError: this node does not lead, or takes nothing now.
        """
        if not self.is_leader:
            raise ProposalDroppedError("this node does not lead")
        if self._is_told:
            self._node.propose_conf_change(change)
        elif self._change_after_founding is None:
            self._node.propose_conf_change(_founding(self.membership))
            self._change_after_founding = change
        else:
            raise ProposalDroppedError("another change waits for the founder's own entry")

    def transfer_leader(self, target: int) -> None:
        """Leader: let another voter lead; nothing comes of it when it is too slow."""
        self._node.transfer_leader(target)

    def report_unreachable(self, node_id: int) -> None:
        """Transport: something to a peer was lost."""
        if self._node.raft.tracker.progress.get(node_id) is not None:
            self._node.report_unreachable(node_id)

    def report_snapshot(self, node_id: int, *, failed: bool) -> None:
        """Transport: sending a snapshot to a peer ended."""
        if self._node.raft.tracker.progress.get(node_id) is not None:
            self._node.report_snapshot(node_id, failed=failed)

    def on_appended(self, append: Append) -> None:
        """Hear that what an `Append` held is durable."""
        snapshot = append.message.snapshot
        if snapshot is not None:
            self.applied = max(self.applied, snapshot.index)
            if snapshot.term > self.applied_term:
                # Of proposals to earlier terms none is still under way: those it holds are known to the
                # state by their request ids, the others are lost.
                self.applied_term = snapshot.term
                self._proposals.send_lost_again(snapshot.term)
            self._answer_reads()
        self._release(append.message)

    def on_snapshot_installed(self, membership: Membership) -> None:
        """Hear, before `on_appended`, what the members are in the state that a snapshot brought."""
        self.membership = membership
        self._is_told = True

    def apply_change(self, entry: Entry) -> Membership | None:
        """Put a committed membership change into force; None when nothing came of it, on every node alike."""
        try:
            change = decode_conf_change(entry)
            conf = self._node.apply_conf_change(change)
        except ConfChangeError:
            return None
        told = _told(change)
        self.membership = self.membership.after(conf, told.members, staged=told.staged, epoch=entry.index)
        self._is_told = True
        return self.membership

    def on_applied(self, apply: Apply, outcomes: Sequence[Outcome | None]) -> None:
        """Hear that committed entries are in the view; None stands for entries that are no commands."""
        for entry, outcome in zip(apply.entries, outcomes, strict=True):
            assert entry.index == self.applied + 1, "entries are applied one by one, in order"
            self.applied = entry.index
            if entry.term > self.applied_term:
                self.applied_term = entry.term
                self._proposals.send_lost_again(entry.term)
            if outcome is not None:
                self._answer(entry, outcome)
        self._release(apply.message)
        self._change_next()
        self._answer_reads()

    # ---- inside ----

    def _release(self, message: Message) -> None:
        for response in message.responses:
            if response.to != self.node_id:
                self._effects.append(Send(response))
                continue
            try:
                self._node.step(response)
            except UnknownPeerError:
                # This node was removed while its own answer waited for the disk; nobody counts it now.
                continue

    def _change_next(self) -> None:
        """Propose what waited until the founder's own entry was in force."""
        change = self._change_after_founding
        if change is None or not self._is_told:
            return
        self._change_after_founding = None
        try:
            self.change_members(change)
        except (ConfChangeError, ProposalDroppedError):
            # Leadership went elsewhere meanwhile. As for any proposal, whoever asked looks at the members.
            return

    def _answer(self, entry: Entry, outcome: Outcome) -> None:
        tickets = self._proposals.decided(entry.data, entry.term)
        self._effects.extend([Answer(ticket, outcome) for ticket in tickets])

    def _flush(self) -> None:
        raft = self._node.raft
        if raft.role is Role.LEADER:
            if self._proposals.begin_batch(is_idle=raft.log.committed == raft.log.last_index):
                self._flush_as_leader()
            if 0 < self._awaited <= raft.log.committed:
                self._awaited = 0
                self._node.tell_commit()
        elif raft.leader != NO_NODE:
            self._proposals.drop_forwarded()
            self._proposals.send(raft.term, self._forward)
        if self._reads_waiting and not self._round_tickets:
            self._begin_round()

    def _flush_as_leader(self) -> None:
        term, last = self._node.raft.term, self.last
        if self._proposals.append_forwarded(term, self._append):
            if self.last > last:
                self._awaited = self.last
            self._proposals.send(term, self._append)

    def _forward(self, commands: Sequence[bytes]) -> bool:
        raft = self._node.raft
        self._effects.append(Forward(raft.leader, raft.term, tuple(commands)))
        return True

    def _append(self, commands: Sequence[bytes]) -> bool:
        try:
            self._node.propose(*commands)
        except ProposalDroppedError:
            # Leadership is being handed over, or too much is under way: tried again with the next event.
            return False
        return True

    def _begin_round(self) -> None:
        self._round_token += 1
        try:
            self._node.read_index(self._round_token.to_bytes(_TOKEN_BYTES, "big"))
        except ReadDroppedError:
            # No leader is known: the next tick or the next leader's message brings us here again.
            return
        self._round_tickets, self._reads_waiting = self._reads_waiting, []
        self._round_ticks = READ_ROUND_TICKS

    def _on_read_state(self, index: int, token: bytes) -> None:
        if int.from_bytes(token, "big") != self._round_token or not self._round_tickets:
            return
        self._reads_confirmed.append((index, self._round_tickets))
        self._round_tickets = []
        self._answer_reads()

    def _answer_reads(self) -> None:
        # Rounds follow each other, and so do their indexes.
        while self._reads_confirmed and self._reads_confirmed[0][0] <= self.applied:
            index, tickets = self._reads_confirmed.popleft()
            self._effects.extend(AnswerRead(ticket, index) for ticket in tickets)


def _founding(membership: Membership) -> ConfChangeV2:
    """Return the change that makes a log tell who founded it; it changes nothing for the founder."""
    voters = membership.conf.voters
    assert len(voters) == 1, "a cluster is founded by one node, and grows"
    return ConfChangeV2(
        (ConfChangeSingle(ConfChangeType.ADD_NODE, voters[0]),), context=encode_context(membership.members)
    )


def _told(change: ConfChangeV2) -> Told:
    try:
        return decode_context(change.context)
    except InvalidArgumentError:
        return Told()


__all__ = [
    "Answer",
    "AnswerRead",
    "Append",
    "Apply",
    "Effect",
    "Forward",
    "Replica",
    "Send",
    "config_of",
]
