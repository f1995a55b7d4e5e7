"""`ports_log.ReplicatedLog` without consensus: a list in memory is the log. For tests of what stands above.

shared = SharedLog(Member(1, "n1"))
log = shared.open(1)                # it leads; shared.open(2) follows, once it was added
shared.cut(2)                       # it hears no more, until shared.mend(2)

Entries are applied by the runner's own `Applier`, so the state is the real one. Members and the leader are
written down in the list, as they would be in a log that somebody else keeps.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from mcr.errors import FailedError, McrError, NoQuorumError
from mcr.model import LogIndex
from mcr_node.core.members import Member, Membership, Told
from mcr_node.core.raft.messages import ConfState, Entry, EntryType
from mcr_node.core.state import codec
from mcr_node.core.state.commands import Command
from mcr_node.core.state.digest import DigestWatch
from mcr_node.core.state.outcomes import Outcome
from mcr_node.core.state.view import View
from mcr_node.ports_log import Progress
from mcr_node.runtime.applying import Applier
from tests.conformance.memory_state_store import MemoryStateStore

Result = TypeVar("Result")


@dataclass
class SettableClock:
    """`ports.Clock` that stands until a test moves it."""

    ms: int = 1_000

    def now_ms(self) -> int:
        return self.ms

    def monotonic_ns(self) -> int:
        return self.ms * 1_000_000


@dataclass(frozen=True)
class _Record:
    """One place in the log: a command, or who the members are and who leads from here on."""

    entry: Entry
    membership: Membership | None
    leader: int


class SharedLog:
    """What the nodes of one cluster share."""

    def __init__(self, founder: Member) -> None:
        self.records: list[_Record] = []
        self.nodes: dict[int, MemoryLog] = {}
        self.cut_off: set[int] = set()
        self.term = 1
        self.leader = founder.node_id
        self.membership = Membership(ConfState(voters=(founder.node_id,)), (founder,))
        self.decide(self.membership, founder.node_id)

    def open(self, node_id: int) -> "MemoryLog":
        """Start a node, a member or one that will be."""
        self.nodes[node_id] = MemoryLog(self, node_id)
        self.nodes[node_id].wake()
        return self.nodes[node_id]

    def cut(self, node_id: int) -> None:
        """Let a node hear nothing more."""
        self.cut_off.add(node_id)

    def mend(self, node_id: int) -> None:
        """Let it hear again."""
        self.cut_off.discard(node_id)
        self.nodes[node_id].wake()

    def reaches(self, node_id: int) -> bool:
        """Say whether a node hears of the log."""
        return node_id in self.membership.ids() and node_id not in self.cut_off

    def append(self, data: bytes) -> LogIndex:
        """Put a command at the end."""
        return self._append(EntryType.NORMAL, data, None)

    def decide(self, membership: Membership, leader: int) -> LogIndex:
        """Write down who the members are, and who leads."""
        if leader != self.leader:
            self.term += 1
        if membership != self.membership:
            membership = replace(membership, epoch=len(self.records) + 1)
        self.membership, self.leader = membership, leader
        return self._append(EntryType.CONF_CHANGE_V2, b"", membership)

    def _append(self, kind: EntryType, data: bytes, membership: Membership | None) -> LogIndex:
        index = LogIndex(len(self.records) + 1)
        self.records.append(_Record(Entry(self.term, index, kind, data), membership, self.leader))
        for node in self.nodes.values():
            node.wake()
        return index


class MemoryLog:
    """One node's end of a `SharedLog`."""

    def __init__(self, shared: SharedLog, node_id: int, clock: SettableClock | None = None) -> None:
        self.shared = shared
        self.node_id = node_id
        self.clock = clock or SettableClock()
        self.members = MemoryMembers(self)
        self.membership = Membership()
        self.leader = 0
        self.term = 0
        self.confirmed_ns: int | None = None
        self.failure: McrError | None = None
        # Set by a test: the next entry cannot be applied.
        self.breaks = False
        self._state = MemoryStateStore()
        self._applier = Applier(self._state)
        self._answers: dict[LogIndex, asyncio.Future[Outcome]] = {}
        self._advanced = asyncio.Event()

    @property
    def is_leader(self) -> bool:
        return self.leader == self.node_id

    @property
    def applied(self) -> LogIndex:
        return self._state.applied()

    @property
    def commit(self) -> LogIndex:
        reaches = self.failure is None and self.shared.reaches(self.node_id)
        return LogIndex(len(self.shared.records)) if reaches else self.applied

    @property
    def state_digest(self) -> bytes:
        return self._applier.digest

    @property
    def digests(self) -> DigestWatch:
        return self._applier.digests

    @property
    def waiting(self) -> int:
        """How many proposals wait for their outcome."""
        return len(self._answers)

    def view(self) -> View:
        return self._state.view()

    async def propose(self, command: Command) -> Outcome:
        self.check()
        index = self.shared.append(codec.encode(command))
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._answers[index] = answer
        try:
            return await answer
        finally:
            self._answers.pop(index, None)

    async def read_index(self, *, at_least: LogIndex | None, stale_ok: bool) -> LogIndex:
        if stale_ok:
            return self.applied
        if at_least is None:
            begun_ns = self.clock.monotonic_ns()
            self.check()
            await self.wait_applied(LogIndex(len(self.shared.records)))
            self.confirmed_ns = begun_ns
        else:
            await self.wait_applied(at_least)
        return self.applied

    async def wait_applied(self, index: LogIndex) -> None:
        while self.applied < index:
            if self.failure is not None:
                raise self.failure
            await self._advanced.wait()

    async def wait_failed(self) -> McrError:
        while self.failure is None:
            await self._advanced.wait()
        return self.failure

    async def run(self, work: Callable[[], Result]) -> Result:
        # In memory nothing blocks; but whoever calls must be ready for others to come in between.
        await asyncio.sleep(0)
        return work()

    async def close(self) -> None:
        self._fail(FailedError("proposal", "the node was closed before it was decided"))

    def wake(self) -> None:
        """Hear that there is more, soon: a proposal is never applied before its caller waits for it."""
        if self.failure is None:
            asyncio.get_running_loop().call_soon(self._catch_up)

    def check(self) -> None:
        """Refuse what needs the log, where this node does not reach it."""
        if self.failure is not None:
            raise self.failure
        if self.leader == 0:
            raise NoQuorumError("no leader is known")
        if not self.shared.reaches(self.node_id):
            raise NoQuorumError("the log cannot be reached")

    def _catch_up(self) -> None:
        if self.failure is not None or not self.shared.reaches(self.node_id):
            return
        for record in self.shared.records[self.applied :]:
            if self.breaks:
                self._fail(FailedError("log", "the medium is gone"))
                return
            self._apply(record)
        self._wake_all()

    def _apply(self, record: _Record) -> None:
        entry = record.entry
        self.term, self.leader = entry.term, record.leader
        if record.membership is not None:
            self._applier.apply_change(entry, record.membership)
            self.membership = record.membership
            return
        [outcome] = self._applier.apply([entry])
        answer = self._answers.get(LogIndex(entry.index))
        if answer is not None and not answer.done():
            assert outcome is not None
            answer.set_result(outcome)

    def _fail(self, error: McrError) -> None:
        self.failure = self.failure or error
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(self.failure)
        self._wake_all()

    def _wake_all(self) -> None:
        self._advanced.set()
        self._advanced = asyncio.Event()


class MemoryMembers:
    """`ports_log.Members`: who leads writes it down."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log

    async def wait_leader(self) -> int:
        if self._log.leader == 0:
            raise NoQuorumError("no leader is known")
        return self._log.leader

    async def add(self, member: Member) -> None:
        before = self._settled()
        before.check_added(member)
        if before.get(member.node_id) == member:
            return
        conf = before.conf
        if member.node_id not in before.ids():
            conf = replace(conf, learners=_with(conf.learners, member.node_id))
        await self._decide(before.after(conf, [member]))

    async def promote(self, node_id: int) -> None:
        before = self._settled()
        before.name_of(node_id)
        conf = before.conf
        if node_id in conf.voters:
            return
        conf = replace(conf, voters=_with(conf.voters, node_id), learners=_without(conf.learners, node_id))
        await self._decide(before.after(conf, []))

    async def remove(self, node_id: int) -> None:
        before = self._settled()
        before.check_removed(node_id)
        if node_id == self._log.node_id:
            raise FailedError(f"removing {before.name_of(node_id)}", "it leads; let another lead first")
        conf = before.conf
        conf = replace(conf, voters=_without(conf.voters, node_id), learners=_without(conf.learners, node_id))
        await self._decide(before.after(conf, []))

    async def arrange(self, decide: Callable[[Membership], Told]) -> Membership:
        before = self._settled()
        told = decide(before)
        if told != Told():
            await self._decide(before.after(before.conf, told.members, staged=told.staged))
        return self._log.membership

    async def transfer_leader(self, node_id: int | None) -> int:
        membership = self._settled()
        if node_id is None:
            others = _without(membership.conf.voters, self._log.node_id)
            if not others:
                raise FailedError("transferring leadership", "there is no other voter")
            node_id = others[0]
        membership.check_leading(node_id)
        if node_id != self._log.leader:
            await self._decide(membership, node_id)
        return node_id

    def progress(self, node_id: int) -> Progress | None:
        shared = self._log.shared
        if not self._log.is_leader or node_id not in shared.membership.ids():
            return None
        node = shared.nodes.get(node_id)
        if node is None:
            return Progress(LogIndex(0), is_active=False)
        return Progress(node.applied, node.failure is None and shared.reaches(node_id))

    def _settled(self) -> Membership:
        self._log.check()
        if self._log.shared.leader != self._log.node_id:
            raise FailedError("changing the members", "this node does not lead")
        return self._log.shared.membership

    async def _decide(self, membership: Membership, leader: int | None = None) -> None:
        shared = self._log.shared
        await self._log.wait_applied(shared.decide(membership, leader or shared.leader))


def _with(ids: tuple[int, ...], node_id: int) -> tuple[int, ...]:
    return tuple(sorted((*ids, node_id)))


def _without(ids: tuple[int, ...], node_id: int) -> tuple[int, ...]:
    return tuple(one for one in ids if one != node_id)
