"""Judging: whether one report is bad by a policy, and with what it is compared. No state changes here.

A report is bad when any of the policy's limits says so. NaN lies beyond no limit: without `nan` it cannot be
judged, and does not count. An infinity does lie beyond.
"""

import math
from collections.abc import Iterator
from itertools import islice

from mcr.errors import NotFoundError
from mcr.model import RefKind
from mcr.policy_rules import PolicyRules
from mcr.references import parse_reference
from mcr.values import dataclass
from mcr_node.core.state import channels, keys, lookup, queries, versions
from mcr_node.core.state.keys import RefName
from mcr_node.core.state.records import MetricRow, RefRow, read
from mcr_node.core.state.view import View

# So many earlier versions are looked through for one with the metric. Who reports nothing for longer has no
# last good value to compare with.
REFERENCE_STEPS_MAX = 32


@dataclass(frozen=True, slots=True)
class Reference:
    """What reports are compared with.

    Attributes:
        number: the version; 0 = the policy gives the value itself.
    """

    number: int
    value: float

    def __str__(self) -> str:
        return (
            f"the {shown(self.value)} of v{self.number}"
            if self.number
            else f"the baseline {shown(self.value)}"
        )


def shown(value: float) -> str:
    """Return a number for a sentence: the shortest text that means it."""
    return (
        repr(int(value))
        if math.isfinite(value) and value == int(value) and abs(value) < 1e15
        else repr(value)
    )


def judge(rules: PolicyRules, value: float, reference: Reference | None) -> str | None:
    """Return why a value is bad; "" when it is good; None when it cannot be told."""
    if rules.nan and not math.isfinite(value):
        return f"{shown(value)} is not a finite number"
    if math.isnan(value):
        return None
    if rules.above is not None and value > rules.above:
        return f"{shown(value)} is above {shown(rules.above)}"
    if rules.below is not None and value < rules.below:
        return f"{shown(value)} is below {shown(rules.below)}"
    if rules.drop is None:
        return ""
    if reference is None:
        return None if rules.above is None and rules.below is None else ""
    worse = value - reference.value if rules.lower_is_better else reference.value - value
    allowed = rules.drop * abs(reference.value) if rules.drop_is_relative else rules.drop
    if worse <= allowed:
        return ""
    direction = "above" if rules.lower_is_better else "below"
    return f"{shown(value)} is {direction} {reference} by more than {_drop_text(rules)}"


def _drop_text(rules: PolicyRules) -> str:
    assert rules.drop is not None, "asked of a policy with a drop"
    return f"{shown(rules.drop * 100)}%" if rules.drop_is_relative else shown(rules.drop)


def reference_of(view: View, rules: PolicyRules, of: RefName, ref: RefRow, known: int) -> Reference | None:
    """Return what reports about a ref are compared with; None when there is nothing.

    Args:
        view: the state.
        rules: of the policy.
        of: the ref.
        ref: where it is.
        known: number of the version found for this generation before; 0 = look for it.
    """
    if rules.drop is None:
        return None
    if isinstance(rules.baseline, float):
        return Reference(0, rules.baseline)
    if isinstance(rules.baseline, str):
        try:
            numbers = iter((queries.resolve(view, parse_reference(rules.baseline, model=of.model)),))
        except NotFoundError:
            return None
    else:
        numbers = iter((known,)) if known else good_before(view, of, ref)
    for number in islice(numbers, REFERENCE_STEPS_MAX):
        row = read(view, keys.metric(of.model, number, rules.metric), MetricRow)
        if row is not None and math.isfinite(row.value):
            return Reference(number, row.value)
    return None


def good_before(view: View, of: RefName, ref: RefRow) -> Iterator[int]:
    """Yield what a ref was at before, nearest first, but for what was rolled back from; bounded."""
    if of.kind is RefKind.CHANNEL:
        for entry in channels.earlier(view, of, ref):
            if entry.number != ref.number and not channels.rolled_back(view, of, entry.number):
                yield entry.number
        return
    present = lookup.content_number(lookup.record(view, of.model, ref.number))
    for content in versions.contents_before(view, of, present):
        if content != present and not versions.rolled_back(view, of, content):
            yield content
