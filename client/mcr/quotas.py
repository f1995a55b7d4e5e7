"""How many bytes versions may have, as a client sees and sets it: a part of `AsyncClient`."""

from mcr.arrangement import Quota
from mcr.connection import Connection
from mcr.reporting import write_header
from mcr.v1 import quotas_pb2 as pb

PAGE_MAX = 1000


class QuotaCalls:
    """The methods of `AsyncClient` about quotas; it brings the connection."""

    _connection: Connection

    async def set_quota(
        self, scope: str, bytes_max: int | None, *, request_id: str | None = None
    ) -> Quota | None:
        """Bound the bytes of the versions of a model, or of all models of a namespace.

        The size of the files of each version counts, whatever is shared or compressed; rollbacks count
        nothing, and what is deleted counts until it is given up for good. A quota below what is used refuses
        what comes, and takes nothing away.

        Args:
            scope: `namespace/name`, or `namespace`.
            bytes_max: None = there is no bound any more.
            request_id: 1 to 64 bytes of text; made up by default.

        Returns:
            The quota, or None when there is none any more.
        """
        request = pb.SetQuotaRequest(header=write_header(request_id), scope=scope)
        if bytes_max is not None:
            request.bytes_max = bytes_max
        answer = await self._connection.quotas.set_quota(request)
        return _quota(answer.quota) if answer.HasField("quota") else None

    async def quotas(self, scope: str = "") -> list[Quota]:
        """List quotas by scope: of one model or namespace, or all of them."""
        found: list[Quota] = []
        while True:
            after = found[-1].scope if found else ""
            request = pb.ListQuotasRequest(scope=scope, after=after, limit=PAGE_MAX)
            answer = await self._connection.quotas.list_quotas(request)
            found += map(_quota, answer.quotas)
            if scope or len(answer.quotas) < PAGE_MAX:
                return found


def _quota(quota: pb.Quota) -> Quota:
    return Quota(
        quota.scope, quota.bytes_max, quota.bytes_used, quota.counting, quota.set_by, quota.set_at_ms
    )
