"""Retention rules and verdicts as messages of mcr.v1 and back."""

from mcr.retention_rules import BestRule, BranchRules, RetentionRules, Verdict
from mcr.v1 import retention_pb2 as pb


def rules_to_wire(rules: RetentionRules) -> pb.RetentionRules:
    """Return rules as a message."""
    return pb.RetentionRules(
        last=rules.last,
        best=[pb.BestRule(count=each.count, metric=each.metric, goal=each.goal) for each in rules.best],
        every=rules.every,
        age_min_ms=rules.age_min_ms,
        trash_ms=rules.trash_ms,
    )


def rules_from_wire(message: pb.RetentionRules) -> RetentionRules:
    """Read rules; whoever gets them checks them."""
    return RetentionRules(
        last=message.last,
        best=tuple(BestRule(each.count, each.metric, each.goal) for each in message.best),
        every=message.every,
        age_min_ms=message.age_min_ms,
        trash_ms=message.trash_ms,
    )


def branch_to_wire(branch: BranchRules) -> pb.BranchRules:
    """Return the rules of a branch as a message."""
    return pb.BranchRules(
        branch=branch.branch,
        rules=rules_to_wire(branch.rules),
        generation=branch.generation,
        actor=branch.actor,
        at_ms=branch.at_ms,
    )


def branch_from_wire(message: pb.BranchRules) -> BranchRules:
    """Read the rules of a branch."""
    return BranchRules(
        message.branch, rules_from_wire(message.rules), message.generation, message.actor, message.at_ms
    )


def verdict_to_wire(verdict: Verdict) -> pb.RetentionVerdict:
    """Return a verdict as a message."""
    return pb.RetentionVerdict(
        number=verdict.number, branch=verdict.branch, goes=verdict.goes, reasons=verdict.reasons
    )


def verdict_from_wire(message: pb.RetentionVerdict) -> Verdict:
    """Read a verdict."""
    return Verdict(message.number, message.branch, message.goes, tuple(message.reasons))
