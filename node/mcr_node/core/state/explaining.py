"""Pure reads of policies: which there are, what they decided, and why they do what they do, or nothing."""

from itertools import islice

from mcr.model import LogIndex
from mcr.policy import Policy, PolicyDecision, PolicyState
from mcr.policy_rules import parse_rules
from mcr.spans import span_text
from mcr_node.core.state import deciding, judging, keys, lookup, policy_keys, watching
from mcr_node.core.state.deciding import Watched
from mcr_node.core.state.policy_rows import DecisionRow, PolicyRow, WatchRow
from mcr_node.core.state.records import read
from mcr_node.core.state.view import View


def policies(view: View, model: str) -> list[Policy]:
    """Return the policies of a model by name; there are at most `policies.POLICIES_MAX`.

    Raises:
        ModelNotFoundError: there is no such model.
    """
    lookup.model_row(view, model)
    return [
        _policy(model, policy_keys.policy_in(key)[1], PolicyRow.unpack(value))
        for key, value in view.scan(*policy_keys.policies_after(model, ""))
    ]


def _policy(model: str, name: str, row: PolicyRow) -> Policy:
    return Policy(model, name, row.rules, row.revision, row.set_by, row.set_at_ms)


def explain(
    view: View, model: str, name: str, *, at_ms: int, limit: int = deciding.DECISIONS_MAX
) -> PolicyState:
    """Return how a policy does.

    Args:
        view: the state.
        model: the model.
        name: of the policy.
        at_ms: the present, for what only time decides.
        limit: so many decisions at most.

    Raises:
        ModelNotFoundError, ReferenceNotFoundError: there is none.
    """
    row = read(view, policy_keys.policy(model, name), PolicyRow)
    if row is None:
        raise lookup.no_policy(view, model, name)
    rules = parse_rules(row.rules)
    watched = watching.at_work(view, model, name)
    seen = read(view, policy_keys.watch(model, name), WatchRow) or WatchRow()
    rows = islice(view.scan(*policy_keys.decisions(model, name), reverse=True), max(0, limit))
    decisions = tuple(_decision(keys.number_in(key), DecisionRow.unpack(value)) for key, value in rows)
    watch, why = seen, [f"{rules.kind}:{rules.ref} does not exist yet, so there is nothing to watch"]
    if watched is not None:
        watch = watching.pruned(rules, watching.begun(seen, watched.ref), at_ms)
        why = _why(view, watched, watch, decisions, at_ms)
    if seen.ignored_count:
        count = "1 report" if seen.ignored_count == 1 else f"{seen.ignored_count} reports"
        why.append(f"{count} did not count; the last because {seen.ignored}")
    return PolicyState(
        policy=_policy(model, name, row),
        kind=rules.kind,
        ref=rules.ref,
        generation=0 if watched is None else watched.ref.generation,
        number=0 if watched is None else watched.ref.number,
        sample_count=0 if watched is None else watch.sample_count,
        bad_count=0 if watched is None else len(watch.bad),
        streak=0 if watched is None else watch.streak,
        why=tuple(why),
        decisions=decisions,
    )


def _decision(index: int, row: DecisionRow) -> PolicyDecision:
    return PolicyDecision(
        outcome=row.outcome,
        generation=row.generation,
        number=row.number,
        new_generation=row.new_generation,
        target_number=row.target_number,
        reason=row.reason,
        evidence=row.evidence,
        at_ms=row.at_ms,
        log_index=LogIndex(index),
    )


def _why(
    view: View, watched: Watched, watch: WatchRow, decisions: tuple[PolicyDecision, ...], at_ms: int
) -> list[str]:
    rules, of, ref = watched.rules, watched.of, watched.ref
    said = [f"{of} is at v{ref.number} (generation {ref.generation})"]
    if decisions and decisions[0].new_generation == ref.generation != decisions[0].generation:
        said.append(f"it rolled back from v{decisions[0].number}: {decisions[0].reason}")
    if watch.decided:
        said.append(
            "it decided for this generation already, and decides once" + " (a dry run)" * rules.dry_run
        )
        return said
    if rules.judges_reports:
        said += _counted(watched, watch)
    if rules.missing_ms:
        silent_ms = max(0, at_ms - watching.missing_since_ms(watched, watch))
        what = f"report of {rules.metric}" if rules.metric else "report"
        said.append(f"no {what} for {span_text(silent_ms)}; it waits {span_text(rules.missing_ms)}")
    planned = deciding.plan(view, watched, watch, at_ms)
    if planned.hold:
        said.append(f"if its limit is reached, it is held back: {planned.why}")
    elif rules.dry_run:
        said.append(f"a dry run: if its limit is reached, it says that it would go back to v{planned.number}")
    else:
        said.append(f"if its limit is reached, it goes back to v{planned.number}")
    return said


def _counted(watched: Watched, watch: WatchRow) -> list[str]:
    """Return how far a policy is from its limit."""
    rules = watched.rules
    if not watch.last:
        return [f"no report of {rules.metric} has counted since"]
    value = watch.last["value"]
    assert isinstance(value, float)
    verdict = f"bad: {watch.last['why']}" if watch.last["why"] else "good"
    said = [
        f"the last of {watch.sample_count} reports, {rules.metric} = {judging.shown(value)}, is {verdict}"
    ]
    if rules.count:
        window = f" within {span_text(rules.window_ms)}" if rules.window_ms else ""
        said.append(f"{len(watch.bad)} bad of the {rules.count}{window} that it takes")
    if rules.consecutive:
        said.append(f"{watch.streak} bad in a row of the {rules.consecutive} that it takes")
    if watch.sample_count < rules.samples:
        said.append(f"it decides from {rules.samples} reports on")
    return said
