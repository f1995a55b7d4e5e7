"""One node in memory that is spoken to: its replica, with a disk that does at once what it is told."""

import enum
from typing import NamedTuple

from mcr_node.core.effects import Append, Apply
from mcr_node.core.members import Member, Membership
from mcr_node.core.raft.messages import ConfState, Entry, HardState, Message, MessageType
from mcr_node.core.raft.storage import MemoryStorage
from mcr_node.core.replica import Replica, config_of

# Who there is: node 1 is spoken to, or the learner 4; 5 was a member once, 9 never.
VOTERS, LEARNER, FORMER, STRANGER = (1, 2, 3), 4, 5, 9
CONF = ConfState(voters=VOTERS, learners=(LEARNER,))
TERM = 7
# The log begins after COMPACTED; up to COMMIT it is committed, up to APPLIED applied.
COMPACTED, APPLIED, COMMIT, LAST = 5, 14, 20, 30
ENTRIES = tuple(Entry(1 + index // 6, index, data=b"entry %d" % index) for index in range(1, LAST + 1))


class Part(enum.Enum):
    """What the node is when it is spoken to."""

    FOLLOWER = "follower"
    LEADERLESS = "follower of nobody"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"
    LEARNER = "learner"


class State(NamedTuple):
    """What no hostile message may change."""

    hard: HardState
    durable: HardState
    log: tuple[tuple[int, int], ...]
    applied: int


class Target:
    """See the module's text. Everything it has to do is done when a method returns."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.node_id = LEARNER if part is Part.LEARNER else VOTERS[0]
        self.storage = MemoryStorage(CONF)
        self.storage.append(ENTRIES)
        self.storage.make_snapshot(APPLIED, CONF, b"")
        self.storage.compact(COMPACTED)
        self.storage.set_hard_state(HardState(TERM, 0, COMMIT))
        config = config_of(
            self.node_id, draw=lambda _: 0, applied=APPLIED, election_ticks=10, heartbeat_ticks=1
        )
        members = Membership(CONF, tuple(Member(one, f"n{one}") for one in (*VOTERS, LEARNER)))
        self.replica = Replica(config, self.storage, members)
        self.raft = self.replica._node.raft
        self.work()
        self._play()

    def _play(self) -> None:
        if self.part in (Part.FOLLOWER, Part.LEARNER):
            self.take(Message(MessageType.HEARTBEAT, self.node_id, 2, TERM, commit=COMMIT))
        elif self.part is not Part.LEADERLESS:
            while self.raft.election_elapsed_ticks or not self.raft.tracker.votes:
                self.replica.tick()
                self.work()
            if self.part is not Part.PRE_CANDIDATE:
                self.take(Message(MessageType.PRE_VOTE_RESP, self.node_id, 2, TERM + 1))
            if self.part is Part.LEADER:
                self.take(Message(MessageType.VOTE_RESP, self.node_id, 2, TERM + 1))
                acknowledged = self.raft.log.last_index
                self.take(Message(MessageType.APPEND_RESP, self.node_id, 2, TERM + 1, index=acknowledged))
        assert self.raft.role.value == {Part.LEADERLESS: "follower", Part.LEARNER: "follower"}.get(
            self.part, self.part.value
        )

    def take(self, message: Message) -> None:
        """Deliver a message and do all that follows."""
        self.replica.deliver(message)
        self.work()

    def work(self) -> None:
        """Write, apply and report until nothing is left; what is sent is lost."""
        while effects := self.replica.take_effects():
            for effect in effects:
                if isinstance(effect, Append):
                    self._write(effect)
                elif isinstance(effect, Apply):
                    self.replica.on_applied(effect, [None] * len(effect.entries))

    def _write(self, append: Append) -> None:
        message = append.message
        if message.snapshot is not None:
            self.storage.apply_snapshot(message.snapshot)
            self.replica.on_snapshot_installed(Membership(message.snapshot.conf_state))
        self.storage.append(message.entries)
        if message.term or message.vote or message.commit:
            self.storage.set_hard_state(HardState(message.term, message.vote, message.commit))
        self.replica.on_appended(append)

    def state(self) -> State:
        """Return what is there now."""
        first, last = self.storage.first_index(), self.raft.log.last_index
        log = tuple((index, self.raft.log.term(index) or 0) for index in range(first, last + 1))
        return State(self.raft.hard_state(), self.storage.initial_state()[0], log, self.replica.applied)
