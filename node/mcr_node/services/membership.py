"""Who is a member: adding, removing, promoting, and who leads. Every node takes these; the leader decides."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from mcr.errors import (
    AlreadyExistsError,
    FailedError,
    InvalidArgumentError,
    MemberNotFoundError,
    NoQuorumError,
)
from mcr.references import check_name
from mcr.v1 import admin_pb2 as pb
from mcr_node.core.members import Member, encode_context
from mcr_node.core.raft.errors import ConfChangeError, ProposalDroppedError
from mcr_node.core.raft.messages import (
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfChangeV2,
)
from mcr_node.core.replica import Replica
from mcr_node.runtime.runner import Runner

Response = TypeVar("Response", bound=Message)
# A learner that lacks no more than this is as good as caught up: the rest arrives with the next messages.
PROMOTE_LAG_MAX = 64
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
        runner: Runner,
        colleagues: Colleagues | None,
        *,
        cluster_id: bytes,
        encoding: str,
        keep_all: Callable[[int], Awaitable[None]],
    ) -> None:
        """Serve the membership of `runner`; `keep_all` makes the copies that a node takes along."""
        self._runner = runner
        self._colleagues = colleagues
        self._cluster_id = cluster_id
        self._encoding = encoding
        self._keep_all = keep_all
        # One change after the other: the second waits for the first instead of being refused.
        self._changing = asyncio.Lock()

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
        membership = self._runner.membership
        namesake = membership.named(request.name)
        if namesake is not None and namesake.node_id != request.node_id:
            raise AlreadyExistsError("node", request.name, "another node of the cluster has that name")
        if membership.get(request.node_id) != member:
            # Of a voter it changes no votes, and only tells where the node is. It says that it is one, all
            # the same: the log must name the voter with which the cluster began, for those who only read it.
            is_voter = request.node_id in membership.conf.voters
            kind = ConfChangeType.ADD_NODE if is_voter else ConfChangeType.ADD_LEARNER
            await self._change(kind, member.node_id, member)
        return pb.AddMemberResponse(cluster_id=self._cluster_id, encoding=self._encoding)

    async def remove(self, request: pb.RemoveMemberRequest) -> pb.RemoveMemberResponse:
        """Remove a node."""
        return await self._as_leader(
            "RemoveMember", request, pb.RemoveMemberResponse, lambda: self._remove(request)
        )

    async def _remove(self, request: pb.RemoveMemberRequest) -> pb.RemoveMemberResponse:
        member = self._named(request.name)
        if self._runner.membership.conf.voters == (member.node_id,):
            raise FailedError(
                f"removing {member.name}", "it is the last voter; promote another node first, or stop it"
            )
        if member.node_id == self._runner.node_id:
            await self._transfer("")
            # Whoever leads now removes us.
            request = pb.RemoveMemberRequest(name=request.name, force=request.force)
            return await self._hand_on("RemoveMember", request, pb.RemoveMemberResponse)
        if not request.force:
            # It may hold a last copy, or a second one. What is copied when the caller's time is up stays, so
            # the same command goes on where it stopped.
            await self._keep_all(member.node_id)
        await self._change(ConfChangeType.REMOVE_NODE, member.node_id, None)
        return pb.RemoveMemberResponse()

    async def promote(self, request: pb.PromoteMemberRequest) -> pb.PromoteMemberResponse:
        """Make a voter of a learner."""
        return await self._as_leader(
            "PromoteMember", request, pb.PromoteMemberResponse, lambda: self._promote(request)
        )

    async def _promote(self, request: pb.PromoteMemberRequest) -> pb.PromoteMemberResponse:
        member = self._named(request.name)
        if member.node_id not in self._runner.membership.conf.voters:
            await self._change(ConfChangeType.ADD_NODE, member.node_id, None)
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
        runner, conf = self._runner, self._runner.membership.conf
        if name:
            member = self._named(name)
            if member.node_id not in conf.voters:
                raise FailedError(f"leadership of {name}", "it has no vote; promote it first")
            target = member.node_id
        else:
            others = [node_id for node_id in conf.voters if node_id != runner.node_id]
            if not others:
                raise FailedError("transferring leadership", "there is no other voter")
            target = max(others, key=lambda node_id: runner.replica.match_of(node_id) or 0)
        if target != runner.node_id:
            runner.decide(lambda replica: replica.transfer_leader(target))
            try:
                async with asyncio.timeout(self._patience_s):
                    await runner.wait_for(lambda: runner.leader == target)
            except TimeoutError as error:
                raise NoQuorumError("the node that should lead did not take over in time") from error
        leader = runner.membership.get(target)
        return pb.TransferLeadershipResponse(leader="" if leader is None else leader.name)

    async def promote_for_ever(self) -> None:
        """Leader: give a vote to each learner that has caught up."""
        while True:
            await asyncio.sleep(self._runner.timing.tick_ms / 1000)
            runner = self._runner
            if not runner.replica.is_leader or self._changing.locked():
                continue
            for node_id in runner.membership.conf.learners:
                match = runner.replica.match_of(node_id)
                if match and runner.replica.is_active(node_id) and match + PROMOTE_LAG_MAX >= runner.commit:
                    try:
                        await self._change(ConfChangeType.ADD_NODE, node_id, None)
                    except (FailedError, NoQuorumError):
                        # No longer leader, or no majority: whoever leads next sees the learner too.
                        break

    # ---- inside ----

    @property
    def _patience_s(self) -> float:
        timing = self._runner.timing
        return 4 * timing.election_ticks * timing.tick_ms / 1000

    def _named(self, name: str) -> Member:
        member = self._runner.membership.named(name)
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
        self._runner.decide(lambda replica: replica.begin_term_alone())
        try:
            async with asyncio.timeout(self._patience_s):
                await self._runner.wait_for(lambda: self._runner.leader != 0)
        except TimeoutError as error:
            raise NoQuorumError("no leader is known") from error
        if self._runner.is_leader:
            return await work()
        return await self._hand_on(rpc, request, kind)

    async def _hand_on(self, rpc: str, request: Message, kind: type[Response]) -> Response:
        leader = self._runner.membership.get(self._runner.leader)
        if leader is None or self._colleagues is None or getattr(request, "handed_on", True):
            raise NoQuorumError("the leader is changing")
        marked = type(request)()
        marked.CopyFrom(request)
        marked.handed_on = True  # type: ignore[attr-defined]  # every request of this service has it
        return await self._colleagues.admin(leader.address, rpc, marked, kind)

    async def _change(self, kind: ConfChangeType, node_id: int, told: Member | None) -> None:
        """Change the configuration and wait until the change is in force here.

        Raises:
            NoQuorumError: it is not known whether it will be.
            FailedError: it cannot follow the present configuration.
        """
        change = ConfChangeV2(
            (ConfChangeSingle(kind, node_id),),
            ConfChangeTransition.AUTO,
            b"" if told is None else encode_context([told]),
        )

        def propose(replica: Replica) -> None:
            replica.change_members(change)

        async with self._changing:
            try:
                # A term's first entry must be committed before a change may be proposed.
                await self._runner.read_index(at_least=None, stale_ok=False)
                self._runner.decide(propose)
            except (ConfChangeError, ProposalDroppedError) as error:
                raise FailedError("changing the members", str(error)) from error
            try:
                async with asyncio.timeout(self._patience_s):
                    await self._runner.wait_for(lambda: self._is_done(kind, node_id, told))
            except TimeoutError as error:
                raise NoQuorumError(
                    "the change was not decided in time; look at mcr cluster members"
                ) from error

    def _is_done(self, kind: ConfChangeType, node_id: int, told: Member | None) -> bool:
        membership = self._runner.membership
        conf = membership.conf
        if told is not None and membership.get(node_id) != told:
            return False
        match kind:
            case ConfChangeType.ADD_NODE:
                return node_id in conf.voters
            case ConfChangeType.REMOVE_NODE:
                return node_id not in membership.ids()
            case _:
                return node_id in membership.ids()
