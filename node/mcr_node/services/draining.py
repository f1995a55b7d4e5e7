"""Draining: a member that is leaving may go once no chunk of any version depends on it.

That it is leaving stands in the member table, so all nodes know it from one place of the log on: placement
gives it nothing, its copies count no more, and `services.repair` copies what lacks copies for that reason.
The leader watches over it. When no node has anything left to copy, it walks through the manifests of all
versions once more and counts the copies on those who stay; only this count says that a member is drained.
What the member has, those who stay read for it: a copy that went bad unnoticed is none.

A version that is made meanwhile is sealed without the leaving member by every node that knows of it. Before
the count a fence goes into the log (`core.state.fence`), behind which no other seal counts.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace

from mcr.errors import FailedError, LastCopyError, McrError
from mcr.model import RequestId
from mcr.v1 import admin_pb2 as pb
from mcr.values import dataclass
from mcr_node.core.members import Member, Membership
from mcr_node.core.state.fence import fence_of
from mcr_node.core.state.outcomes import Rejected
from mcr_node.core.state.space_commands import FenceCommits
from mcr_node.ports import Clock
from mcr_node.ports_log import ReplicatedLog
from mcr_node.services.census import Census, Known
from mcr_node.services.chunks import LocalChunks
from mcr_node.services.colleagues import Colleagues
from mcr_node.services.copies import COPIES, Holders
from mcr_node.services.lives import Lives
from mcr_node.services.pace import REPAIR_BYTES_PER_S
from mcr_node.services.presence import Presence
from mcr_node.services.repair import Repair
from mcr_node.services.walking import all_models, versions_of
from mcr_node.services.workers import Step

# How often the leader looks whether the others are done: people wait for it.
LOOK_S = 0.5
# What is asked of a node whether it is done.
REQUEST_ID_BYTES = 16
CHUNKS_LEAVING, CHUNKS_COPIED, LAYOUT_EPOCH = "chunks_leaving", "chunks_copied", "layout_epoch"


@dataclass(frozen=True, slots=True)
class Left:
    """What keeps members from going, as the nodes that answer tell.

    Attributes:
        chunks: that are still to be copied, as far as they were counted.
        copied: chunks that were, since the nodes started.
        behind: names of nodes that have not looked through their share yet.
        silent: names of nodes that stay and do not answer, but may be back in a moment.
    """

    chunks: int
    copied: int
    behind: tuple[str, ...]
    silent: tuple[str, ...]

    @property
    def is_nothing(self) -> bool:
        """Whether a last count is worth its while."""
        return not (self.chunks or self.behind or self.silent)

    def __str__(self) -> str:
        if self.silent:
            return f"{', '.join(self.silent)} did not answer just now"
        if self.behind:
            return f"{', '.join(self.behind)} count what is to be copied"
        return f"{self.chunks} chunks are to be copied" if self.chunks else "all is counted once more"


class Draining:
    """`services.workers.Task`: what the leader does for members that are leaving."""

    name = "drain"
    look_s = LOOK_S

    def __init__(
        self,
        log: ReplicatedLog,
        chunks: LocalChunks,
        others: Holders,
        colleagues: Colleagues,
        presence: Presence,
        repair: Repair,
        clock: Clock,
        *,
        bytes_per_s: float = REPAIR_BYTES_PER_S,
    ) -> None:
        """Watch over the members of `log`; `repair` is this node's own."""
        self._log = log
        self._chunks = chunks
        self._others = others
        self._colleagues = colleagues
        self._presence = presence
        self._repair = repair
        self._clock = clock
        self.bytes_per_s = bytes_per_s
        # Under which layout the members that were leaving were found drained; 0 = under none.
        self._drained_epoch = 0
        self._left = Left(0, 0, (), ())
        self._counted = self._kept_back = 0

    # ---- services.workers.Task ----

    async def is_due(self) -> bool:
        """See Task."""
        membership = self._log.membership
        if not self._log.is_leader or self._log.failure is not None or not membership.leaving:
            return False
        if self._is_leaving(membership):
            return True
        if self._drained_epoch == membership.epoch:
            return False
        self._left = await self._look(membership)
        return self._left.is_nothing

    async def run(self, *, asked: bool) -> AsyncGenerator[Step]:
        """See Task."""
        log, membership = self._log, self._log.membership
        if not log.is_leader or not membership.leaving:
            return
        if self._is_leaving(membership):
            await self._hand_over(membership)
            return
        await self._raise_fence(membership.epoch)
        present = await self._presence.look()
        alive = {member.node_id: None for member in present.alive}
        # Whoever does not answer may hold what nobody else has.
        is_blind = any(member.node_id not in alive for member in membership.leaving)
        wanted = min(COPIES, len(membership.staying))
        myself = self._myself(membership)
        census = Census(self._chunks, self._others, myself, present.alive, wanted, Lives(), proves=True)
        known = Known()
        models = await all_models(log)
        done, total = 0, sum(models.values())
        for model in models:
            async for count, counted, _ in census.count_all(versions_of(log, model), known):
                done += count
                self._counted += counted.chunks
                yield Step("versions counted", done, total, counted.cost_bytes)
        short = sum(bool(copies.leaving) or is_blind for copies in known.short.values()) + known.more
        self._kept_back = short
        if short:
            raise FailedError("drain", f"{short} chunks still depend on members that are leaving")
        yield Step("versions counted", done, total, 0)
        if log.membership.epoch == membership.epoch:
            self._drained_epoch = membership.epoch

    def counts(self) -> Mapping[str, int]:
        """See Task."""
        return {"chunks_counted": self._counted, "chunks_kept_back": self._kept_back}

    def findings(self) -> list[str]:
        """See Task."""
        membership = self._log.membership
        if not self._log.is_leader or self._drained_epoch == membership.epoch:
            return []
        return [f"{member.name} is leaving: {self._left}" for member in membership.leaving]

    # ---- for operators ----

    @property
    def left(self) -> Left:
        """Leader: what keeps members from going, as of the last look."""
        return self._left

    def is_drained(self, node_id: int) -> bool:
        """Leader: say whether nothing depends on a member that is leaving."""
        membership = self._log.membership
        member = membership.get(node_id)
        is_leaving = member is not None and member.leaving
        return is_leaving and self._log.is_leader and self._drained_epoch == membership.epoch

    async def check_dispensable(self, member: Member) -> None:
        """Leader: refuse to lose chunks with a member: those that nobody else has who answers.

        Raises:
            LastCopyError: there are some, as far as can be told without it.
            McrError: a node stopped answering.
        """
        present = await self._presence.look()
        others = [one for one in present.alive if one.node_id != member.node_id]
        is_silent = len(others) == len(present.alive)
        # A chunk that not even this member has, when it answers, is not lost by its removal.
        asked = others if is_silent else [*others, replace(member, leaving=True)]
        census = Census(self._chunks, self._others, self._myself(self._log.membership), asked, 1, Lives())
        known = Known()
        example = ""
        for model in await all_models(self._log):
            async for _, counted, needing in census.count_all(versions_of(self._log, model), known):
                names = {version.manifest: version.name for version in needing}
                for copies in counted.short:
                    if not example and (is_silent or copies.leaving):
                        example = names[copies.manifest]
        if example:
            chunks = sum(is_silent or bool(copies.leaving) for copies in known.short.values()) + known.more
            raise LastCopyError(member.name, chunks, example)

    # ---- inside ----

    def _is_leaving(self, membership: Membership) -> bool:
        return self._log.node_id in [member.node_id for member in membership.leaving]

    def _myself(self, membership: Membership) -> Member:
        found = membership.get(self._log.node_id)
        assert found is not None, "whoever leads is a member"
        return found

    async def _raise_fence(self, epoch: int) -> None:
        """Let no commit follow that was sealed by a node which did not know who is leaving."""
        if await self._log.run(lambda: fence_of(self._log.view())) >= epoch:
            return
        command = FenceCommits(
            request_id=RequestId(secrets.token_bytes(REQUEST_ID_BYTES)),
            principal=f"node:{self._log.membership.name_of(self._log.node_id)}",
            at_ms=self._clock.now_ms(),
            epoch=epoch,
        )
        outcome = await self._log.propose(command)
        if isinstance(outcome, Rejected):
            raise outcome.error()

    async def _hand_over(self, membership: Membership) -> None:
        """Let a voter lead that stays: the one that lacks least.

        Raises:
            FailedError: there is none; it is looked at again.
        """
        members = self._log.members
        found = [
            (progress.match, member.node_id)
            for member in membership.staying
            if member.node_id in membership.conf.voters
            and (progress := members.progress(member.node_id)) is not None
            and progress.is_active
        ]
        if not found:
            raise FailedError("drain", "this node is leaving, and no other voter that stays answers")
        await members.transfer_leader(max(found)[1])

    async def _look(self, membership: Membership) -> Left:
        """Ask those who stay whether they have anything left to do for it."""
        present = await self._presence.look()
        staying = [member for member in present.alive if not member.leaving]
        names = {member.node_id: member.name for member in membership.members}
        answers = await asyncio.gather(*(self._ask(member) for member in staying))
        chunks = copied = 0
        behind: list[str] = []
        told = [(self._log.node_id, self._repair.counts())]
        told += [(member.node_id, counts) for member, counts in zip(staying, answers, strict=True)]
        for node_id, counts in told:
            chunks += counts.get(CHUNKS_LEAVING, 0)
            copied += counts.get(CHUNKS_COPIED, 0)
            # It looked under this layout, so it has applied the entry, and seals by it.
            if counts.get(LAYOUT_EPOCH, 0) < membership.epoch:
                behind.append(names[node_id])
        silent = tuple(member.name for member in present.silent if not member.leaving)
        return Left(chunks, copied, tuple(behind), silent)

    async def _ask(self, member: Member) -> Mapping[str, int]:
        request = pb.ListWorkersRequest(name=self._repair.name, handed_on=True)
        try:
            answer = await self._colleagues.admin(
                member.address, "ListWorkers", request, pb.ListWorkersResponse
            )
        except McrError:
            return {}
        return {count.name: count.value for worker in answer.workers for count in worker.counts}
