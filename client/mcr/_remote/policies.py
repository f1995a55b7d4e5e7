"""`mcr.connection.PoliciesApi` on the nodes of a cluster."""

from mcr._remote.calls import Calls
from mcr.v1 import policies_pb2 as pb


class RemotePolicies:
    """What rolls back by itself."""

    def __init__(self, calls: Calls, *, stale_ok: bool) -> None:
        self._calls = calls
        self._stale_ok = stale_ok

    async def set_policy(self, request: pb.SetPolicyRequest) -> pb.SetPolicyResponse:
        """See PoliciesApi."""
        return await self._calls.unary(lambda way: way.policies.SetPolicy, request)

    async def delete_policy(self, request: pb.DeletePolicyRequest) -> pb.DeletePolicyResponse:
        """See PoliciesApi."""
        return await self._calls.unary(lambda way: way.policies.DeletePolicy, request)

    async def list_policies(self, request: pb.ListPoliciesRequest) -> pb.ListPoliciesResponse:
        """See PoliciesApi."""
        if self._stale_ok:
            request.read.stale_ok = True
        return await self._calls.unary(lambda way: way.policies.ListPolicies, request)

    async def explain_policy(self, request: pb.ExplainPolicyRequest) -> pb.ExplainPolicyResponse:
        """See PoliciesApi."""
        if self._stale_ok:
            request.read.stale_ok = True
        return await self._calls.unary(lambda way: way.policies.ExplainPolicy, request)

    async def freeze_channel(self, request: pb.FreezeChannelRequest) -> pb.FreezeChannelResponse:
        """See PoliciesApi."""
        return await self._calls.unary(lambda way: way.policies.FreezeChannel, request)

    async def approve_move(self, request: pb.ApproveMoveRequest) -> pb.ApproveMoveResponse:
        """See PoliciesApi."""
        return await self._calls.unary(lambda way: way.policies.ApproveMove, request)
