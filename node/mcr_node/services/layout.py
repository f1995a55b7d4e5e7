"""mcr.v1.LayoutService: which members take chunks, which leave. Any node is asked; the leader decides."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from mcr.errors import (
    FailedError,
    InvalidArgumentError,
    LayoutChangedError,
    MemberNotFoundError,
    NoQuorumError,
)
from mcr.references import check_name
from mcr.v1 import layout_pb2 as pb
from mcr_node.core.members import Member, Membership, Staged, Told, arranged
from mcr_node.core.placement.ring import CAPACITY_BYTES_DEFAULT
from mcr_node.ports_log import ReplicatedLog
from mcr_node.services.chunks import LocalChunks
from mcr_node.services.draining import Draining
from mcr_node.services.membership import MembershipService
from mcr_node.services.planning import Planning

# How often somebody who waits for a drain looks.
WAIT_LOOK_S = 0.1
# An exabyte; keeps sums of weights far from where numbers lose their last digit.
CAPACITY_BYTES_MAX = 10**18
_SERVICE = "LayoutService"
_MILLION = 1_000_000


class LayoutService:
    """The layout of one node's cluster."""

    def __init__(
        self,
        log: ReplicatedLog,
        chunks: LocalChunks,
        membership: MembershipService,
        draining: Draining | None,
    ) -> None:
        """Serve the members of `log`; without `draining`, of a store that is its only member."""
        self._log = log
        self._chunks = chunks
        self._membership = membership
        self._draining = draining

    async def drain_member(self, request: pb.DrainMemberRequest) -> pb.DrainMemberResponse:
        """Mark a member as leaving, or as staying."""
        return await self._membership.as_leader(
            f"{_SERVICE}/DrainMember", request, pb.DrainMemberResponse, lambda: self._drain(request)
        )

    async def _drain(self, request: pb.DrainMemberRequest) -> pb.DrainMemberResponse:
        def decide(membership: Membership) -> Told:
            member = _named(membership, request.name)
            if not request.cancel:
                membership.check_leaving(member.node_id)
            return Told((replace(member, leaving=not request.cancel),))

        membership = await self._log.members.arrange(decide)
        return pb.DrainMemberResponse(epoch=membership.epoch)

    async def get_drain(self, request: pb.GetDrainRequest) -> pb.GetDrainResponse:
        """Say how far a drain has come."""
        return await self._membership.as_leader(
            f"{_SERVICE}/GetDrain", request, pb.GetDrainResponse, lambda: self._get_drain(request)
        )

    async def _get_drain(self, request: pb.GetDrainRequest) -> pb.GetDrainResponse:
        member = _named(self._log.membership, request.name)
        if not member.leaving or self._draining is None:
            return pb.GetDrainResponse()
        is_drained = self._draining.is_drained(member.node_id)
        left = self._draining.left
        return pb.GetDrainResponse(
            leaving=True,
            drained=is_drained,
            chunks_left=0 if is_drained else left.chunks,
            chunks_copied=left.copied,
            waits_for="" if is_drained else str(left),
        )

    # ---- layouts ----

    async def get_layout(self, request: pb.GetLayoutRequest) -> pb.GetLayoutResponse:
        """Return the members as placement knows them, and what is staged."""
        return await self._membership.as_leader(
            f"{_SERVICE}/GetLayout", request, pb.GetLayoutResponse, self._get_layout
        )

    async def _get_layout(self) -> pb.GetLayoutResponse:
        membership = self._log.membership
        after = arranged(membership)
        staged = [one.node_id for one in membership.staged]
        return pb.GetLayoutResponse(
            epoch=membership.epoch,
            members=_described(membership),
            staged=_described(after, only=staged),
        )

    async def plan_layout(self, request: pb.PlanLayoutRequest) -> pb.PlanLayoutResponse:
        """Say what would move."""
        return await self._membership.as_leader(
            f"{_SERVICE}/PlanLayout", request, pb.PlanLayoutResponse, self._plan_layout
        )

    async def _plan_layout(self) -> pb.PlanLayoutResponse:
        before = self._log.membership
        after = arranged(before)
        plan = await Planning(self._log, self._chunks).plan(before.staying, after.staying)
        return pb.PlanLayoutResponse(
            epoch=before.epoch,
            chunks=plan.chunks,
            chunks_moved=plan.chunks_moved,
            bytes_moved=plan.bytes_moved,
            chunks_looked_at=plan.looked_at,
            moves=[
                pb.LayoutMove(
                    name=member.name,
                    bytes_in=plan.bytes_in.get(member.node_id, 0),
                    bytes_out=plan.bytes_out.get(member.node_id, 0),
                )
                for member in sorted(before.members, key=lambda member: member.name)
            ],
        )

    async def stage_layout(self, request: pb.StageLayoutRequest) -> pb.StageLayoutResponse:
        """Note what is to become of a member."""
        if request.HasField("site") and request.site:
            check_name("site", request.site)
        if request.capacity_bytes > CAPACITY_BYTES_MAX:
            raise InvalidArgumentError("capacity", f"{request.capacity_bytes} is more than any disk has")
        return await self._membership.as_leader(
            f"{_SERVICE}/StageLayout", request, pb.StageLayoutResponse, lambda: self._stage(request)
        )

    async def _stage(self, request: pb.StageLayoutRequest) -> pb.StageLayoutResponse:
        def decide(membership: Membership) -> Told:
            if request.HasField("expected_epoch"):
                _check_epoch(membership, request.expected_epoch)
            if not request.name:
                return Told(staged=())
            member = _named(membership, request.name)
            known = {one.node_id: one for one in membership.staged}
            staged = known.pop(member.node_id, Staged(member.node_id))
            if request.reset:
                staged = Staged(member.node_id)
            if request.HasField("site"):
                staged = replace(staged, site=request.site)
            if request.HasField("capacity_bytes"):
                staged = replace(staged, capacity_bytes=request.capacity_bytes)
            if request.HasField("leaving"):
                staged = replace(staged, leaving=request.leaving)
            if staged != Staged(member.node_id):
                known[member.node_id] = staged
            return Told(staged=tuple(known[node_id] for node_id in sorted(known)))

        if not (request.name or request.reset):
            raise InvalidArgumentError("name", "name the member")
        membership = await self._log.members.arrange(decide)
        return pb.StageLayoutResponse(epoch=membership.epoch)

    async def apply_layout(self, request: pb.ApplyLayoutRequest) -> pb.ApplyLayoutResponse:
        """Put what is staged into force."""
        return await self._membership.as_leader(
            f"{_SERVICE}/ApplyLayout", request, pb.ApplyLayoutResponse, lambda: self._apply(request)
        )

    async def _apply(self, request: pb.ApplyLayoutRequest) -> pb.ApplyLayoutResponse:
        def decide(membership: Membership) -> Told:
            _check_epoch(membership, request.expected_epoch)
            if not membership.staged:
                raise LayoutChangedError(request.expected_epoch, membership.epoch, "nothing is staged")
            after = arranged(membership)
            if not any(member.node_id in after.conf.voters for member in after.staying):
                raise FailedError("applying the layout", "no voter would stay")
            changed = tuple(member for member in after.members if member not in membership.members)
            return Told(changed, ())

        membership = await self._log.members.arrange(decide)
        return pb.ApplyLayoutResponse(epoch=membership.epoch)

    # ---- draining ----

    async def drain(self, node_id: int) -> None:
        """Leader: mark a member as leaving and wait until nothing depends on it; the caller bounds the wait.

        Raises:
            MemberNotFoundError, FailedError: it is no member, or no other voter stays.
            NoQuorumError: another node leads now, and goes on with it.
        """
        member = self._log.membership.get(node_id)
        if member is None:
            raise MemberNotFoundError(str(node_id))
        await self._drain(pb.DrainMemberRequest(name=member.name))
        # Nothing tells that the copies were counted; whoever waits looks, as for learners.
        while self._draining is not None and not self._draining.is_drained(node_id):
            if not self._log.is_leader:
                raise NoQuorumError("the leader is changing")
            await asyncio.sleep(WAIT_LOOK_S)


def _check_epoch(membership: Membership, expected: int) -> None:
    if membership.epoch != expected:
        raise LayoutChangedError(expected, membership.epoch, "somebody changed it")


def _described(membership: Membership, only: Sequence[int] | None = None) -> list[pb.LayoutMember]:
    weights = {
        member.node_id: member.capacity_bytes or CAPACITY_BYTES_DEFAULT for member in membership.staying
    }
    total = sum(weights.values())
    return [
        pb.LayoutMember(
            name=member.name,
            site=member.site,
            capacity_bytes=member.capacity_bytes,
            leaving=member.leaving,
            awaited=member.awaited,
            arranged=member.arranged,
            share_millionths=weights.get(member.node_id, 0) * _MILLION // max(1, total),
        )
        for member in sorted(membership.members, key=lambda member: member.name)
        if only is None or member.node_id in only
    ]


def _named(membership: Membership, name: str) -> Member:
    member = membership.named(name)
    if member is None:
        raise MemberNotFoundError(name)
    return member
