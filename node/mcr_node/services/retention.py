"""mcr.v1.RetentionService: which versions stay. Decisions are made in core/state."""

from contextlib import aclosing

from mcr import _wire_retention as wire
from mcr.errors import InvalidArgumentError
from mcr.references import check_model
from mcr.retention_rules import check_rules
from mcr.v1 import retention_pb2 as pb
from mcr.v1 import versions_pb2 as versions
from mcr_node.core.state import retention
from mcr_node.core.state.queries import PAGE_MAX
from mcr_node.core.state.retention_commands import SetRetention
from mcr_node.services import retiring
from mcr_node.services.log_calls import LogCalls


class RetentionService(LogCalls):
    """The service for one principal, as authenticated at the edge."""

    async def set_retention(self, request: pb.SetRetentionRequest) -> pb.SetRetentionResponse:
        """Replace the rules of a branch."""
        envelope = self._envelope(request.header)
        if not request.HasField("rules"):
            command = SetRetention(**envelope, model=request.model, branch=request.branch, is_none=True)
        else:
            rules = wire.rules_from_wire(request.rules)
            command = SetRetention(
                **envelope,
                model=request.model,
                branch=request.branch,
                last=rules.last,
                best=tuple((each.count, each.metric, each.goal) for each in rules.best),
                every=rules.every,
                age_min_ms=rules.age_min_ms,
                trash_ms=rules.trash_ms,
            )
        accepted = await self._propose(command)
        branches = await self._read(lambda view: retention.rules_of_model(view, request.model))
        generation = next((each.generation for each in branches if each.branch == request.branch), 0)
        return pb.SetRetentionResponse(generation=generation, log_index=accepted.index)

    async def list_retention(self, request: pb.ListRetentionRequest) -> pb.ListRetentionResponse:
        """List the rules of a model."""
        model = check_model(request.model)
        index = await self._fresh(request.read)
        found = await self._read(lambda view: retention.rules_of_model(view, model))
        return pb.ListRetentionResponse(branches=map(wire.branch_to_wire, found), log_index=index)

    async def plan_retention(self, request: pb.PlanRetentionRequest) -> pb.PlanRetentionResponse:
        """Say what would go."""
        model, limit = check_model(request.model), request.limit
        if not 0 < limit <= PAGE_MAX:
            raise InvalidArgumentError("limit", f"{limit} is not between 1 and {PAGE_MAX}")
        index = await self._fresh(request.read)
        branches = await self._read(lambda view: retention.rules_of_model(view, model))
        rules = {each.branch: each.rules for each in branches}
        for each in request.instead:
            rules[each.branch] = wire.rules_from_wire(each.rules)
            check_rules(rules[each.branch])
        response = pb.PlanRetentionResponse(log_index=index)
        async with aclosing(retiring.verdicts(self._log, model, rules)) as pages:
            async for page in pages:
                for verdict in page:
                    if request.before and verdict.number >= request.before:
                        continue
                    if len(response.verdicts) == limit:
                        response.next_before = response.verdicts[-1].number
                        return response
                    response.verdicts.append(wire.verdict_to_wire(verdict))
        return response

    async def apply_retention(self, request: pb.ApplyRetentionRequest) -> pb.ApplyRetentionResponse:
        """Put what goes into the trash."""
        model = check_model(request.model)
        # What was written before this call counts, on whichever node it comes in.
        await self._fresh(versions.ReadOptions())
        retired = await retiring.retire(self._log, model, self._principal)
        return pb.ApplyRetentionResponse(numbers=retired.numbers, log_index=retired.index)
