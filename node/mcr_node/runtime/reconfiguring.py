"""Changing the members by Raft: `ports_log.Members` for the runner."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from mcr.errors import FailedError, NoQuorumError
from mcr.model import LogIndex
from mcr_node.core.members import Member, Membership, Told, encode_context
from mcr_node.core.raft.errors import ConfChangeError, ProposalDroppedError
from mcr_node.core.raft.messages import (
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfChangeV2,
)
from mcr_node.core.replica import Replica
from mcr_node.ports_log import Progress
from mcr_node.runtime.identity import Timing

# A change or a hand-over that takes longer than so many elections is given up: it may still come.
PATIENCE_ELECTIONS = 4


class Driven(Protocol):
    """A replica and what drives it: the runner."""

    @property
    def replica(self) -> Replica:
        """The replica; it is told things by `decide` only."""

    @property
    def timing(self) -> Timing:
        """How its time passes."""

    async def read_index(self, *, at_least: LogIndex | None, stale_ok: bool) -> LogIndex:
        """See `ports_log.ReplicatedLog`."""

    def decide(self, work: Callable[[Replica], None]) -> None:
        """Let the replica do something, and carry out what follows from it."""

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until something that only this node's progress can change is so."""


class Reconfiguration:
    """The members of one runner's log."""

    def __init__(self, runner: Driven) -> None:
        """Change the members of the log that `runner` drives."""
        self._runner = runner
        # One change after the other: the second waits for the first instead of being refused.
        self._changing = asyncio.Lock()

    async def wait_leader(self) -> int:
        """See `ports_log.Members`."""
        replica = self._runner.replica
        self._runner.decide(lambda replica: replica.begin_term_alone())
        # A sole voter leads as soon as its own vote is durable.
        await self._wait_until(lambda: replica.leader != 0, "no leader is known")
        return replica.leader

    async def add(self, member: Member) -> None:
        """See `ports_log.Members`."""
        async with self._changing:
            membership = await self._settled()
            membership.check_added(member)
            if membership.get(member.node_id) == member:
                return
            # Of a voter it changes no votes, and only tells where the node is. It says that it is one, all
            # the same: the log must name the voter with which the cluster began, for those who only read it.
            is_voter = member.node_id in membership.conf.voters
            kind = ConfChangeType.ADD_NODE if is_voter else ConfChangeType.ADD_LEARNER
            await self._change(kind, member.node_id, Told((member,)))

    async def promote(self, node_id: int) -> None:
        """See `ports_log.Members`."""
        async with self._changing:
            membership = await self._settled()
            membership.name_of(node_id)
            if node_id not in membership.conf.voters:
                await self._change(ConfChangeType.ADD_NODE, node_id, Told())

    async def remove(self, node_id: int) -> None:
        """See `ports_log.Members`."""
        async with self._changing:
            membership = await self._settled()
            membership.check_removed(node_id)
            if node_id == self._runner.replica.node_id:
                # It could, but the others would learn only by an election that nobody leads any more.
                raise FailedError(
                    f"removing {membership.name_of(node_id)}", "it leads; let another lead first"
                )
            await self._change(ConfChangeType.REMOVE_NODE, node_id, Told())

    async def arrange(self, decide: Callable[[Membership], Told]) -> Membership:
        """See `ports_log.Members`."""
        async with self._changing:
            membership = await self._settled()
            told = decide(membership)
            if not _is_told(membership, told):
                # The leader votes already, so this changes no votes. Nobody else's change comes between the
                # look and the proposal: there is no other leader of this term, and here they wait in line.
                await self._change(ConfChangeType.ADD_NODE, self._runner.replica.node_id, told)
            return self._runner.replica.membership

    async def transfer_leader(self, node_id: int | None) -> int:
        """See `ports_log.Members`."""
        replica = self._runner.replica
        if node_id is None:
            others = [voter for voter in replica.membership.conf.voters if voter != replica.node_id]
            if not others:
                raise FailedError("transferring leadership", "there is no other voter")
            node_id = max(others, key=lambda voter: replica.match_of(voter) or 0)
        replica.membership.check_leading(node_id)
        target = node_id
        if replica.leader != target:
            if not replica.is_leader:
                raise FailedError("transferring leadership", "this node does not lead")
            await self._patiently(
                self._transfer_until_done(target), "the node that should lead did not take over in time"
            )
        return target

    def progress(self, node_id: int) -> Progress | None:
        """See `ports_log.Members`."""
        replica = self._runner.replica
        match = replica.match_of(node_id)
        return None if match is None else Progress(LogIndex(match), replica.is_active(node_id))

    # ---- inside ----

    async def _settled(self) -> Membership:
        """Return the members from which a change may follow.

        A term's first entry must be committed before a change may be proposed (Ongaro, "bug in single-server
        membership changes", raft-dev 2015); a read waits for just that.

        Raises:
            FailedError: this node does not lead.
        """
        await self.wait_leader()
        await self._runner.read_index(at_least=None, stale_ok=False)
        if not self._runner.replica.is_leader:
            raise FailedError("changing the members", "this node does not lead")
        return self._runner.replica.membership

    async def _change(self, kind: ConfChangeType, node_id: int, told: Told) -> None:
        """Change the configuration and wait until the change is in force here.

        Raises:
            NoQuorumError: it is not known whether it will be.
            FailedError: it cannot follow the present configuration.
        """
        change = ConfChangeV2(
            (ConfChangeSingle(kind, node_id),),
            ConfChangeTransition.AUTO,
            encode_context(told.members, told.staged) if told != Told() else b"",
        )
        try:
            self._runner.decide(lambda replica: replica.change_members(change))
        except (ConfChangeError, ProposalDroppedError) as error:
            raise FailedError("changing the members", str(error)) from error
        await self._wait_until(
            lambda: self._is_done(kind, node_id, told),
            "the change was not decided in time; look at mcr cluster members",
        )

    def _is_done(self, kind: ConfChangeType, node_id: int, told: Told) -> bool:
        membership = self._runner.replica.membership
        if not _is_told(membership, told):
            return False
        match kind:
            case ConfChangeType.ADD_NODE:
                return node_id in membership.conf.voters
            case ConfChangeType.REMOVE_NODE:
                return node_id not in membership.ids()
            case _:
                return node_id in membership.ids()

    async def _transfer_until_done(self, target: int) -> None:
        """Ask for it again when nothing came of it.

        A node that is about to apply a membership change does not campaign, and then the word to do so is
        lost on it; the leader notices after an election timeout.
        """
        replica = self._runner.replica
        while replica.leader != target:
            if replica.is_leader and not replica.is_transferring:
                self._runner.decide(lambda replica: replica.transfer_leader(target))
            # Not at once again: who cannot lead now cannot a moment later either.
            await asyncio.sleep(self._runner.timing.tick_ms / 1000)
            await self._runner.wait_for(
                lambda: replica.leader == target or (replica.is_leader and not replica.is_transferring)
            )

    async def _wait_until(self, condition: Callable[[], bool], else_because: str) -> None:
        await self._patiently(self._runner.wait_for(condition), else_because)

    async def _patiently(self, work: Coroutine[Any, Any, None], else_because: str) -> None:
        timing = self._runner.timing
        try:
            async with asyncio.timeout(PATIENCE_ELECTIONS * timing.election_ticks * timing.tick_ms / 1000):
                await work
        except TimeoutError as error:
            raise NoQuorumError(else_because) from error


def _is_told(membership: Membership, told: Told) -> bool:
    is_known = all(membership.get(member.node_id) == member for member in told.members)
    return is_known and told.staged in (None, membership.staged)
