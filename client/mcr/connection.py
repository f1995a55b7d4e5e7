"""What a client needs of a node: records by message, bulk bytes by the chunk seam.

The embedded store implements it by calls in the same process, `mcr._remote` over the network. Requests and
responses are those of mcr.v1; refusals are raised as `mcr.errors`.
"""

from collections.abc import AsyncGenerator
from typing import Protocol

from mcr.durability import Durability
from mcr.transfer import ChunkTransport
from mcr.v1 import admin_pb2 as admin
from mcr.v1 import layout_pb2 as layout
from mcr.v1 import merges_pb2 as merges
from mcr.v1 import policies_pb2 as policies
from mcr.v1 import quotas_pb2 as quotas
from mcr.v1 import receipts_pb2 as receipts
from mcr.v1 import retention_pb2 as retention
from mcr.v1 import sessions_pb2 as sessions
from mcr.v1 import trash_pb2 as trash
from mcr.v1 import versions_pb2 as pb


class VersionsApi(Protocol):
    """mcr.v1.VersionsService, one method an rpc; see protos/mcr/v1/versions.proto."""

    async def commit_version(self, request: pb.CommitVersionRequest) -> pb.CommitVersionResponse:
        """Make one version from a stored manifest."""

    async def rollback_branch(self, request: pb.RollbackBranchRequest) -> pb.RollbackBranchResponse:
        """Make a version that restores an earlier one."""

    async def get_version(self, request: pb.GetVersionRequest) -> pb.GetVersionResponse:
        """Resolve a reference."""

    async def list_versions(self, request: pb.ListVersionsRequest) -> pb.ListVersionsResponse:
        """List versions, newest first."""

    async def find_versions(self, request: pb.FindVersionsRequest) -> pb.FindVersionsResponse:
        """Find versions that meet conditions."""

    async def get_lineage(self, request: pb.GetLineageRequest) -> pb.GetLineageResponse:
        """Return what a version was derived from, and what from it."""

    async def sign_version(self, request: pb.SignVersionRequest) -> pb.SignVersionResponse:
        """Keep a signature of a version."""

    async def list_models(self, request: pb.ListModelsRequest) -> pb.ListModelsResponse:
        """List models by name."""

    async def list_refs(self, request: pb.ListRefsRequest) -> pb.ListRefsResponse:
        """List refs of one kind."""

    async def list_ref_moves(self, request: pb.ListRefMovesRequest) -> pb.ListRefMovesResponse:
        """List the history of one ref."""

    async def create_ref(self, request: pb.CreateRefRequest) -> pb.CreateRefResponse:
        """Make a branch or tag."""

    async def delete_branch(self, request: pb.DeleteBranchRequest) -> pb.DeleteBranchResponse:
        """Delete a branch."""

    async def move_channel(self, request: pb.MoveChannelRequest) -> pb.MoveChannelResponse:
        """Point a channel at a version."""

    async def rollback_channel(self, request: pb.RollbackChannelRequest) -> pb.RollbackChannelResponse:
        """Move a channel back."""

    async def protect_channel(self, request: pb.ProtectChannelRequest) -> pb.ProtectChannelResponse:
        """Replace a channel's rules."""

    async def report_metrics(self, request: pb.ReportMetricsRequest) -> pb.ReportMetricsResponse:
        """Record metrics."""

    async def batch_report_metrics(
        self, request: pb.BatchReportMetricsRequest
    ) -> pb.BatchReportMetricsResponse:
        """Record many reports; each stands alone."""

    async def list_metric_reports(self, request: pb.ListMetricReportsRequest) -> pb.ListMetricReportsResponse:
        """List metric reports of a version."""

    def watch_events(self, request: pb.WatchEventsRequest) -> AsyncGenerator[pb.WatchEventsResponse]:
        """Follow what happens to refs and versions; ends only with an error, or when it is closed."""


class MergesApi(Protocol):
    """mcr.v1.MergesService; see protos/mcr/v1/merges.proto."""

    async def find_merge_base(self, request: merges.FindMergeBaseRequest) -> merges.FindMergeBaseResponse:
        """Find the version that two versions both come from."""

    async def commit_merge(self, request: merges.CommitMergeRequest) -> merges.CommitMergeResponse:
        """Make a version of two parents from a stored manifest."""

    async def open_merge(self, request: merges.OpenMergeRequest) -> merges.OpenMergeResponse:
        """Keep a merge that has conflicts."""

    async def resolve_conflicts(
        self, request: merges.ResolveConflictsRequest
    ) -> merges.ResolveConflictsResponse:
        """Decide conflicts of a merge that waits."""

    async def drop_merge(self, request: merges.DropMergeRequest) -> merges.DropMergeResponse:
        """Forget a merge that waits."""

    async def list_merges(self, request: merges.ListMergesRequest) -> merges.ListMergesResponse:
        """List the merges of a model that wait."""

    async def list_conflicts(self, request: merges.ListConflictsRequest) -> merges.ListConflictsResponse:
        """List the conflicts of a merge that waits."""

    async def get_merge_document(
        self, request: merges.GetMergeDocumentRequest
    ) -> merges.GetMergeDocumentResponse:
        """Return how a version was merged."""


class PoliciesApi(Protocol):
    """mcr.v1.PoliciesService; see protos/mcr/v1/policies.proto."""

    async def set_policy(self, request: policies.SetPolicyRequest) -> policies.SetPolicyResponse:
        """Set a policy."""

    async def delete_policy(self, request: policies.DeletePolicyRequest) -> policies.DeletePolicyResponse:
        """Delete a policy."""

    async def list_policies(self, request: policies.ListPoliciesRequest) -> policies.ListPoliciesResponse:
        """List policies."""

    async def explain_policy(self, request: policies.ExplainPolicyRequest) -> policies.ExplainPolicyResponse:
        """Say how a policy does."""

    async def freeze_channel(self, request: policies.FreezeChannelRequest) -> policies.FreezeChannelResponse:
        """Freeze a channel, or unfreeze it."""

    async def approve_move(self, request: policies.ApproveMoveRequest) -> policies.ApproveMoveResponse:
        """Approve a move, or drop it."""


class ReceiptsApi(Protocol):
    """mcr.v1.ReceiptsService; see protos/mcr/v1/receipts.proto."""

    async def acknowledge(self, request: receipts.AcknowledgeRequest) -> receipts.AcknowledgeResponse:
        """Note what a consumer has loaded."""

    async def list_served(self, request: receipts.ListServedRequest) -> receipts.ListServedResponse:
        """List what consumers have loaded."""

    async def list_receipts(self, request: receipts.ListReceiptsRequest) -> receipts.ListReceiptsResponse:
        """List the receipts of a consumer."""


class SessionsApi(Protocol):
    """mcr.v1.SessionsService; see protos/mcr/v1/sessions.proto."""

    async def begin_session(self, request: sessions.BeginSessionRequest) -> sessions.BeginSessionResponse:
        """Open a session, or join it."""

    async def put_part(self, request: sessions.PutPartRequest) -> sessions.PutPartResponse:
        """Add a part whose chunks are uploaded."""

    async def seal_session(self, request: sessions.SealSessionRequest) -> sessions.SealSessionResponse:
        """Make the version."""

    async def abort_session(self, request: sessions.AbortSessionRequest) -> sessions.AbortSessionResponse:
        """End a session without a version."""

    async def get_session(self, request: sessions.GetSessionRequest) -> sessions.GetSessionResponse:
        """Return one session."""

    async def list_sessions(self, request: sessions.ListSessionsRequest) -> sessions.ListSessionsResponse:
        """List the sessions of a model."""

    async def list_parts(self, request: sessions.ListPartsRequest) -> sessions.ListPartsResponse:
        """List the parts of a session."""


class AdminApi(Protocol):
    """mcr.v1.AdminService; see protos/mcr/v1/admin.proto."""

    async def get_store_status(self, request: admin.GetStoreStatusRequest) -> admin.GetStoreStatusResponse:
        """Return totals and health."""

    async def get_cluster_status(
        self, request: admin.GetClusterStatusRequest
    ) -> admin.GetClusterStatusResponse:
        """Return the members of the cluster and how they do."""

    async def add_member(self, request: admin.AddMemberRequest) -> admin.AddMemberResponse:
        """Take a node in, or keep its place until it is started."""

    async def replace_member(self, request: admin.ReplaceMemberRequest) -> admin.ReplaceMemberResponse:
        """Remove a node once another has taken its place."""

    async def remove_member(self, request: admin.RemoveMemberRequest) -> admin.RemoveMemberResponse:
        """Remove a node from the cluster."""

    async def promote_member(self, request: admin.PromoteMemberRequest) -> admin.PromoteMemberResponse:
        """Make a voter of a learner."""

    async def transfer_leadership(
        self, request: admin.TransferLeadershipRequest
    ) -> admin.TransferLeadershipResponse:
        """Let another voter lead."""

    async def list_workers(self, request: admin.ListWorkersRequest) -> admin.ListWorkersResponse:
        """Say how background work does."""

    async def start_worker(self, request: admin.StartWorkerRequest) -> admin.StartWorkerResponse:
        """Let background work run now."""

    async def pause_worker(self, request: admin.PauseWorkerRequest) -> admin.PauseWorkerResponse:
        """Let background work rest."""

    async def plan_repair(self, request: admin.PlanRepairRequest) -> admin.PlanRepairResponse:
        """Say what a repair would copy."""

    async def plan_collection(self, request: admin.PlanCollectionRequest) -> admin.PlanCollectionResponse:
        """Say what garbage collection would take."""


class LayoutApi(Protocol):
    """mcr.v1.LayoutService; see protos/mcr/v1/layout.proto."""

    async def drain_member(self, request: layout.DrainMemberRequest) -> layout.DrainMemberResponse:
        """Mark a member as leaving, or as staying."""

    async def get_drain(self, request: layout.GetDrainRequest) -> layout.GetDrainResponse:
        """Say how far a drain has come."""

    async def get_layout(self, request: layout.GetLayoutRequest) -> layout.GetLayoutResponse:
        """Return the members as placement knows them, and what is staged."""

    async def plan_layout(self, request: layout.PlanLayoutRequest) -> layout.PlanLayoutResponse:
        """Say what would move."""

    async def stage_layout(self, request: layout.StageLayoutRequest) -> layout.StageLayoutResponse:
        """Note what is to become of a member."""

    async def apply_layout(self, request: layout.ApplyLayoutRequest) -> layout.ApplyLayoutResponse:
        """Put what is staged into force."""


class RetentionApi(Protocol):
    """mcr.v1.RetentionService; see protos/mcr/v1/retention.proto."""

    async def set_retention(self, request: retention.SetRetentionRequest) -> retention.SetRetentionResponse:
        """Replace the rules of a branch."""

    async def list_retention(
        self, request: retention.ListRetentionRequest
    ) -> retention.ListRetentionResponse:
        """List the rules of a model."""

    async def plan_retention(
        self, request: retention.PlanRetentionRequest
    ) -> retention.PlanRetentionResponse:
        """Say what would go."""

    async def apply_retention(
        self, request: retention.ApplyRetentionRequest
    ) -> retention.ApplyRetentionResponse:
        """Put what goes into the trash."""


class TrashApi(Protocol):
    """mcr.v1.TrashService; see protos/mcr/v1/trash.proto."""

    async def delete_versions(self, request: trash.DeleteVersionsRequest) -> trash.DeleteVersionsResponse:
        """Put versions into the trash."""

    async def delete_name(self, request: trash.DeleteNameRequest) -> trash.DeleteNameResponse:
        """Delete a branch, tag or channel."""

    async def delete_model(self, request: trash.DeleteModelRequest) -> trash.DeleteModelResponse:
        """Put a model into the trash."""

    async def restore_versions(self, request: trash.RestoreVersionsRequest) -> trash.RestoreVersionsResponse:
        """Take versions or a model out of the trash."""

    async def empty_trash(self, request: trash.EmptyTrashRequest) -> trash.EmptyTrashResponse:
        """Give up what is in the trash."""

    async def list_trash(self, request: trash.ListTrashRequest) -> trash.ListTrashResponse:
        """List what is in the trash."""

    async def pin_version(self, request: trash.PinVersionRequest) -> trash.PinVersionResponse:
        """Keep a version from being deleted."""

    async def unpin_version(self, request: trash.UnpinVersionRequest) -> trash.UnpinVersionResponse:
        """Take a pin away."""

    async def list_pins(self, request: trash.ListPinsRequest) -> trash.ListPinsResponse:
        """List the pins of a model."""

    async def hold_upload(self, request: trash.HoldUploadRequest) -> trash.HoldUploadResponse:
        """Take or renew the lease of an upload."""

    async def release_upload(self, request: trash.ReleaseUploadRequest) -> trash.ReleaseUploadResponse:
        """Give the lease of an upload back."""


class QuotasApi(Protocol):
    """mcr.v1.QuotasService; see protos/mcr/v1/quotas.proto."""

    async def set_quota(self, request: quotas.SetQuotaRequest) -> quotas.SetQuotaResponse:
        """Set, change or clear a quota."""

    async def list_quotas(self, request: quotas.ListQuotasRequest) -> quotas.ListQuotasResponse:
        """List quotas by scope."""


class Connection(Protocol):
    """An open way to a node."""

    @property
    def location(self) -> str:
        """Where it leads: a path, or addresses."""

    @property
    def versions(self) -> VersionsApi:
        """Records and refs."""

    @property
    def trash(self) -> TrashApi:
        """What may go, and what must stay."""

    @property
    def retention(self) -> RetentionApi:
        """Which versions stay."""

    @property
    def merges(self) -> MergesApi:
        """Merges."""

    @property
    def policies(self) -> PoliciesApi:
        """What rolls back by itself."""

    @property
    def receipts(self) -> ReceiptsApi:
        """What is loaded where."""

    @property
    def sessions(self) -> SessionsApi:
        """Versions from many writers."""

    @property
    def admin(self) -> AdminApi:
        """Status."""

    @property
    def quotas(self) -> QuotasApi:
        """How many bytes versions may have."""

    @property
    def layout(self) -> LayoutApi:
        """Which members take chunks."""

    @property
    def chunks(self) -> ChunkTransport:
        """Bulk bytes."""

    def chunks_for(self, durability: Durability | None) -> ChunkTransport:
        """Bulk bytes of one commit that will be sealed so widely: they spread while they are put."""

    async def close(self) -> None:
        """Sync and release everything."""
