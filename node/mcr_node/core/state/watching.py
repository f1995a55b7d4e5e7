"""Watching: what policies see of each report, and when their limit is reached.

A report counts for a policy when it is about the version that the policy's channel or branch is at, since it
is there: a report for another version, of another generation, or of another channel's fleet comes too late or
from elsewhere, and only that it came is noted. So the order in which reports of different versions arrive
does not matter, and a repeated one (the same request id) never gets here.

Laws:
    The report that reaches the limit and the rollback are one entry of the log. So there is exactly one
    rollback, whichever node leads then or dies.
    An entry moves one ref at most (`events`). When one report reaches the limits of several policies, or
    stands
    in the entry of a commit, the first moves its ref and the others are put off: marked as due, and decided
    by a command that the leader proposes at once (`Settle`).
    What only time decides, that reports are missing, the leader proposes too, and `settle` checks it again.
    Bounded: a report costs one read where no policy watches, else a few reads for each of at most
    POLICIES_MAX policies.
"""

from collections.abc import Mapping
from dataclasses import replace

from mcr.errors import HeadMovedError, InvalidArgumentError
from mcr.model import ParameterValue, RefKind
from mcr.policy_rules import PolicyRules, parse_rules
from mcr.spans import span_text
from mcr.values import dataclass
from mcr_node.core.state import deciding, judging, keys, lookup, policy_keys
from mcr_node.core.state.commands import Settle
from mcr_node.core.state.deciding import Watched
from mcr_node.core.state.keys import RefName
from mcr_node.core.state.outcomes import PolicyResult
from mcr_node.core.state.policy_rows import MARK, PoliciesRow, PolicyRow, Sample, WatchRow
from mcr_node.core.state.records import RefRow, read
from mcr_node.core.state.step import Step
from mcr_node.core.state.view import View


@dataclass(frozen=True, slots=True)
class Report:
    """A report of metrics.

    Attributes:
        channel: whose fleet measured it; "" = nobody's in particular.
        generation: of that channel when it was measured; 0 = not said.
    """

    model: str
    number: int
    values: Mapping[str, float]
    channel: str = ""
    generation: int = 0


def note(step: Step, report: Report, *, may_move: bool) -> str:
    """Show a report to the policies that it concerns, and return what they decided, in sentences.

    Args:
        step: the command that brings it.
        report: the report; it is in the state already.
        may_move: no ref was moved by this command yet.
    """
    totals = read(step.overlay, policy_keys.totals(report.model), PoliciesRow)
    if totals is None:
        return ""
    names: dict[str, None] = {}
    for metric in sorted((*report.values, "")):
        names.update(dict.fromkeys(totals.by_metric.get(metric, ())))
    said = []
    for name in sorted(names):
        decision, moved = _note_one(step, name, report, may_move=may_move)
        may_move = may_move and not moved
        said += [decision] if decision else []
    return "; ".join(said)


def find(view: View, model: str, name: str) -> tuple[PolicyRow, PolicyRules] | None:
    """Return a policy; None when there is none of that name."""
    row = read(view, policy_keys.policy(model, name), PolicyRow)
    return None if row is None else (row, parse_rules(row.rules))


def _note_one(step: Step, name: str, report: Report, *, may_move: bool) -> tuple[str, bool]:
    """Show a report to one policy; return what it decided and whether that moved the ref."""
    found = find(step.overlay, report.model, name)
    assert found is not None, "a policy that is listed exists"
    policy, rules = found
    of = RefName(report.model, rules.kind, rules.ref)
    ref = read(step.overlay, keys.ref(of), RefRow)
    key = policy_keys.watch(report.model, name)
    watch = read(step.overlay, key, WatchRow) or WatchRow()
    elsewhere = _elsewhere(of, ref, report)
    if elsewhere or ref is None:
        step.overlay.put(key, _ignore(watch, step, elsewhere).pack())
        return "", False
    watched = Watched(name, policy, rules, of, ref)
    watch = replace(begun(watch, ref), heard_at_ms=step.at_ms)
    decision = ""
    if rules.judges_reports and rules.metric in report.values:
        watch = _sample(step, watched, watch, report)
        if reached(rules, watch) and not watch.decided:
            if may_move:
                decision, watch = deciding.decide(
                    step, watched, watch, _reason(watched, watch), _evidence(watched, watch)
                )
            else:
                step.overlay.put(policy_keys.due(report.model, name), MARK)
    step.overlay.put(key, watch.pack())
    moved = watch.decided and not rules.dry_run and bool(decision)
    return decision, moved


def _elsewhere(of: RefName, ref: RefRow | None, report: Report) -> str:
    """Return why a report is not about what a policy watches; "" when it is."""
    if ref is None:
        return f"{of} does not exist"
    if of.kind is RefKind.CHANNEL and report.channel not in ("", of.name):
        return f"it is of channel:{report.channel}"
    if report.number != ref.number:
        return f"it is of v{report.number}, and {of} is at v{ref.number}"
    if of.kind is RefKind.CHANNEL and report.generation not in (0, ref.generation):
        return f"it is of generation {report.generation}, and {of} is at {ref.generation}"
    return ""


def _ignore(watch: WatchRow, step: Step, why: str) -> WatchRow:
    return replace(watch, ignored_count=watch.ignored_count + 1, ignored=why, ignored_at_ms=step.at_ms)


def begun(watch: WatchRow, ref: RefRow) -> WatchRow:
    """Return what a policy has seen of a ref since it is where it is."""
    if watch.generation == ref.generation:
        return watch
    return WatchRow(
        generation=ref.generation,
        ignored_count=watch.ignored_count,
        ignored=watch.ignored,
        ignored_at_ms=watch.ignored_at_ms,
        rollbacks_at_ms=watch.rollbacks_at_ms,
    )


def _sample(step: Step, watched: Watched, watch: WatchRow, report: Report) -> WatchRow:
    """Return what a policy has seen, with one report more."""
    rules, value = watched.rules, float(report.values[watched.rules.metric])
    if watch.last and rules.interval_ms:
        passed_ms = step.at_ms - _integer(watch.last, "at_ms")
        if passed_ms < rules.interval_ms:
            return _ignore(watch, step, f"it came {span_text(passed_ms)} after the one before")
    reference = judging.reference_of(step.overlay, rules, watched.of, watched.ref, watch.reference_number)
    why = judging.judge(rules, value, reference)
    if why is None:
        what = (
            "NaN is no number to compare"
            if reference or rules.drop is None
            else "there is nothing to compare with"
        )
        return _ignore(watch, step, what)
    sample: Sample = {
        "index": step.index,
        "at_ms": step.at_ms,
        "number": report.number,
        "value": value,
        "principal": step.principal,
        "why": why,
    }
    seen = replace(watch, bad=[*watch.bad, sample] if why else watch.bad)
    return replace(
        pruned(rules, seen, step.at_ms),
        sample_count=watch.sample_count + 1,
        streak=watch.streak + 1 if why else 0,
        bad_count=watch.bad_count + bool(why),
        last=sample,
        reference_number=0 if reference is None else reference.number,
        reference_value=None if reference is None else reference.value,
    )


def pruned(rules: PolicyRules, watch: WatchRow, at_ms: int) -> WatchRow:
    """Return what a policy has seen without the bad reports that no longer count."""
    bad = list(watch.bad)
    if rules.window_ms:
        bad = [one for one in bad if _integer(one, "at_ms") > at_ms - rules.window_ms]
    return replace(watch, bad=bad[-max(rules.count, rules.consecutive) :])


def _integer(sample: Sample, name: str) -> int:
    value = sample[name]
    assert isinstance(value, int)
    return value


def reached(rules: PolicyRules, watch: WatchRow) -> bool:
    """Tell whether what a policy saw reaches its limit."""
    enough_bad = bool(rules.count) and len(watch.bad) >= rules.count
    in_a_row = bool(rules.consecutive) and watch.streak >= rules.consecutive
    return (enough_bad or in_a_row) and watch.sample_count >= rules.samples


def _reason(watched: Watched, watch: WatchRow) -> str:
    last = watch.bad[-1]["why"] if watch.bad else "bad before"
    counted = "1 report"
    if watch.sample_count > 1:
        counted = f"{watch.bad_count} bad of {watch.sample_count} reports"
    return f"{watched.rules.metric} {last} ({counted})"


def _evidence(watched: Watched, watch: WatchRow) -> dict[str, ParameterValue]:
    evidence: dict[str, ParameterValue] = {
        "rules": {name: value for name, value in watched.policy.rules.items() if name != "description"},
        "revision": watched.policy.revision,
        "samples": watch.bad,
        "sample_count": watch.sample_count,
        "streak": watch.streak,
    }
    if watch.reference_value is not None:
        evidence["reference"] = {"number": watch.reference_number, "value": watch.reference_value}
    return evidence


# What no report decides


def missing_since_ms(watched: Watched, watch: WatchRow) -> int:
    """Return since when no report came that a policy waits for."""
    heard_ms = watch.heard_at_ms if watch.generation == watched.ref.generation else 0
    return max(heard_ms, watched.ref.at_ms, watched.policy.set_at_ms)


def unsettled(view: View, model: str, name: str, at_ms: int) -> int:
    """Return the generation for which a policy has something to decide that no report will; 0 = nothing.

    For the leader, which proposes `Settle` then. What would only be held back as before is nothing.
    """
    watched = at_work(view, model, name)
    if watched is None:
        return 0
    watch = begun(read(view, policy_keys.watch(model, name), WatchRow) or WatchRow(), watched.ref)
    is_put_off = view.get(policy_keys.due(model, name)) is not None
    if not is_put_off and (watch.decided or not _is_silent(watched, watch, at_ms)):
        return 0
    if not is_put_off and watch.held and deciding.plan(view, watched, watch, at_ms).hold == watch.held:
        return 0
    return watched.ref.generation


def at_work(view: View, model: str, name: str) -> Watched | None:
    """Return a policy and how its ref stands; None when there is no such policy, or no such ref."""
    found = find(view, model, name)
    if found is None:
        return None
    policy, rules = found
    of = RefName(model, rules.kind, rules.ref)
    ref = read(view, keys.ref(of), RefRow)
    return None if ref is None else Watched(name, policy, rules, of, ref)


def _is_silent(watched: Watched, watch: WatchRow, at_ms: int) -> bool:
    missing_ms = watched.rules.missing_ms
    return bool(missing_ms) and at_ms - missing_since_ms(watched, watch) >= missing_ms


def settle(step: Step, command: Settle) -> PolicyResult:
    """Decide what was put off, or that reports are missing; it is checked again whether that is so.

    Raises:
        ReferenceNotFoundError: there is no such policy, or nothing for it to watch.
        HeadMovedError: its ref is not at that generation.
        InvalidArgumentError: nothing is due.
    """
    model, name = command.model, command.policy
    watched = at_work(step.overlay, model, name)
    if watched is None:
        raise lookup.no_policy(step.overlay, model, name)
    if watched.ref.generation != command.generation:
        raise HeadMovedError(
            f"generation {command.generation}", f"generation {watched.ref.generation}", str(watched.of)
        )
    key = policy_keys.watch(model, name)
    watch = begun(read(step.overlay, key, WatchRow) or WatchRow(), watched.ref)
    put_off = policy_keys.due(model, name)
    is_put_off = step.overlay.get(put_off) is not None
    is_silent = _is_silent(watched, watch, step.at_ms)
    if watch.decided or not (is_put_off or is_silent):
        if not is_put_off:
            raise InvalidArgumentError("policy", f"nothing is due for {name}")
        step.overlay.delete(put_off)
        return PolicyResult(name, "")
    decision = ""
    if reached(watched.rules, watch):
        decision, watch = deciding.decide(
            step, watched, watch, _reason(watched, watch), _evidence(watched, watch)
        )
    elif is_silent:
        since_ms = missing_since_ms(watched, watch)
        what = f"of {watched.rules.metric} " if watched.rules.metric else ""
        reason = f"no report {what}for {span_text(watched.rules.missing_ms)}"
        evidence = _evidence(watched, watch) | {"missing_since_ms": since_ms}
        decision, watch = deciding.decide(step, watched, watch, reason, evidence)
    step.overlay.delete(put_off)
    step.overlay.put(key, watch.pack())
    return PolicyResult(name, decision)
