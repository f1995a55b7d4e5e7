"""The seam between a node and what carries its log: propose, committed entries, read index, members.

Services, the state machine and the client know no more of consensus than stands here. Raft inside the node
(`runtime.runner.Runner`) is one engine. Another may keep the same log elsewhere, for example in an etcd
cluster that somebody runs already: then an index is the place of a command in that log, the members are our
nodes as written down in it, the leader is the one that holds a lease, and a term is how many held it so far.
tests/conformance/test_replicated_log.py is what each of them has to pass.

Everything is called on the event loop. What may wait is a coroutine, and may be cancelled at any time: then
whoever asked does not know the outcome, and nothing is kept for them.
"""

from collections.abc import Callable
from typing import Protocol, TypeVar

from mcr.errors import McrError
from mcr.model import LogIndex
from mcr.values import dataclass
from mcr_node.core.members import Member, Membership, Told
from mcr_node.core.state.commands import Command
from mcr_node.core.state.digest import DigestWatch
from mcr_node.core.state.outcomes import Outcome
from mcr_node.core.state.view import View
from mcr_node.ports import Clock

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Progress:
    """How a member follows, as the leader sees it.

    Attributes:
        match: index of the last entry that is known to be on it; 0 = none yet.
        is_active: whether it was heard of lately.
    """

    match: LogIndex
    is_active: bool


class Members(Protocol):
    """Who belongs to the cluster, and who leads it.

    Changes are made by the leader, one after the other, and are in force here when they return. All of them
    may be repeated: what is so already is left as it is. They end by themselves, within a few elections:

    Raises:
        FailedError: it cannot follow from the present members, or this node does not lead; nothing changed.
        NoQuorumError: it was not decided in time, and may be yet; look at the members, or repeat it.
        McrError: the log failed.
    """

    async def wait_leader(self) -> int:
        """Wait until a leader is known, and return it; a node that decides alone becomes it.

        Raises:
            NoQuorumError: none is known within a few elections.
        """

    async def add(self, member: Member) -> None:
        """Take a node in that follows and has no vote; of one that is in already, note where it is now.

        Raises:
            AlreadyExistsError: another node has its name.
        """

    async def promote(self, node_id: int) -> None:
        """Give a member a vote; the caller sees to it that it has caught up.

        Raises:
            MemberNotFoundError: it is no member.
        """

    async def remove(self, node_id: int) -> None:
        """Remove a member; its id never comes back.

        Raises:
            MemberNotFoundError: it is no member.
            FailedError: it is the last voter; or this node, which leads, and has to hand over first.
        """

    async def arrange(self, decide: Callable[[Membership], Told]) -> Membership:
        """Change what the members are said to be, all in one entry, and return what they are then.

        Args:
            decide: what to tell, from the members as they are; nothing else changes them between this and
                the entry. What it raises is raised here, and nothing changed.
        """

    async def transfer_leader(self, node_id: int | None) -> int:
        """Let another voter lead, and return who does; it returns once this node knows it.

        Args:
            node_id: a voter; None = the other voter that follows best.

        Raises:
            MemberNotFoundError: it is no member.
            FailedError: it has no vote, or there is no other voter.
            NoQuorumError: it did not take over in time.
        """

    def progress(self, node_id: int) -> Progress | None:
        """Return how a member follows; None unless this node leads and knows of it."""


class ReplicatedLog(Protocol):
    """One node's end of the log, and the state that its commands gave.

    An engine that failed or was closed stays so: it refuses proposals and reads with `failure`, and everybody
    who waited is told. What it applied can still be seen.
    """

    @property
    def clock(self) -> Clock:
        """The clock of this node, by which `confirmed_ns` is taken."""

    @property
    def node_id(self) -> int:
        """This node."""

    @property
    def members(self) -> Members:
        """How the members are changed."""

    @property
    def membership(self) -> Membership:
        """The members as of `applied`; empty for a node that nobody told yet."""

    @property
    def leader(self) -> int:
        """The leader as far as this node knows, 0 for none. It does what only one may do."""

    @property
    def is_leader(self) -> bool:
        """Whether this node leads. It may be the last to hear that another one does."""

    @property
    def term(self) -> int:
        """Which leadership this is; never goes back. 0 before the first."""

    @property
    def applied(self) -> LogIndex:
        """Index of the last entry in the view; never goes back. Not every number is an index."""

    @property
    def commit(self) -> LogIndex:
        """Index of the last entry that is known here to be decided for ever; `applied` or more."""

    @property
    def state_digest(self) -> bytes:
        """Running digest of the state at `applied`, 32 bytes; the same on each node at the same index."""

    @property
    def digests(self) -> DigestWatch:
        """Digests of the state at some indexes, and whether one was found to differ from most voters'."""

    @property
    def confirmed_ns(self) -> int | None:
        """When the last linearizable read began that was answered here; the view is at least as new."""

    @property
    def failure(self) -> McrError | None:
        """Why nothing more is taken until the node is opened again; None while all is well."""

    def view(self) -> View:
        """Return the view at `applied` or later; reads see whole entries only."""

    async def propose(self, command: Command) -> Outcome:
        """Put a command into the log; return its outcome once it is decided for ever and in the view here.

        Any node takes it. Without a quorum it waits; the caller bounds that, and does not know the outcome
        then. The same request may be proposed again, on any node: it takes effect once, and gives the first
        outcome.

        Raises:
            NoQuorumError: there is no leader for longer than elections take.
            OutOfSpaceError, CorruptStoreError, FailedError: the log or the state failed.
                In each case the outcome is unknown; repeat with the same request id, perhaps elsewhere.
        """

    async def read_index(self, *, at_least: LogIndex | None, stale_ok: bool) -> LogIndex:
        """Wait until the view is as fresh as a read asks for, and return an index that it has reached.

        Args:
            at_least: the view must have the effects of the log up to here, quorum or not; None = of every
                command answered before this call, by any node.
            stale_ok: whatever the view has will do: returns at once, and never fails.

        Raises:
            NoQuorumError: as for `propose`; only where `at_least` is None.
            McrError: the log failed before it came so far.
        """

    async def wait_applied(self, index: LogIndex) -> None:
        """Wait until the view has reached `index`; the caller bounds the wait.

        Raises:
            McrError: the log failed, so it never will.
        """

    async def wait_failed(self) -> McrError:
        """Wait until the log takes no more proposals, and return why."""

    async def run(self, work: Callable[[], Result]) -> Result:
        """Run blocking reads of the view beside the event loop."""

    async def close(self) -> None:
        """Stop. Whoever waits gets `FailedError`, and does not know the outcome."""
