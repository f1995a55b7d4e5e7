"""Retention, as a client asks for it: a part of `AsyncModel`."""

from collections.abc import Mapping

from mcr import _wire_retention as wire
from mcr.reading import PAGE_MAX, ModelReader
from mcr.references import check_name
from mcr.reporting import write_header
from mcr.retention_rules import BranchRules, RetentionRules, Verdict, check_rules
from mcr.v1 import retention_pb2 as pb


class RetentionCalls(ModelReader):
    """The methods of `AsyncModel` about which versions stay."""

    async def set_retention(self, rules: RetentionRules | None, *, branch: str = "") -> None:
        """Set which versions of a branch stay; from time to time the others are put into the trash.

        Whatever the rules say, a version stays that a name points at, that a channel may go back to, that a
        consumer has loaded, or that is pinned.

        Args:
            rules: None = none from now on.
            branch: "" = all branches that have no rules of their own.

        Raises:
            InvalidArgumentError: the rules make no sense.
            ModelNotFoundError: there is no such model.
        """
        if branch:
            check_name("branch", branch)
        request = pb.SetRetentionRequest(header=write_header(None), model=self.name, branch=branch)
        if rules is not None:
            check_rules(rules)
            request.rules.CopyFrom(wire.rules_to_wire(rules))
        await self._connection.retention.set_retention(request)

    async def retention(self) -> list[BranchRules]:
        """List the rules by branch, those for all others first."""
        answer = await self._connection.retention.list_retention(pb.ListRetentionRequest(model=self.name))
        return [wire.branch_from_wire(branch) for branch in answer.branches]

    async def plan_retention(self, *, instead: Mapping[str, RetentionRules] | None = None) -> list[Verdict]:
        """Say of each version that is there whether it would go, and why; newest first. Nothing changes.

        Args:
            instead: as if these rules were set, by branch; other branches keep theirs.
        """
        found: list[Verdict] = []
        request = pb.PlanRetentionRequest(model=self.name, limit=PAGE_MAX)
        for branch, rules in (instead or {}).items():
            check_rules(rules)
            request.instead.append(pb.BranchRules(branch=branch, rules=wire.rules_to_wire(rules)))
        while True:
            answer = await self._connection.retention.plan_retention(request)
            found += [wire.verdict_from_wire(verdict) for verdict in answer.verdicts]
            if not answer.next_before:
                return found
            request.before = answer.next_before

    async def apply_retention(self) -> list[int]:
        """Put what goes by the rules into the trash now; return the numbers of what went.

        Otherwise the node that leads does so from time to time; an embedded store never does by itself.
        """
        answer = await self._connection.retention.apply_retention(
            pb.ApplyRetentionRequest(header=write_header(None), model=self.name)
        )
        return list(answer.numbers)
