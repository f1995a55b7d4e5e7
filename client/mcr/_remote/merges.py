"""`mcr.connection.MergesApi` on the nodes of a cluster."""

from typing import TypeVar

from mcr._remote.calls import LONG_CALL_S, Calls
from mcr.v1 import merges_pb2 as pb

Read = TypeVar(
    "Read",
    pb.FindMergeBaseRequest,
    pb.ListMergesRequest,
    pb.ListConflictsRequest,
    pb.GetMergeDocumentRequest,
)


class RemoteMerges:
    """Merges, and those that wait."""

    def __init__(self, calls: Calls, *, stale_ok: bool) -> None:
        self._calls = calls
        self._stale_ok = stale_ok

    def _read(self, request: Read) -> Read:
        if self._stale_ok:
            request.read.stale_ok = True
        return request

    async def find_merge_base(self, request: pb.FindMergeBaseRequest) -> pb.FindMergeBaseResponse:
        """See MergesApi."""
        return await self._calls.unary(lambda way: way.merges.FindMergeBase, self._read(request))

    async def commit_merge(self, request: pb.CommitMergeRequest) -> pb.CommitMergeResponse:
        """See MergesApi."""
        return await self._calls.unary(lambda way: way.merges.CommitMerge, request, try_s=LONG_CALL_S)

    async def open_merge(self, request: pb.OpenMergeRequest) -> pb.OpenMergeResponse:
        """See MergesApi."""
        return await self._calls.unary(lambda way: way.merges.OpenMerge, request)

    async def resolve_conflicts(self, request: pb.ResolveConflictsRequest) -> pb.ResolveConflictsResponse:
        """See MergesApi."""
        return await self._calls.unary(lambda way: way.merges.ResolveConflicts, request)

    async def drop_merge(self, request: pb.DropMergeRequest) -> pb.DropMergeResponse:
        """See MergesApi."""
        return await self._calls.unary(lambda way: way.merges.DropMerge, request)

    async def list_merges(self, request: pb.ListMergesRequest) -> pb.ListMergesResponse:
        """See MergesApi."""
        return await self._calls.unary(lambda way: way.merges.ListMerges, self._read(request))

    async def list_conflicts(self, request: pb.ListConflictsRequest) -> pb.ListConflictsResponse:
        """See MergesApi."""
        return await self._calls.unary(lambda way: way.merges.ListConflicts, self._read(request))

    async def get_merge_document(self, request: pb.GetMergeDocumentRequest) -> pb.GetMergeDocumentResponse:
        """See MergesApi."""
        return await self._calls.unary(lambda way: way.merges.GetMergeDocument, self._read(request))
