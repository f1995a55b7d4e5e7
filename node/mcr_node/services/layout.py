"""mcr.v1.LayoutService: which members take chunks, which leave. Any node is asked; the leader decides."""

import asyncio
from dataclasses import replace

from mcr.errors import MemberNotFoundError, NoQuorumError
from mcr.v1 import layout_pb2 as pb
from mcr_node.core.members import Member, Membership, Told
from mcr_node.ports_log import ReplicatedLog
from mcr_node.services.draining import Draining
from mcr_node.services.membership import MembershipService

# How often somebody who waits for a drain looks.
WAIT_LOOK_S = 0.1
_SERVICE = "LayoutService"


class LayoutService:
    """The layout of one node's cluster."""

    def __init__(self, log: ReplicatedLog, membership: MembershipService, draining: Draining | None) -> None:
        """Serve the members of `log`; without `draining`, of a store that is its only member."""
        self._log = log
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


def _named(membership: Membership, name: str) -> Member:
    member = membership.named(name)
    if member is None:
        raise MemberNotFoundError(name)
    return member
