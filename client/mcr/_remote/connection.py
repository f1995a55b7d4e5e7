"""`mcr.connection.Connection` to the nodes of a cluster, whichever of them is near and well."""

from collections.abc import AsyncGenerator, Sequence
from typing import TypeVar

from mcr._remote.calls import LONG_CALL_S, Calls
from mcr._remote.chunks import RemoteChunks, watched
from mcr._remote.layout import RemoteLayout
from mcr._remote.merges import RemoteMerges
from mcr._remote.nodes import Way
from mcr._remote.policies import RemotePolicies
from mcr._remote.quotas import RemoteQuotas
from mcr._remote.receipts import RemoteReceipts
from mcr._remote.retention import RemoteRetention
from mcr._remote.sessions import RemoteSessions
from mcr._remote.status import TransientError
from mcr._remote.trash import RemoteTrash
from mcr.addresses import Address
from mcr.durability import Durability
from mcr.errors import UnavailableError
from mcr.v1 import admin_pb2 as admin
from mcr.v1 import versions_pb2 as pb


async def connect(
    addresses: Sequence[Address], *, timeout_s: float | None, stale_ok: bool
) -> "RemoteConnection":
    """Find the nearest node and return the way to it; see `mcr.aio.connect`."""
    calls = Calls(addresses, timeout_s=timeout_s)
    try:
        await calls.start()
    except BaseException:
        await calls.close()
        raise
    return RemoteConnection(calls, stale_ok=stale_ok)


Read = TypeVar(
    "Read",
    pb.GetVersionRequest,
    pb.ListVersionsRequest,
    pb.FindVersionsRequest,
    pb.GetLineageRequest,
    pb.ListModelsRequest,
    pb.ListRefsRequest,
    pb.ListRefMovesRequest,
    pb.ListMetricReportsRequest,
)


class RemoteConnection:
    """The connection of one client."""

    def __init__(self, calls: Calls, *, stale_ok: bool) -> None:
        self._calls = calls
        self._closed = False
        self.versions = RemoteVersions(calls, stale_ok=stale_ok)
        self.receipts = RemoteReceipts(calls, stale_ok=stale_ok)
        self.policies = RemotePolicies(calls, stale_ok=stale_ok)
        self.sessions = RemoteSessions(calls, stale_ok=stale_ok)
        self.retention = RemoteRetention(calls, stale_ok=stale_ok)
        self.trash = RemoteTrash(calls, stale_ok=stale_ok)
        self.merges = RemoteMerges(calls, stale_ok=stale_ok)
        self.admin = RemoteAdmin(calls)
        self.layout = RemoteLayout(calls)
        self.quotas = RemoteQuotas(calls, stale_ok=stale_ok)
        self.chunks = RemoteChunks(calls, anywhere=True)

    def chunks_for(self, durability: Durability | None) -> RemoteChunks:
        """See Connection."""
        return self.chunks.held_as(durability)

    @property
    def location(self) -> str:
        """The addresses."""
        return self._calls.nodes.location

    async def close(self) -> None:
        """Close the connections; may be called twice. What was answered before is durable on the node."""
        if not self._closed:
            self._closed = True
            await self._calls.close()
            self.chunks.close()


class RemoteVersions:
    """`mcr.connection.VersionsApi` on a node."""

    def __init__(self, calls: Calls, *, stale_ok: bool) -> None:
        self._calls = calls
        self._stale_ok = stale_ok

    def _read(self, request: Read) -> Read:
        # Set only when it is wanted: a read without options shows every write that was answered before it.
        if self._stale_ok:
            request.read.stale_ok = True
        return request

    async def commit_version(self, request: pb.CommitVersionRequest) -> pb.CommitVersionResponse:
        """See VersionsApi."""
        return await self._calls.unary(lambda way: way.versions.CommitVersion, request, try_s=LONG_CALL_S)

    async def rollback_branch(self, request: pb.RollbackBranchRequest) -> pb.RollbackBranchResponse:
        """See VersionsApi."""
        return await self._calls.unary(lambda way: way.versions.RollbackBranch, request)

    async def get_version(self, request: pb.GetVersionRequest) -> pb.GetVersionResponse:
        """See VersionsApi."""
        return await self._calls.unary(lambda way: way.versions.GetVersion, self._read(request))

    async def list_versions(self, request: pb.ListVersionsRequest) -> pb.ListVersionsResponse:
        """See VersionsApi."""
        return await self._calls.unary(lambda way: way.versions.ListVersions, self._read(request))

    async def find_versions(self, request: pb.FindVersionsRequest) -> pb.FindVersionsResponse:
        """See VersionsApi."""
        return await self._calls.unary(lambda way: way.versions.FindVersions, self._read(request))

    async def get_lineage(self, request: pb.GetLineageRequest) -> pb.GetLineageResponse:
        """See VersionsApi."""
        return await self._calls.unary(lambda way: way.versions.GetLineage, self._read(request))

    async def sign_version(self, request: pb.SignVersionRequest) -> pb.SignVersionResponse:
        """See VersionsApi."""
        return await self._calls.unary(lambda way: way.versions.SignVersion, request)

    async def list_models(self, request: pb.ListModelsRequest) -> pb.ListModelsResponse:
        """See VersionsApi."""
        return await self._calls.unary(lambda way: way.versions.ListModels, self._read(request))

    async def list_refs(self, request: pb.ListRefsRequest) -> pb.ListRefsResponse:
        """See VersionsApi."""
        return await self._calls.unary(lambda way: way.versions.ListRefs, self._read(request))

    async def list_ref_moves(self, request: pb.ListRefMovesRequest) -> pb.ListRefMovesResponse:
        """See VersionsApi."""
        return await self._calls.unary(lambda way: way.versions.ListRefMoves, self._read(request))

    async def create_ref(self, request: pb.CreateRefRequest) -> pb.CreateRefResponse:
        """See VersionsApi."""
        return await self._calls.unary(lambda way: way.versions.CreateRef, request)

    async def delete_branch(self, request: pb.DeleteBranchRequest) -> pb.DeleteBranchResponse:
        """See VersionsApi."""
        return await self._calls.unary(lambda way: way.versions.DeleteBranch, request)

    async def move_channel(self, request: pb.MoveChannelRequest) -> pb.MoveChannelResponse:
        """See VersionsApi."""
        return await self._calls.unary(lambda way: way.versions.MoveChannel, request)

    async def rollback_channel(self, request: pb.RollbackChannelRequest) -> pb.RollbackChannelResponse:
        """See VersionsApi."""
        return await self._calls.unary(lambda way: way.versions.RollbackChannel, request)

    async def protect_channel(self, request: pb.ProtectChannelRequest) -> pb.ProtectChannelResponse:
        """See VersionsApi."""
        return await self._calls.unary(lambda way: way.versions.ProtectChannel, request)

    async def report_metrics(self, request: pb.ReportMetricsRequest) -> pb.ReportMetricsResponse:
        """See VersionsApi."""
        return await self._calls.unary(lambda way: way.versions.ReportMetrics, request)

    async def batch_report_metrics(
        self, request: pb.BatchReportMetricsRequest
    ) -> pb.BatchReportMetricsResponse:
        """See VersionsApi."""
        return await self._calls.unary(lambda way: way.versions.BatchReportMetrics, request)

    async def list_metric_reports(self, request: pb.ListMetricReportsRequest) -> pb.ListMetricReportsResponse:
        """See VersionsApi."""
        return await self._calls.unary(lambda way: way.versions.ListMetricReports, self._read(request))

    async def watch_events(self, request: pb.WatchEventsRequest) -> AsyncGenerator[pb.WatchEventsResponse]:
        """Follow what happens; a stream that is lost goes on where it was, on this or another node."""
        here = pb.WatchEventsRequest()
        here.CopyFrom(request)
        while True:
            call = await self._calls.run("WatchEvents", lambda way: self._open_watch(here, way))
            try:
                async for response in call.responses():
                    here.after_index = response.log_index
                    yield response
            finally:
                call.cancel()

    async def _open_watch(self, request: pb.WatchEventsRequest, way: Way) -> "_Watching":
        watching = _Watching(self._calls, way, request)
        await watching.begin()
        return watching


class _Watching:
    """One stream of events from one node, until it is lost."""

    def __init__(self, calls: Calls, way: Way, request: pb.WatchEventsRequest) -> None:
        self._calls = calls
        self._way = way
        # Without a deadline: the node says something every few seconds, and is given up when it does not.
        self._call = way.versions.WatchEvents(request, metadata=calls.metadata)
        self._first: pb.WatchEventsResponse | None = None

    async def begin(self) -> None:
        """Wait for the first response, which a node sends at once."""
        self._first = await self._next()

    async def responses(self) -> AsyncGenerator[pb.WatchEventsResponse]:
        """Yield until the stream is lost."""
        assert self._first is not None, "begun"
        yield self._first
        while True:
            try:
                response = await self._next()
            except TransientError:
                self._calls.nodes.failed(self._way)
                return
            yield response

    def cancel(self) -> None:
        """End the stream."""
        self._call.cancel()

    async def _next(self) -> pb.WatchEventsResponse:
        async with watched("WatchEvents", self._way):
            response = await self._call.read()
        if not isinstance(response, pb.WatchEventsResponse):
            raise TransientError(UnavailableError(self._way.address, "it ended the stream"))
        return response


class RemoteAdmin:
    """`mcr.connection.AdminApi` on a node."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def get_store_status(self, request: admin.GetStoreStatusRequest) -> admin.GetStoreStatusResponse:
        """See AdminApi."""
        return await self._calls.unary(lambda way: way.admin.GetStoreStatus, request)

    async def get_cluster_status(
        self, request: admin.GetClusterStatusRequest
    ) -> admin.GetClusterStatusResponse:
        """See AdminApi."""
        return await self._calls.unary(lambda way: way.admin.GetClusterStatus, request)

    async def remove_member(self, request: admin.RemoveMemberRequest) -> admin.RemoveMemberResponse:
        """See AdminApi."""
        return await self._calls.unary(lambda way: way.admin.RemoveMember, request, try_s=LONG_CALL_S)

    async def add_member(self, request: admin.AddMemberRequest) -> admin.AddMemberResponse:
        """See AdminApi."""
        return await self._calls.unary(lambda way: way.admin.AddMember, request)

    async def replace_member(self, request: admin.ReplaceMemberRequest) -> admin.ReplaceMemberResponse:
        """See AdminApi."""
        return await self._calls.unary(lambda way: way.admin.ReplaceMember, request, try_s=LONG_CALL_S)

    async def promote_member(self, request: admin.PromoteMemberRequest) -> admin.PromoteMemberResponse:
        """See AdminApi."""
        return await self._calls.unary(lambda way: way.admin.PromoteMember, request)

    async def transfer_leadership(
        self, request: admin.TransferLeadershipRequest
    ) -> admin.TransferLeadershipResponse:
        """See AdminApi."""
        return await self._calls.unary(lambda way: way.admin.TransferLeadership, request)

    async def list_workers(self, request: admin.ListWorkersRequest) -> admin.ListWorkersResponse:
        """See AdminApi."""
        return await self._calls.unary(lambda way: way.admin.ListWorkers, request)

    async def start_worker(self, request: admin.StartWorkerRequest) -> admin.StartWorkerResponse:
        """See AdminApi."""
        return await self._calls.unary(lambda way: way.admin.StartWorker, request)

    async def pause_worker(self, request: admin.PauseWorkerRequest) -> admin.PauseWorkerResponse:
        """See AdminApi."""
        return await self._calls.unary(lambda way: way.admin.PauseWorker, request)

    async def plan_repair(self, request: admin.PlanRepairRequest) -> admin.PlanRepairResponse:
        """See AdminApi."""
        return await self._calls.unary(lambda way: way.admin.PlanRepair, request, try_s=LONG_CALL_S)

    async def plan_collection(self, request: admin.PlanCollectionRequest) -> admin.PlanCollectionResponse:
        """See AdminApi."""
        return await self._calls.unary(lambda way: way.admin.PlanCollection, request, try_s=LONG_CALL_S)
