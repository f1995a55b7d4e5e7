"""Policies: how they are set and deleted.

Setting a policy begins its watch anew, but for its rollbacks of late, or limits a day could be got round.
Deleting it forgets what it decided; what it moved keeps its evidence in the history of the ref.
"""

from collections.abc import Mapping

from mcr.errors import InvalidArgumentError
from mcr.model import RefKind
from mcr.policy_rules import PolicyRules, parse_rules
from mcr.references import check_name
from mcr_node.core.state import keys, lookup, policy_keys, protection
from mcr_node.core.state.commands import DeletePolicy, SetPolicy
from mcr_node.core.state.keys import RefName
from mcr_node.core.state.outcomes import PolicyResult
from mcr_node.core.state.policy_rows import MARK, PoliciesRow, PolicyRow, WatchRow
from mcr_node.core.state.records import RefRow, read
from mcr_node.core.state.step import Step

# Each can watch every report of a model, so this bounds what a report costs.
POLICIES_MAX = 32


def check(command: SetPolicy | DeletePolicy) -> None:
    """Check what needs no state.

    Raises:
        InvalidArgumentError, InvalidNameError: says what is wrong.
    """
    match command:
        case SetPolicy():
            check_name("policy", command.name)
            parse_rules(command.rules)
        case DeletePolicy():
            check_name("policy", command.name)


def set_policy(step: Step, command: SetPolicy) -> PolicyResult:
    """Set a policy.

    Raises:
        ModelNotFoundError, ReferenceNotFoundError: no such model, or no such tag.
        InvalidArgumentError: the model would have too many policies.
        ProtectedError: whoever sets it may not move the channel, so no policy of theirs may.
    """
    overlay, model, name = step.overlay, command.model, command.name
    lookup.model_row(overlay, model)
    rules = parse_rules(command.rules)
    of = RefName(model, rules.kind, rules.ref)
    ref = read(overlay, keys.ref(of), RefRow)
    if ref is not None:
        protection.check_actor(ref.protection, of, step.principal)
    if rules.never_past:
        # A tag never moves and is never deleted, so this holds for as long as the policy does.
        lookup.ref_row(overlay, RefName(model, RefKind.TAG, rules.never_past))
    before = read(overlay, policy_keys.policy(model, name), PolicyRow)
    if before is not None:
        _check_author(step, model, before)
    _list(step, model, name, None if before is None else parse_rules(before.rules), rules)
    row = PolicyRow(
        rules=command.rules,
        revision=1 if before is None else before.revision + 1,
        set_by=step.principal,
        set_at_ms=step.at_ms,
    )
    overlay.put(policy_keys.policy(model, name), row.pack())
    watch = read(overlay, policy_keys.watch(model, name), WatchRow) or WatchRow()
    overlay.put(policy_keys.watch(model, name), WatchRow(rollbacks_at_ms=watch.rollbacks_at_ms).pack())
    overlay.delete(policy_keys.due(model, name))
    _mark(step, policy_keys.missing(model, name), is_there=bool(rules.missing_ms))
    return PolicyResult(name, "")


def _check_author(step: Step, model: str, before: PolicyRow) -> None:
    """Check that somebody may change a policy: whoever may move what it guards."""
    rules = parse_rules(before.rules)
    of = RefName(model, rules.kind, rules.ref)
    ref = read(step.overlay, keys.ref(of), RefRow)
    if ref is not None and before.set_by != step.principal:
        protection.check_actor(ref.protection, of, step.principal)


def _mark(step: Step, key: bytes, *, is_there: bool) -> None:
    if is_there:
        step.overlay.put(key, MARK)
    else:
        step.overlay.delete(key)


def _list(step: Step, model: str, name: str, before: PolicyRules | None, after: PolicyRules | None) -> None:
    """Keep the list of policies by metric."""
    key = policy_keys.totals(model)
    row = read(step.overlay, key, PoliciesRow) or PoliciesRow()
    count = row.count - (before is not None) + (after is not None)
    if after is not None and count > POLICIES_MAX:
        raise InvalidArgumentError("policy", f"{model} would have {count} policies, at most {POLICIES_MAX}")
    by_metric: dict[str, list[str]] = {metric: list(names) for metric, names in row.by_metric.items()}
    if before is not None:
        by_metric[before.metric].remove(name)
    if after is not None:
        by_metric[after.metric] = sorted([*by_metric.get(after.metric, ()), name])
    if not count:
        step.overlay.delete(key)
        return
    listed: Mapping[str, list[str]] = {
        metric: by_metric[metric] for metric in sorted(by_metric) if by_metric[metric]
    }
    step.overlay.put(key, PoliciesRow(count=count, by_metric=listed).pack())


def delete_policy(step: Step, command: DeletePolicy) -> PolicyResult:
    """Delete a policy, and what it saw and decided.

    Raises:
        ModelNotFoundError, ReferenceNotFoundError: there is none.
        ProtectedError: whoever asks may not move what it guards.
    """
    overlay, model, name = step.overlay, command.model, command.name
    before = read(overlay, policy_keys.policy(model, name), PolicyRow)
    if before is None:
        raise lookup.no_policy(overlay, model, name)
    _check_author(step, model, before)
    _list(step, model, name, parse_rules(before.rules), None)
    for key, _ in list(overlay.scan(*policy_keys.decisions(model, name))):
        overlay.delete(key)
    for key in (
        policy_keys.policy(model, name),
        policy_keys.watch(model, name),
        policy_keys.due(model, name),
        policy_keys.missing(model, name),
    ):
        overlay.delete(key)
    return PolicyResult(name, "")
