"""The values of policies in the view; where they stand says `policy_keys`."""

from collections.abc import Mapping, Sequence
from dataclasses import field

from mcr.model import ParameterValue
from mcr.values import dataclass
from mcr_node.core.state.records import Row

Sample = Mapping[str, ParameterValue]
"""A report as evidence: `index`, `at_ms`, `number`, `value`, `principal` and `why` it is bad."""


@dataclass(frozen=True, slots=True)
class PolicyRow(Row):
    """A policy.

    Attributes:
        rules: as `mcr.policy_rules` reads them.
        revision: counts what was set under this name, from 1.
        set_by, set_at_ms: who set it last, and when; what is missing is missing since then at most.
    """

    rules: Mapping[str, ParameterValue]
    revision: int
    set_by: str
    set_at_ms: int


@dataclass(frozen=True, slots=True)
class PoliciesRow(Row):
    """The policies of a model by what they watch, so that a report finds those it concerns with one read.

    Attributes:
        count: how many there are.
        by_metric: names of policies, in order; under "" those that any report concerns.
    """

    count: int = 0
    by_metric: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WatchRow(Row):
    """What a policy has seen.

    Attributes:
        generation: of the ref, which all of the following is about; begun anew when the ref moves.
        sample_count: reports that counted.
        streak: how many of the last of them were bad, in a row.
        bad_count: how many of all were bad.
        bad: the last bad ones, oldest first; as many as can lead to a decision.
        last: the last that counted; empty when there was none.
        heard_at_ms: of the last report about what is in force, whether or not it counted.
        reference_number, reference_value: what `last` was compared with; 0 and None when with nothing.
        decided: a decision was taken; there is one for a generation at most.
        held: why a decision that was due was not carried out, lately; "" = none was.
        ignored_count: reports that did not count, since the policy was set.
        ignored: why the last of them did not.
        ignored_at_ms: when that was.
        rollbacks_at_ms: when this policy rolled back, lately; not begun anew.
    """

    generation: int = 0
    sample_count: int = 0
    streak: int = 0
    bad_count: int = 0
    bad: Sequence[Sample] = ()
    last: Sample = field(default_factory=dict)
    heard_at_ms: int = 0
    reference_number: int = 0
    reference_value: float | None = None
    decided: bool = False
    held: str = ""
    ignored_count: int = 0
    ignored: str = ""
    ignored_at_ms: int = 0
    rollbacks_at_ms: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class DecisionRow(Row):
    """A decision of a policy.

    Attributes:
        outcome: `rolled_back`, `would_roll_back` (a dry run) or `held` (something stood in the way).
        generation, number: of the ref before it.
        new_generation: of the ref after it; that of before when nothing moved.
        target_number: the version it went, or would have gone, back to; 0 = none was found.
        reason: in one sentence.
        evidence: what it was decided on: `rules`, `samples`, and what the samples were compared with.
        at_ms: log time.
    """

    outcome: str
    generation: int
    number: int
    new_generation: int
    target_number: int
    reason: str
    evidence: Mapping[str, ParameterValue]
    at_ms: int


@dataclass(frozen=True, slots=True)
class MarkRow(Row):
    """What the key says is so."""


MARK = MarkRow().pack()
