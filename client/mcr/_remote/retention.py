"""`mcr.connection.RetentionApi` on the nodes of a cluster."""

from mcr._remote.calls import LONG_CALL_S, Calls
from mcr.v1 import retention_pb2 as pb


class RemoteRetention:
    """Which versions stay."""

    def __init__(self, calls: Calls, *, stale_ok: bool) -> None:
        self._calls = calls
        self._stale_ok = stale_ok

    async def set_retention(self, request: pb.SetRetentionRequest) -> pb.SetRetentionResponse:
        """See RetentionApi."""
        return await self._calls.unary(lambda way: way.retention.SetRetention, request)

    async def list_retention(self, request: pb.ListRetentionRequest) -> pb.ListRetentionResponse:
        """See RetentionApi."""
        if self._stale_ok:
            request.read.stale_ok = True
        return await self._calls.unary(lambda way: way.retention.ListRetention, request)

    async def plan_retention(self, request: pb.PlanRetentionRequest) -> pb.PlanRetentionResponse:
        """See RetentionApi."""
        if self._stale_ok:
            request.read.stale_ok = True
        return await self._calls.unary(lambda way: way.retention.PlanRetention, request, try_s=LONG_CALL_S)

    async def apply_retention(self, request: pb.ApplyRetentionRequest) -> pb.ApplyRetentionResponse:
        """See RetentionApi."""
        return await self._calls.unary(lambda way: way.retention.ApplyRetention, request, try_s=LONG_CALL_S)
