"""The nouns of rollback policies: what one says, what it decided, and why. Pure values."""

from collections.abc import Sequence

from mcr.model import LogIndex, Parameters, RefKind
from mcr.values import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """A rollback policy.

    Attributes:
        rules: its fields as they were set; `mcr.policy_rules` says what each means.
        revision: counts what was set under this name, from 1.
    """

    model: str
    name: str
    rules: Parameters
    revision: int
    set_by: str
    set_at_ms: int


@dataclass(frozen=True, slots=True)
class PolicyDecision:
    """What a policy decided.

    Attributes:
        outcome: `rolled_back`, `would_roll_back` (a dry run) or `held` (something stood in the way).
        generation, number: where its channel or branch was.
        new_generation: where it was afterwards; the same when nothing moved.
        target_number: the version it went back to, or would have; 0 = there was none.
        reason: in one sentence.
        evidence: what it was decided on: the rules, the bad reports, and what they were compared with.
    """

    outcome: str
    generation: int
    number: int
    new_generation: int
    target_number: int
    reason: str
    evidence: Parameters
    at_ms: int
    log_index: LogIndex


@dataclass(frozen=True, slots=True)
class PolicyState:
    """A policy at work.

    Attributes:
        kind, ref: what it watches. generation, number: where that is; 0 = it does not exist yet.
        sample_count, bad_count, streak: reports that counted since it is there, bad ones that still count,
        and
            bad ones in a row up to the last.
        why: why it did what it did, or nothing, in sentences.
        decisions: that are remembered, newest first.
    """

    policy: Policy
    kind: RefKind
    ref: str
    generation: int
    number: int
    sample_count: int
    bad_count: int
    streak: int
    why: Sequence[str]
    decisions: Sequence[PolicyDecision]
