"""Who is a member: adding, removing, promoting, and who leads. Every node takes these; the leader decides."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable

from google.protobuf.message import Message

from mcr.errors import (
    AlreadyExistsError,
    FailedError,
    InvalidArgumentError,
    McrError,
    MemberNotFoundError,
    NoQuorumError,
)
from mcr.references import check_name
from mcr.v1 import admin_pb2 as pb
from mcr_node.core.members import Member, Membership
from mcr_node.ports_log import ReplicatedLog
from mcr_node.services.colleagues import Colleagues, Response
from mcr_node.services.deadlines import time_left_s

# A learner that lacks no more than this is as good as caught up: the rest arrives with the next messages.
PROMOTE_LAG_MAX = 64
# How often a leader looks whether a learner has caught up: about as often as nodes hear of each other.
PROMOTE_LOOK_S = 0.1
NODE_ID_LIMIT = 1 << 62
# How long a replacement waits for the new node when the caller does not say.
REPLACE_PATIENCE_S = 60.0


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
        check_dispensable: Callable[[Member], Awaitable[None]],
    ) -> None:
        """Serve the members of a log.

        Args:
            log: the log.
            colleagues: the other nodes; None = there are none.
            cluster_id: what a node that joins is told.
            encoding: as well.
            keep_all: returns once nothing depends on a node.
            check_dispensable: refuses where chunks would be lost with one.
        """
        self._log = log
        self._colleagues = colleagues
        self._cluster_id = cluster_id
        self._encoding = encoding
        self._keep_all = keep_all
        self._check_dispensable = check_dispensable
        # Name of the node that is being replaced.
        self._replacing = ""

    async def add(self, request: pb.AddMemberRequest) -> pb.AddMemberResponse:
        """Take a node in as a learner, or note where it is now."""
        check_name("node", request.name)
        if request.site:
            check_name("site", request.site)
        if request.awaited and not request.node_id:
            request.node_id = secrets.randbelow(NODE_ID_LIMIT - 1) + 1
        if not 0 < request.node_id < NODE_ID_LIMIT:
            raise InvalidArgumentError("node_id", f"{request.node_id} is not between 1 and 2^62")
        return await self.as_leader("AddMember", request, pb.AddMemberResponse, lambda: self._add(request))

    async def _add(self, request: pb.AddMemberRequest) -> pb.AddMemberResponse:
        member = Member(
            request.node_id,
            request.name,
            request.address,
            request.site,
            request.capacity_bytes,
            request.awaited,
        )
        membership = self._log.membership
        namesake = membership.named(request.name)
        if namesake is not None and namesake.node_id != request.node_id:
            member = _kept_for(namesake, request)
        else:
            _check_place(membership, member)
            known = membership.get(member.node_id)
            await self._log.members.add(member if known is None else known.said(member))
        return pb.AddMemberResponse(
            cluster_id=self._cluster_id, encoding=self._encoding, node_id=member.node_id, site=member.site
        )

    async def remove(self, request: pb.RemoveMemberRequest) -> pb.RemoveMemberResponse:
        """Remove a node."""
        return await self.as_leader(
            "RemoveMember", request, pb.RemoveMemberResponse, lambda: self._remove(request)
        )

    async def _remove(self, request: pb.RemoveMemberRequest) -> pb.RemoveMemberResponse:
        member = self._named(request.name)
        # Before anything is copied or handed over for it.
        self._log.membership.check_removed(member.node_id)
        if member.node_id == self._log.node_id:
            await self._transfer("")
            # Whoever leads now removes us.
            request.handed_on = False
            return await self._hand_on("RemoveMember", request, pb.RemoveMemberResponse)
        if not request.force:
            # It may hold a last copy, or a second one. When the caller's time is up it goes on leaving, and
            # the same command goes on where it stopped.
            await self._keep_all(member.node_id)
        elif not request.accept_loss:
            await self._check_dispensable(member)
        await self._log.members.remove(member.node_id)
        return pb.RemoveMemberResponse()

    async def replace(self, request: pb.ReplaceMemberRequest) -> pb.ReplaceMemberResponse:
        """Remove a node once another has taken its place."""
        if request.name == request.by:
            raise InvalidArgumentError("by", f"{request.by} cannot take its own place; name another node")
        return await self.as_leader(
            "ReplaceMember", request, pb.ReplaceMemberResponse, lambda: self._replace(request)
        )

    async def _replace(self, request: pb.ReplaceMemberRequest) -> pb.ReplaceMemberResponse:
        log, what = self._log, f"replacing {request.name}"
        self._named(request.name)
        by = self._named(request.by)
        if self._replacing:
            raise FailedError(what, f"{self._replacing} is being replaced; one after the other")
        self._replacing = request.name
        try:
            async with asyncio.timeout(request.patience_ms / 1000 or REPLACE_PATIENCE_S):
                # Nothing tells when a member of any engine has caught up; a leader looks, as for learners.
                while log.is_leader and not self._has_caught_up(by.node_id):  # noqa: ASYNC110
                    await asyncio.sleep(PROMOTE_LOOK_S)
            if not log.is_leader:
                raise NoQuorumError("the leader is changing")
            await self._remove(pb.RemoveMemberRequest(name=request.name))
        except TimeoutError as error:
            reason = f"{by.name} has no vote yet, or has not caught up; {request.name} stays. Is it started?"
            raise FailedError(what, reason) from error
        finally:
            self._replacing = ""
        return pb.ReplaceMemberResponse()

    def _has_caught_up(self, node_id: int) -> bool:
        log = self._log
        progress = log.members.progress(node_id)
        return (
            node_id in log.membership.conf.voters
            and progress is not None
            and progress.is_active
            and progress.match + PROMOTE_LAG_MAX >= log.commit
        )

    async def promote(self, request: pb.PromoteMemberRequest) -> pb.PromoteMemberResponse:
        """Make a voter of a learner."""
        return await self.as_leader(
            "PromoteMember", request, pb.PromoteMemberResponse, lambda: self._promote(request)
        )

    async def _promote(self, request: pb.PromoteMemberRequest) -> pb.PromoteMemberResponse:
        member = self._named(request.name)
        if member.awaited:
            raise FailedError(f"a vote for {member.name}", "it has not been started yet")
        await self._log.members.promote(member.node_id)
        return pb.PromoteMemberResponse()

    async def transfer(self, request: pb.TransferLeadershipRequest) -> pb.TransferLeadershipResponse:
        """Let another voter lead."""
        return await self.as_leader(
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
                    except McrError:
                        # No longer leader, no majority, removed, or out of service: whoever leads sees it.
                        break

    # ---- inside ----

    def _named(self, name: str) -> Member:
        member = self._log.membership.named(name)
        if member is None:
            raise MemberNotFoundError(name)
        return member

    async def as_leader(
        self,
        rpc: str,
        request: Message,
        kind: type[Response],
        work: Callable[[], Awaitable[Response]],
    ) -> Response:
        """Do what only the leader may, here or there.

        Args:
            rpc: of the same request, see `Colleagues.admin`.
            request: has a field `handed_on`, set when it comes from another node.
            kind: of the response.
            work: does it here.
        """
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
        # As long as the caller waits: a removal may have copies to make first.
        return await self._colleagues.admin(leader.address, rpc, marked, kind, timeout_s=time_left_s())


def _check_place(membership: Membership, member: Member) -> None:
    """Refuse the place of another node, where one of the two is kept.

    Raises:
        AlreadyExistsError: it is.
    """
    for one in membership.members:
        is_same_place = one.address == member.address and one.node_id != member.node_id
        if is_same_place and (one.awaited or member.awaited):
            raise AlreadyExistsError("address", member.address, "of another node of the cluster")


def _kept_for(namesake: Member, request: pb.AddMemberRequest) -> Member:
    """Return the member that was added beforehand for the node that asks, or asked for once more.

    Raises:
        AlreadyExistsError: the name is that of another node.
    """
    if not namesake.awaited:
        raise AlreadyExistsError("node", request.name, "another node of the cluster has that name")
    wanted = request.address, request.site or namesake.site
    if wanted != (namesake.address, namesake.site):
        at = f"at site {namesake.site}" if namesake.site else "at no site"
        raise AlreadyExistsError("node", request.name, f"and is awaited on {namesake.address}, {at}")
    return namesake
