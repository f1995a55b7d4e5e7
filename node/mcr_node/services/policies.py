"""mcr.v1.PoliciesService: rollback policies, freezes, approvals. Decisions are made in core/state."""

from mcr import _wire
from mcr import _wire_policies as wire
from mcr.references import check_model, check_name
from mcr.v1 import policies_pb2 as pb
from mcr_node.core.state import explaining
from mcr_node.core.state.commands import ApproveMove, DeletePolicy, FreezeChannel, SetPolicy
from mcr_node.core.state.outcomes import Accepted, RefResult
from mcr_node.ports_log import ReplicatedLog
from mcr_node.services.availability import Availability
from mcr_node.services.log_calls import LogCalls


class PoliciesService(LogCalls):
    """The service for one principal, as authenticated at the edge."""

    def __init__(self, log: ReplicatedLog, availability: Availability, principal: str) -> None:
        super().__init__(log, principal)
        self._availability = availability

    async def set_policy(self, request: pb.SetPolicyRequest) -> pb.SetPolicyResponse:
        """Set a policy."""
        accepted = await self._propose(
            SetPolicy(
                **self._envelope(request.header),
                model=request.model,
                name=request.name,
                rules=_wire.mapping_from_wire(request.rules),
            )
        )
        return pb.SetPolicyResponse(log_index=accepted.index)

    async def delete_policy(self, request: pb.DeletePolicyRequest) -> pb.DeletePolicyResponse:
        """Delete a policy."""
        accepted = await self._propose(
            DeletePolicy(**self._envelope(request.header), model=request.model, name=request.name)
        )
        return pb.DeletePolicyResponse(log_index=accepted.index)

    async def list_policies(self, request: pb.ListPoliciesRequest) -> pb.ListPoliciesResponse:
        """List policies by name."""
        model = check_model(request.model)
        index = await self._fresh(request.read)
        found = await self._read(lambda view: explaining.policies(view, model))
        return pb.ListPoliciesResponse(
            policies=[wire.policy_to_wire(policy) for policy in found], log_index=index
        )

    async def explain_policy(self, request: pb.ExplainPolicyRequest) -> pb.ExplainPolicyResponse:
        """Say how a policy does."""
        model, name = check_model(request.model), check_name("policy", request.name)
        index = await self._fresh(request.read)
        now_ms = self._log.clock.now_ms()
        state = await self._read(
            lambda view: explaining.explain(view, model, name, at_ms=now_ms, limit=request.decisions_max)
        )
        response = wire.state_to_wire(state)
        response.log_index = index
        return response

    async def freeze_channel(self, request: pb.FreezeChannelRequest) -> pb.FreezeChannelResponse:
        """Freeze a channel, or unfreeze it."""
        accepted = await self._propose(
            FreezeChannel(
                **self._envelope(request.header),
                model=request.model,
                channel=request.channel,
                level=request.level,
                reason=request.reason,
            )
        )
        result = _result(accepted)
        return pb.FreezeChannelResponse(ref=_wire.ref_to_wire(result.ref), log_index=accepted.index)

    async def approve_move(self, request: pb.ApproveMoveRequest) -> pb.ApproveMoveResponse:
        """Approve a move, or drop it."""
        available = (
            ()
            if request.withdraw
            else await self._availability.of_pending(check_model(request.model), request.channel)
        )
        accepted = await self._propose(
            ApproveMove(
                **self._envelope(request.header),
                model=request.model,
                channel=request.channel,
                request=request.request,
                available=available,
                withdraw=request.withdraw,
            )
        )
        result = _result(accepted)
        return pb.ApproveMoveResponse(ref=_wire.ref_to_wire(result.ref), log_index=accepted.index)


def _result(accepted: Accepted) -> RefResult:
    assert isinstance(accepted.result, RefResult)
    return accepted.result
