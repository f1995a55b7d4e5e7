"""`mcr.connection.ReceiptsApi` on the nodes of a cluster."""

from mcr._remote.calls import Calls
from mcr.v1 import receipts_pb2 as pb


class RemoteReceipts:
    """What is loaded where."""

    def __init__(self, calls: Calls, *, stale_ok: bool) -> None:
        self._calls = calls
        self._stale_ok = stale_ok

    async def acknowledge(self, request: pb.AcknowledgeRequest) -> pb.AcknowledgeResponse:
        """See ReceiptsApi."""
        return await self._calls.unary(lambda way: way.receipts.Acknowledge, request)

    async def list_served(self, request: pb.ListServedRequest) -> pb.ListServedResponse:
        """See ReceiptsApi."""
        if self._stale_ok:
            request.read.stale_ok = True
        return await self._calls.unary(lambda way: way.receipts.ListServed, request)

    async def list_receipts(self, request: pb.ListReceiptsRequest) -> pb.ListReceiptsResponse:
        """See ReceiptsApi."""
        if self._stale_ok:
            request.read.stale_ok = True
        return await self._calls.unary(lambda way: way.receipts.ListReceipts, request)
