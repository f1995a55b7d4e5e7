"""mcr.v1.QuotasService: how many bytes versions may have. Decisions are made in core/state."""

import secrets
from itertools import islice

from mcr.errors import InvalidArgumentError
from mcr.model import RequestId
from mcr.v1 import quotas_pb2 as pb
from mcr.v1 import versions_pb2
from mcr_node.core.state import space_keys
from mcr_node.core.state.outcomes import CountResult
from mcr_node.core.state.queries import PAGE_MAX
from mcr_node.core.state.space_apply import check_scope
from mcr_node.core.state.space_commands import CountQuota, SetQuota
from mcr_node.core.state.space_records import QuotaRow
from mcr_node.core.state.view import View
from mcr_node.services.log_calls import LogCalls

# A quota over more versions than these count at once is counted on by the commits in its scope.
COUNTS_MAX = 1000
_REQUEST_ID_BYTES = 16


class QuotasService(LogCalls):
    """The service for one principal, as authenticated at the edge."""

    async def set_quota(self, request: pb.SetQuotaRequest) -> pb.SetQuotaResponse:
        """Set a quota, and see to it that what is there is counted."""
        bytes_max = request.bytes_max if request.HasField("bytes_max") else None
        accepted = await self._propose(
            SetQuota(**self._envelope(request.header), scope=request.scope, bytes_max=bytes_max)
        )
        found = accepted.result
        for _ in range(COUNTS_MAX):
            assert isinstance(found, CountResult)
            if not found.more:
                break
            envelope = self._envelope(versions_pb2.WriteHeader(request_id=_request_id()))
            found = (await self._propose(CountQuota(**envelope, scope=request.scope))).result
        quotas = await self._read(lambda view: _quotas(view, request.scope, "", 1))
        return pb.SetQuotaResponse(log_index=accepted.index, quota=quotas[0] if quotas else None)

    async def list_quotas(self, request: pb.ListQuotasRequest) -> pb.ListQuotasResponse:
        """List quotas."""
        if not 0 < request.limit <= PAGE_MAX:
            raise InvalidArgumentError("limit", f"{request.limit} is not between 1 and {PAGE_MAX}")
        if request.scope:
            check_scope(request.scope)
        index = await self._fresh(request.read)
        found = await self._read(lambda view: _quotas(view, request.scope, request.after, request.limit))
        return pb.ListQuotasResponse(quotas=found, log_index=index)


def _request_id() -> RequestId:
    return RequestId(secrets.token_bytes(_REQUEST_ID_BYTES))


def _quotas(view: View, scope: str, after: str, limit: int) -> list[pb.Quota]:
    if scope:
        data = view.get(space_keys.quota(scope))
        return [] if data is None else [_to_wire(scope, QuotaRow.unpack(data))]
    rows = islice(view.scan(*space_keys.quotas_after(after)), limit)
    return [_to_wire(space_keys.scope_in(key), QuotaRow.unpack(value)) for key, value in rows]


def _to_wire(scope: str, row: QuotaRow) -> pb.Quota:
    return pb.Quota(
        scope=scope,
        bytes_max=row.bytes_max,
        bytes_used=row.bytes_used,
        counting=row.is_counting,
        set_by=row.set_by,
        set_at_ms=row.set_at_ms,
    )
