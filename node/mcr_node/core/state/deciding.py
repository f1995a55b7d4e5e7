"""Deciding: what a policy does once its limit is reached. It goes back, or says what stands in the way.

Laws:
    One decision for a generation of the ref, by whatever entry of the log reaches it first; what was held
    back may still be carried out while the ref stays where it is.
    The target is never a version that a rollback left, nor one before the tag that the policy names.
    A decision and the move it makes are one entry of the log, and the move keeps the evidence.
    A policy may do what its author may: rules that exclude the author hold it back.
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice

from mcr.errors import NotFoundError, ProtectedError
from mcr.model import ParameterValue, RefKind
from mcr.policy_rules import LAST_GOOD, PREVIOUS, PolicyRules
from mcr.references import parse_reference
from mcr.spans import span_text
from mcr.values import dataclass
from mcr_node.core.state import channels, judging, keys, lookup, policy_keys, protection, queries, versions
from mcr_node.core.state.keys import RefName
from mcr_node.core.state.policy_rows import DecisionRow, PolicyRow, WatchRow
from mcr_node.core.state.records import MetricRow, RefRow, read
from mcr_node.core.state.step import Step
from mcr_node.core.state.view import View

DAY_MS = 24 * 60 * 60 * 1000
# Remembered for each policy; what moved something stands in the history of its ref for ever.
DECISIONS_MAX = 64
ROLLED_BACK, WOULD_ROLL_BACK, HELD = "rolled_back", "would_roll_back", "held"
ACTOR_PREFIX = "policy:"
# What holds a policy back; known by a word, so that the same is not decided again and again.
FROZEN, AUTHOR, COOL_DOWN, PER_DAY, NO_TARGET, PAST_TAG, PROTECTED = (
    "frozen",
    "author",
    "cool_down",
    "max_per_day",
    "no_target",
    "never_past",
    "protected",
)


@dataclass(frozen=True, slots=True)
class Watched:
    """A policy at work: what it is, and how its ref stands.

    Attributes:
        name: of the policy.
        of, ref: the channel or branch, and where it is.
    """

    name: str
    policy: PolicyRow
    rules: PolicyRules
    of: RefName
    ref: RefRow


@dataclass(frozen=True, slots=True)
class Plan:
    """What a policy would do now.

    Attributes:
        number: the version it goes back to; 0 = there is none.
        hold: what stands in the way, in one word; "" = nothing.
        why: the same as a sentence.
    """

    number: int
    hold: str = ""
    why: str = ""


def plan(view: View, watched: Watched, watch: WatchRow, at_ms: int) -> Plan:
    """Return what a policy would do at a time whose limit is reached."""
    frozen = watched.ref.frozen
    if frozen is not None:
        return Plan(0, FROZEN, f"{watched.of} is frozen by {frozen['actor']}")
    try:
        protection.check_actor(watched.ref.protection, watched.of, watched.policy.set_by)
    except ProtectedError as error:
        return Plan(0, AUTHOR, f"the author of the policy may not move it: {error.message}")
    rules, times = watched.rules, watch.rollbacks_at_ms
    if times and rules.cool_down_ms and at_ms < times[-1] + rules.cool_down_ms:
        return Plan(0, COOL_DOWN, f"it rolled back less than {span_text(rules.cool_down_ms)} ago")
    if len([one for one in times if one > at_ms - DAY_MS]) >= rules.per_day:
        return Plan(0, PER_DAY, f"it rolled back as often in 24 hours as it may: {rules.per_day}")
    return _target(view, watched)


def _target(view: View, watched: Watched) -> Plan:
    rules, of, ref = watched.rules, watched.of, watched.ref
    if rules.target in (PREVIOUS, LAST_GOOD):
        found = judging.good_before(view, of, ref)
        for number in islice(found, judging.REFERENCE_STEPS_MAX):
            if rules.target == PREVIOUS or not _was_bad(view, watched, number):
                return _within_tag(view, watched, number)
        return Plan(
            0, NO_TARGET, f"no earlier version to go back to that was not rolled back from ({rules.target})"
        )
    try:
        number = queries.resolve(view, parse_reference(rules.target, model=of.model))
        record = lookup.record(view, of.model, number)
    except NotFoundError as error:
        return Plan(0, NO_TARGET, f"there is no {rules.target}: {error.message}")
    present = ref.number
    if of.kind is RefKind.BRANCH:
        number = lookup.content_number(record)
        present = lookup.content_number(lookup.record(view, of.model, present))
    if number == present:
        return Plan(0, NO_TARGET, f"{of} is at {rules.target} already")
    if (channels if of.kind is RefKind.CHANNEL else versions).rolled_back(view, of, number):
        return Plan(number, NO_TARGET, f"v{number}, its target, was itself rolled back from")
    if of.kind is RefKind.CHANNEL and not channels.was_at(view, of, number):
        try:
            protection.check_move(view, ref.protection, of, record, watched.policy.set_by)
        except ProtectedError as error:
            return Plan(number, PROTECTED, error.message)
    return _within_tag(view, watched, number)


def _was_bad(view: View, watched: Watched, number: int) -> bool:
    """Tell whether the last value known of a version is bad by the policy's own limits."""
    rules = watched.rules
    row = read(view, keys.metric(watched.of.model, number, rules.metric), MetricRow)
    return row is not None and bool(judging.judge(replace(rules, drop=None), row.value, None))


def _within_tag(view: View, watched: Watched, number: int) -> Plan:
    tag = watched.rules.never_past
    if tag:
        row = lookup.ref_row(view, RefName(watched.of.model, RefKind.TAG, tag))
        if number < row.number:
            return Plan(number, PAST_TAG, f"v{number} is before tag {tag} (v{row.number})")
    return Plan(number)


def decide(
    step: Step, watched: Watched, watch: WatchRow, reason: str, evidence: Mapping[str, ParameterValue]
) -> tuple[str, WatchRow]:
    """Carry out what a policy does whose limit is reached.

    Args:
        step: the command that reached it.
        watched: the policy.
        watch: what it saw.
        reason: why, in one sentence.
        evidence: what it is decided on.

    Returns:
        What was decided in one sentence, "" when it was decided before; and what the policy has seen since.
    """
    if watch.decided:
        return "", watch
    planned = plan(step.overlay, watched, watch, step.at_ms)
    of, name, ref = watched.of, watched.name, watched.ref
    if planned.hold:
        if planned.hold == watch.held:
            return "", watch
        _remember(step, watched, HELD, planned.number, f"{reason}; held back: {planned.why}", evidence)
        return f"policy {name} held back: {planned.why}", replace(watch, held=planned.hold)
    watch = replace(watch, decided=True, held="")
    if watched.rules.dry_run:
        _remember(step, watched, WOULD_ROLL_BACK, planned.number, reason, evidence)
        return f"policy {name} would roll {of} back to v{planned.number}: {reason}", watch
    generation = _go_back(step, watched, planned.number, reason, evidence)
    _remember(step, watched, ROLLED_BACK, planned.number, reason, evidence, generation)
    if watched.rules.freeze:
        mine = replace(step, principal=ACTOR_PREFIX + name)
        channels.freeze(mine, of, lookup.ref_row(step.overlay, of), watched.rules.freeze, reason)
    lately = [
        one for one in watch.rollbacks_at_ms if one > step.at_ms - max(DAY_MS, watched.rules.cool_down_ms)
    ]
    watch = replace(watch, rollbacks_at_ms=[*lately, step.at_ms])
    return f"policy {name} rolled {of} back from v{ref.number} to v{planned.number}: {reason}", watch


def _go_back(
    step: Step, watched: Watched, number: int, reason: str, evidence: Mapping[str, ParameterValue]
) -> int:
    """Move the ref, and return its new generation."""
    of, ref = watched.of, watched.ref
    mine = replace(step, principal=ACTOR_PREFIX + watched.name)
    kept = {"policy": watched.name, **evidence}
    if of.kind is RefKind.CHANNEL:
        entry = channels.entry_at(step.overlay, of, ref, number)
        return channels.go_back(mine, of, ref, entry, reason=reason, chosen=False, evidence=kept).generation
    present = lookup.content_number(lookup.record(step.overlay, of.model, ref.number))
    versions.mark(mine, of, present, ref.generation, rolled_back=True)
    versions.restore(mine, of, ref, number, reason=reason, evidence=kept)
    return ref.generation + 1


def _remember(
    step: Step,
    watched: Watched,
    outcome: str,
    target_number: int,
    reason: str,
    evidence: Mapping[str, ParameterValue],
    new_generation: int = 0,
) -> None:
    overlay, model, name, ref = step.overlay, watched.of.model, watched.name, watched.ref
    row = DecisionRow(
        outcome=outcome,
        generation=ref.generation,
        number=ref.number,
        new_generation=new_generation or ref.generation,
        target_number=target_number,
        reason=reason,
        evidence=evidence,
        at_ms=step.at_ms,
    )
    overlay.put(policy_keys.decision(model, name, step.index), row.pack())
    kept = [key for key, _ in overlay.scan(*policy_keys.decisions(model, name))]
    for key in kept[: max(0, len(kept) - DECISIONS_MAX)]:
        overlay.delete(key)
