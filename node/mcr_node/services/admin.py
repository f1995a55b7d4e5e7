"""mcr.v1.AdminService: totals and health of this node's store, and of the cluster as far as it knows."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from mcr._records import Place
from mcr.errors import DivergedError, McrError
from mcr.v1 import admin_pb2 as pb
from mcr_node.core.members import Member
from mcr_node.ports import ChunkStore
from mcr_node.ports_log import ReplicatedLog
from mcr_node.services.colleagues import Colleagues
from mcr_node.services.collecting import Collector
from mcr_node.services.digests import DigestChecks
from mcr_node.services.membership import MembershipService
from mcr_node.services.myself import Myself
from mcr_node.services.upkeep import Upkeep, UpkeepService

# Below this a commit of a small model may already fail; the log and the index need a little as well.
BYTES_FREE_LOW = 1_000_000_000
# A member that does not say how it does by then is shown as one that does not answer.
LOOK_S = 2.0
# Until it is known where this node is, so often is it said: about as often as nodes hear of each other.
ANNOUNCE_S = 0.1

# A member, and what it says of its store; None when it does not answer.
_Look = tuple[pb.Member, pb.GetStoreStatusResponse | None]


class AdminService:
    """The service over one node's parts."""

    def __init__(
        self,
        log: ReplicatedLog,
        chunks: ChunkStore,
        *,
        store_id: bytes,
        store_format: int,
        encoding: str,
        bytes_free: Callable[[], int],
        log_entry_count: Callable[[], int],
        life: int,
        myself: Myself,
        keep_all: Callable[[int], Awaitable[None]],
        check_dispensable: Callable[[Member], Awaitable[None]],
        colleagues: Colleagues | None = None,
        upkeep: Upkeep | None = None,
        collector: Collector | None = None,
    ) -> None:
        self._log = log
        self._chunks = chunks
        self._store_id = store_id
        self._store_format = store_format
        self._encoding = encoding
        self._bytes_free = bytes_free
        self._log_entry_count = log_entry_count
        self._life = life
        self.myself = myself
        self._colleagues = colleagues
        self.membership = MembershipService(
            log,
            colleagues,
            cluster_id=store_id,
            encoding=encoding,
            keep_all=keep_all,
            check_dispensable=check_dispensable,
        )
        self.digests = DigestChecks(log, colleagues)
        self._upkeep = upkeep
        self._upkeep_rpcs = UpkeepService(log, colleagues, upkeep, lambda: self.myself.name, collector)
        # Set while the node takes no new work although it runs: before it stops.
        self.draining = False
        # Where it takes chunks in bulk, once it listens there; 0 = nowhere.
        self.bulk_port, self.bulk_key = 0, b""
        # Where it takes lines of clients.
        self.call_place = Place()

    def move_to(self, address: str) -> None:
        """Note where this node is reached: known only once it listens, when the system chose the port."""
        self.myself = replace(self.myself, address=address)

    @property
    def ready(self) -> bool:
        """Whether clients should come here."""
        return self._log.failure is None and not self.draining

    async def ping(self, request: pb.PingRequest) -> pb.PingResponse:
        """Answer at once.

        Raises:
            DivergedError: this node is out of service; a client that knows no other one says why.
        """
        if isinstance(self._log.failure, DivergedError):
            raise self._log.failure
        return pb.PingResponse(
            name=self.myself.name,
            site=self.myself.site,
            ready=self.ready,
            applied_index=self._log.applied,
            bulk_port=self.bulk_port,
            bulk_key=self.bulk_key,
            life=self._life,
            call_port=self.call_place.port,
            call_key=self.call_place.key,
        )

    async def get_cluster_status(self, request: pb.GetClusterStatusRequest) -> pb.GetClusterStatusResponse:
        """Return the members of the cluster and how they do."""
        log = self._log
        store = await self.get_store_status(pb.GetStoreStatusRequest())
        membership = log.membership
        looks = await asyncio.gather(*(self._look_at(member, store) for member in membership.members))
        looks.sort(key=lambda look: look[0].name)
        leader = membership.get(log.leader)
        leader_name = "" if leader is None else leader.name
        if log.leader == log.node_id:
            # What it is called now, even if the others have not heard of it yet.
            leader_name = self.myself.name
        return pb.GetClusterStatusResponse(
            leader=leader_name,
            term=log.term,
            applied_index=store.applied_index,
            members=[member for member, _ in looks],
            chunks_under_replicated=sum(
                status.chunks_under_replicated for _, status in looks if status is not None
            ),
            alarms=self._alarms(store, looks),
        )

    async def _look_at(self, member: Member, mine: pb.GetStoreStatusResponse) -> _Look:
        log = self._log
        voters = log.membership.conf.voters
        found = pb.Member(
            name=member.name,
            address=member.address,
            site=member.site,
            leaving=member.leaving,
            role=pb.MEMBER_ROLE_VOTER if member.node_id in voters else pb.MEMBER_ROLE_LEARNER,
        )
        status: pb.GetStoreStatusResponse | None = None
        if member.node_id == log.node_id:
            found.name, found.address, found.site = self.myself.name, self.myself.address, self.myself.site
            status = mine
        elif self._colleagues is not None:
            with suppress(McrError, TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    status = await self._colleagues.store_status(member.address)
        if status is not None:
            is_failed = member.node_id == log.node_id and log.failure is not None
            found.healthy = not (is_failed or status.diverged_index)
            found.applied_index = status.applied_index
            found.bytes_used = status.chunk_bytes_used
            found.bytes_free = status.bytes_free
        return found, status

    async def announce_for_ever(self) -> None:
        """See to it that the members know where this node is, now and after a restart elsewhere."""
        request = pb.AddMemberRequest(
            node_id=self._log.node_id,
            name=self.myself.name,
            address=self.myself.address,
            site=self.myself.site,
            capacity_bytes=self.myself.capacity_bytes or 0,
        )
        wanted = Member(request.node_id, request.name, request.address, request.site, request.capacity_bytes)
        while (known := self._log.membership.get(wanted.node_id)) is None or known.said(wanted) != known:
            with suppress(McrError):
                await self.membership.add(request)
            await asyncio.sleep(ANNOUNCE_S)

    async def add_member(self, request: pb.AddMemberRequest) -> pb.AddMemberResponse:
        """See `services.membership`."""
        return await self.membership.add(request)

    async def remove_member(self, request: pb.RemoveMemberRequest) -> pb.RemoveMemberResponse:
        """See `services.membership`."""
        return await self.membership.remove(request)

    async def replace_member(self, request: pb.ReplaceMemberRequest) -> pb.ReplaceMemberResponse:
        """See `services.membership`."""
        return await self.membership.replace(request)

    async def promote_member(self, request: pb.PromoteMemberRequest) -> pb.PromoteMemberResponse:
        """See `services.membership`."""
        return await self.membership.promote(request)

    async def transfer_leadership(
        self, request: pb.TransferLeadershipRequest
    ) -> pb.TransferLeadershipResponse:
        """See `services.membership`."""
        return await self.membership.transfer(request)

    async def list_workers(self, request: pb.ListWorkersRequest) -> pb.ListWorkersResponse:
        """See `services.upkeep`."""
        return await self._upkeep_rpcs.list_all(request)

    async def start_worker(self, request: pb.StartWorkerRequest) -> pb.StartWorkerResponse:
        """See `services.upkeep`."""
        return await self._upkeep_rpcs.start(request)

    async def pause_worker(self, request: pb.PauseWorkerRequest) -> pb.PauseWorkerResponse:
        """See `services.upkeep`."""
        return await self._upkeep_rpcs.pause(request)

    async def plan_repair(self, request: pb.PlanRepairRequest) -> pb.PlanRepairResponse:
        """See `services.upkeep`."""
        return await self._upkeep_rpcs.plan(request)

    async def plan_collection(self, request: pb.PlanCollectionRequest) -> pb.PlanCollectionResponse:
        """See `services.upkeep`."""
        return await self._upkeep_rpcs.plan_collection(request)

    def _alarms(self, store: pb.GetStoreStatusResponse, looks: Sequence[_Look]) -> list[pb.Alarm]:
        alarms: list[pb.Alarm] = []
        awaited = [member.name for member in self._log.membership.members if member.awaited]
        for member, status in looks:
            if status is None and member.name in awaited:
                text = f"it was added and has not been started yet; start it with --join at {member.address}"
                alarms.append(pb.Alarm(code="member_awaited", member=member.name, message=text))
                continue
            if status is None:
                silent = "it does not answer this node"
                alarms.append(pb.Alarm(code="member_silent", member=member.name, message=silent))
                continue
            if status.diverged_index:
                text = f"node {member.name} diverged at index {status.diverged_index}; it gets a new state"
                alarms.append(pb.Alarm(code="state_diverged", member=member.name, message=text))
            if status.disputed_index:
                text = f"states differ at index {status.disputed_index}, and none is that of most voters"
                alarms.append(pb.Alarm(code="state_disputed", message=text))
            alarms += _chunk_alarms(member.name, status)
        if not self._log.leader:
            alarms.insert(0, pb.Alarm(code="no_leader", message="no leader is known; writes wait or fail"))
        found: dict[str, str] = {}
        if self._log.failure is not None and not store.diverged_index:
            found["log_failed"] = f"the log takes no more writes: {self._log.failure}"
        if store.chunks_quarantined:
            found["chunks_damaged"] = f"{store.chunks_quarantined} chunks were found damaged and set aside"
        if store.bytes_free < BYTES_FREE_LOW:
            found["space_low"] = f"{store.bytes_free} bytes are left"
        alarms += [pb.Alarm(code=code, member=self.myself.name, message=text) for code, text in found.items()]
        return alarms

    async def get_state_digests(self, request: pb.GetStateDigestsRequest) -> pb.GetStateDigestsResponse:
        """Return what this node remembers of its digests, unless they are known to be wrong."""
        if self._log.failure is not None:
            raise self._log.failure
        known = self._log.digests.known
        return pb.GetStateDigestsResponse(
            digests=[pb.StateDigest(index=index, digest=digest) for index, digest in known.items()]
        )

    async def get_store_status(self, request: pb.GetStoreStatusRequest) -> pb.GetStoreStatusResponse:
        """Return totals and health."""
        found = await self._log.run(self._status)
        # Here, not beside: the workers change what is counted on this loop.
        if self._upkeep is not None:
            self._upkeep.describe(found)
        return found

    def _status(self) -> pb.GetStoreStatusResponse:
        stats = self._chunks.stats()
        divergence = self._log.digests.divergence
        bytes_free = self._bytes_free()
        if self.myself.capacity_bytes is not None:
            bytes_free = max(0, min(bytes_free, self.myself.capacity_bytes - stats.bytes_used))
        return pb.GetStoreStatusResponse(
            store_id=self._store_id,
            store_format=self._store_format,
            applied_index=self._log.applied,
            state_digest=self._log.state_digest,
            chunk_count=stats.chunk_count,
            chunk_bytes_plain=stats.bytes_plain,
            chunk_bytes_live=stats.bytes_live,
            chunk_bytes_used=stats.bytes_used,
            chunks_quarantined=stats.quarantined,
            bytes_free=bytes_free,
            encoding=self._encoding,
            log_entry_count=self._log_entry_count(),
            diverged_index=0 if divergence is None else divergence.index,
            disputed_index=self.digests.disputed,
        )


def _chunk_alarms(member: str, status: pb.GetStoreStatusResponse) -> list[pb.Alarm]:
    """Return what a node has to say of the copies that it looks after, and of its own."""
    found: dict[str, str] = {}
    if status.chunks_lost:
        found["chunks_lost"] = f"{status.chunks_lost} chunks are on no node that answers: {status.lost}"
    if status.chunks_under_replicated:
        text = f"{status.chunks_under_replicated} chunks have fewer copies than they should"
        found["chunks_under_replicated"] = f"{text}; mcr repair status says what is done about it"
    if status.chunks_unhealed:
        text = f"{status.chunks_unhealed} chunks were damaged here, and no node that answers has them"
        found["chunks_unhealed"] = f"{text}; mcr scrub status names them"
    if status.gc_problem:
        found["garbage_stays"] = f"garbage was not collected for some rounds: {status.gc_problem}"
    return [pb.Alarm(code=code, member=member, message=text) for code, text in found.items()]
