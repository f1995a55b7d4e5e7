"""Who is a member: adding, removing, promoting, and who leads. Every node takes these; the leader decides."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from mcr.errors import (
    FailedError,
    InvalidArgumentError,
    MemberNotFoundError,
    NoQuorumError,
)
from mcr.references import check_name
from mcr.v1 import admin_pb2 as pb
from mcr_node.core.members import Member
from mcr_node.ports_log import ReplicatedLog

Response = TypeVar("Response", bound=Message)
# A learner that lacks no more than this is as good as caught up: the rest arrives with the next messages.
PROMOTE_LAG_MAX = 64
# How often a leader looks whether a learner has caught up: about as often as nodes hear of each other.
PROMOTE_LOOK_S = 0.1
NODE_ID_LIMIT = 1 << 62


class Colleagues(Protocol):
    """The public edges of the other nodes."""

    async def admin(self, address: str, rpc: str, request: Message, kind: type[Response]) -> Response:
        """Call mcr.v1.AdminService of a node.

        Raises:
            McrError: it refused, or cannot be reached.
        """


class MembershipService:
    """Membership of one node's cluster."""

    def __init__(
        self,
        log: ReplicatedLog,
        colleagues: Colleagues | None,
        *,
        cluster_id: bytes,
        encoding: str,
        keep_all: Callable[[int], Awaitable[None]],
    ) -> None:
        """Serve the members of `log`; `keep_all` makes the copies that a node takes along."""
        self._log = log
        self._colleagues = colleagues
        self._cluster_id = cluster_id
        self._encoding = encoding
        self._keep_all = keep_all

    async def add(self, request: pb.AddMemberRequest) -> pb.AddMemberResponse:
        """Take a node in as a learner, or note where it is now."""
        check_name("node", request.name)
        if request.site:
            check_name("site", request.site)
        if not 0 < request.node_id < NODE_ID_LIMIT:
            raise InvalidArgumentError("node_id", f"{request.node_id} is not between 1 and 2^62")
        return await self._as_leader("AddMember", request, pb.AddMemberResponse, lambda: self._add(request))

    async def _add(self, request: pb.AddMemberRequest) -> pb.AddMemberResponse:
        member = Member(request.node_id, request.name, request.address, request.site, request.capacity_bytes)
        await self._log.members.add(member)
        return pb.AddMemberResponse(cluster_id=self._cluster_id, encoding=self._encoding)

    async def remove(self, request: pb.RemoveMemberRequest) -> pb.RemoveMemberResponse:
        """Remove a node."""
        return await self._as_leader(
            "RemoveMember", request, pb.RemoveMemberResponse, lambda: self._remove(request)
        )

    async def _remove(self, request: pb.RemoveMemberRequest) -> pb.RemoveMemberResponse:
        member = self._named(request.name)
        # Before anything is copied or handed over for it.
        self._log.membership.check_removed(member.node_id)
        if member.node_id == self._log.node_id:
            await self._transfer("")
            # Whoever leads now removes us.
            request = pb.RemoveMemberRequest(name=request.name, force=request.force)
            return await self._hand_on("RemoveMember", request, pb.RemoveMemberResponse)
        if not request.force:
            # It may hold a last copy, or a second one. What is copied when the caller's time is up stays, so
            # the same command goes on where it stopped.
            await self._keep_all(member.node_id)
        await self._log.members.remove(member.node_id)
        return pb.RemoveMemberResponse()

    async def promote(self, request: pb.PromoteMemberRequest) -> pb.PromoteMemberResponse:
        """Make a voter of a learner."""
        return await self._as_leader(
            "PromoteMember", request, pb.PromoteMemberResponse, lambda: self._promote(request)
        )

    async def _promote(self, request: pb.PromoteMemberRequest) -> pb.PromoteMemberResponse:
        await self._log.members.promote(self._named(request.name).node_id)
        return pb.PromoteMemberResponse()

    async def transfer(self, request: pb.TransferLeadershipRequest) -> pb.TransferLeadershipResponse:
        """Let another voter lead."""
        return await self._as_leader(
            "TransferLeadership",
            request,
            pb.TransferLeadershipResponse,
            lambda: self._transfer(request.name),
        )

    async def _transfer(self, name: str) -> pb.TransferLeadershipResponse:
        log = self._log
        leader = await log.members.transfer_leader(self._named(name).node_id if name else None)
        member = log.membership.get(leader)
        return pb.TransferLeadershipResponse(leader="" if member is None else member.name)

    async def promote_for_ever(self) -> None:
        """Leader: give a vote to each learner that has caught up."""
        log = self._log
        while True:
            await asyncio.sleep(PROMOTE_LOOK_S)
            for node_id in log.membership.conf.learners if log.is_leader else ():
                progress = log.members.progress(node_id)
                if progress is None or not progress.is_active or not progress.match:
                    continue
                if progress.match + PROMOTE_LAG_MAX >= log.commit:
                    try:
                        await log.members.promote(node_id)
                    except (FailedError, NoQuorumError, MemberNotFoundError):
                        # No longer leader, no majority, or removed meanwhile: whoever leads sees it too.
                        break

    # ---- inside ----

    def _named(self, name: str) -> Member:
        member = self._log.membership.named(name)
        if member is None:
            raise MemberNotFoundError(name)
        return member

    async def _as_leader(
        self,
        rpc: str,
        request: Message,
        kind: type[Response],
        work: Callable[[], Awaitable[Response]],
    ) -> Response:
        await self._log.members.wait_leader()
        if self._log.is_leader:
            return await work()
        return await self._hand_on(rpc, request, kind)

    async def _hand_on(self, rpc: str, request: Message, kind: type[Response]) -> Response:
        leader = self._log.membership.get(self._log.leader)
        if leader is None or self._colleagues is None or getattr(request, "handed_on", True):
            raise NoQuorumError("the leader is changing")
        marked = type(request)()
        marked.CopyFrom(request)
        marked.handed_on = True  # type: ignore[attr-defined]  # every request of this service has it
        return await self._colleagues.admin(leader.address, rpc, marked, kind)
