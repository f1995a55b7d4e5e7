"""`mcr.connection.QuotasApi` on the nodes of a cluster."""

from typing import TYPE_CHECKING

from mcr._remote.calls import Calls
from mcr._remote.nodes import Way, stub
from mcr.v1 import quotas_pb2 as pb
from mcr.v1.quotas_pb2_grpc import QuotasServiceStub

if TYPE_CHECKING:
    from mcr.v1.quotas_pb2_grpc import QuotasServiceAsyncStub

# Of one try: what there was before a quota is set is counted meanwhile.
SET_S = 120.0


def _stub(way: Way) -> "QuotasServiceAsyncStub":
    found: QuotasServiceAsyncStub = stub(QuotasServiceStub, way.channel)
    return found


class RemoteQuotas:
    """How many bytes versions may have."""

    def __init__(self, calls: Calls, *, stale_ok: bool) -> None:
        self._calls = calls
        self._stale_ok = stale_ok

    async def set_quota(self, request: pb.SetQuotaRequest) -> pb.SetQuotaResponse:
        """See QuotasApi."""
        return await self._calls.unary(lambda way: _stub(way).SetQuota, request, try_s=SET_S)

    async def list_quotas(self, request: pb.ListQuotasRequest) -> pb.ListQuotasResponse:
        """See QuotasApi."""
        if self._stale_ok:
            request.read.stale_ok = True
        return await self._calls.unary(lambda way: _stub(way).ListQuotas, request)
