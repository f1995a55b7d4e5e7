"""Which versions go: laws of the decision, over any versions and rules."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr.errors import InvalidArgumentError
from mcr.retention_rules import (
    BestRule,
    RetentionRules,
    Verdict,
    check_rules,
    parse_rules,
    span_text,
)
from mcr_node.core.state.retention_decision import Candidate, RulesOfBranches, decide

NOW_MS = 1_000_000
METRICS = ("loss", "acc")

branches = st.sampled_from(["main", "dev", "x"])
values = st.floats(allow_nan=True) | st.sampled_from([0.0, -0.0, 1.0])
best_rules = st.builds(BestRule, st.integers(1, 3), st.sampled_from(METRICS), st.sampled_from(["min", "max"]))
some_rules = st.builds(
    RetentionRules,
    last=st.integers(0, 4),
    best=st.lists(best_rules, max_size=3).map(tuple),
    every=st.integers(0, 4),
    age_min_ms=st.integers(0, 500),
)
rules_of_branches = st.dictionaries(st.sampled_from(["", "main", "dev"]), some_rules, max_size=3)


@st.composite
def versions(draw: st.DrawFn) -> tuple[Candidate, ...]:
    """Versions that are there, newest first; some numbers are missing, since they are deleted."""
    numbers = draw(st.lists(st.integers(1, 40), unique=True, max_size=14).map(sorted))
    at_ms = NOW_MS - 600
    found = []
    for number in numbers:
        at_ms += draw(st.integers(0, 60))
        found.append(
            Candidate(
                number=number,
                branch=draw(branches),
                created_at_ms=at_ms,
                metrics=draw(st.dictionaries(st.sampled_from(METRICS), values)),
                uses=draw(st.sampled_from([(), (), ("tag:release is at it",)])),
            )
        )
    return tuple(reversed(found))


def going(candidates: tuple[Candidate, ...], rules: RulesOfBranches) -> set[int]:
    return {verdict.number for verdict in decide(candidates, rules, now_ms=NOW_MS) if verdict.goes}


@given(versions(), rules_of_branches)
def test_each_version_has_one_verdict_with_a_reason(
    candidates: tuple[Candidate, ...], rules: RulesOfBranches
) -> None:
    verdicts = decide(candidates, rules, now_ms=NOW_MS)
    assert [verdict.number for verdict in verdicts] == [candidate.number for candidate in candidates]
    assert all(verdict.reasons for verdict in verdicts)


@given(versions(), rules_of_branches)
def test_what_is_needed_stays_and_so_does_a_branch_without_rules(
    candidates: tuple[Candidate, ...], rules: RulesOfBranches
) -> None:
    gone = going(candidates, rules)
    for candidate in candidates:
        if candidate.uses or not (candidate.branch in rules or "" in rules):
            assert candidate.number not in gone


@given(versions(), rules_of_branches)
def test_the_last_and_the_young_and_the_multiples_stay(
    candidates: tuple[Candidate, ...], rules: RulesOfBranches
) -> None:
    gone = going(candidates, rules)
    for branch in ("main", "dev", "x"):
        of_branch = [candidate for candidate in candidates if candidate.branch == branch]
        found = rules.get(branch, rules.get(""))
        if found is None:
            continue
        for rank, candidate in enumerate(of_branch):
            is_young = NOW_MS - candidate.created_at_ms < found.age_min_ms
            is_multiple = found.every > 0 and candidate.number % found.every == 0
            if rank < found.last or is_young or is_multiple:
                assert candidate.number not in gone


@given(versions(), rules_of_branches)
def test_the_best_stay_and_are_no_worse_than_what_goes(
    candidates: tuple[Candidate, ...], rules: RulesOfBranches
) -> None:
    gone = going(candidates, rules)
    for branch in ("main", "dev", "x"):
        found = rules.get(branch, rules.get(""))
        for rule in () if found is None else found.best:
            merits = {
                candidate.number: -value if rule.goal == "min" else value
                for candidate in candidates
                if candidate.branch == branch
                and (value := candidate.metrics.get(rule.metric)) is not None
                and not math.isnan(value)
            }
            kept = [merit for number, merit in merits.items() if number not in gone]
            assert len(kept) >= min(rule.count, len(merits))
            for number in gone & merits.keys():
                assert sum(merit >= merits[number] for merit in kept) >= rule.count


def test_a_rule_given_twice_keeps_as_many_as_given_once() -> None:
    candidates = tuple(
        Candidate(number=number, branch="main", created_at_ms=0, metrics={"loss": float(number)}, uses=())
        for number in (3, 2, 1)
    )
    best = BestRule(2, "loss", "min")

    assert going(candidates, {"main": RetentionRules(best=(best, best))}) == {3}


@given(versions(), rules_of_branches, some_rules)
def test_more_rules_never_let_more_go(
    candidates: tuple[Candidate, ...], rules: RulesOfBranches, more: RetentionRules
) -> None:
    stronger = {
        branch: replace(
            each,
            last=each.last + more.last,
            best=each.best + more.best,
            age_min_ms=each.age_min_ms + more.age_min_ms,
        )
        for branch, each in rules.items()
    }
    assert going(candidates, stronger) <= going(candidates, rules)


@given(versions(), rules_of_branches)
def test_decided_again_after_the_deletion_nothing_more_goes(
    candidates: tuple[Candidate, ...], rules: RulesOfBranches
) -> None:
    gone = going(candidates, rules)
    left = tuple(candidate for candidate in candidates if candidate.number not in gone)
    assert going(left, rules) == set()


@given(some_rules)
def test_rules_are_read_as_they_were_written(rules: RetentionRules) -> None:
    # Milliseconds have no text of their own.
    rules = replace(rules, age_min_ms=rules.age_min_ms * 1000)
    try:
        check_rules(rules)
    except InvalidArgumentError:
        return
    assert parse_rules(rules.texts) == rules


@pytest.mark.parametrize(
    "texts",
    [
        ("last",), ("last=",), ("last=0",), ("last=-1",), ("last=1", "last=2"), ("best=3:loss",), ("keep=3",),
        ("best=3:loss:low",), ("best=0:loss:min",), ("best=3::min",), ("every=x",), ("age=7",), ("age=7y",),
        ("trash=7d",), (), ("age=9999d",), ("last=99999999",), tuple("best=1:m:min" for _ in range(17)),
    ],
)  # fmt: skip
def test_what_is_no_rule_is_refused(texts: tuple[str, ...]) -> None:
    with pytest.raises(InvalidArgumentError):
        parse_rules(texts)


def test_a_metric_may_have_colons() -> None:
    assert parse_rules(["best=2:eval:loss:min"]).best == (BestRule(2, "eval:loss", "min"),)


@pytest.mark.parametrize(("span_ms", "text"), [(0, "0s"), (90_000, "1m30s"), (86_400_000 * 9, "9d")])
def test_spans_are_shown_as_people_write_them(span_ms: int, text: str) -> None:
    assert span_text(span_ms) == text


def test_reasons_read_well() -> None:
    rules = {"": parse_rules(["last=1", "best=1:loss:min", "every=4", "age=1s"])}
    candidates = tuple(
        Candidate(number, "main", NOW_MS - 100_000 * (7 - number), {"loss": float(number)}, uses)
        for number, uses in ((6, ()), (5, ("gpu-1 has it loaded",)), (4, ()), (3, ()), (1, ()))
    )
    assert decide(candidates, rules, now_ms=NOW_MS) == [
        Verdict(6, "main", False, ("one of the last 1 of its branch",)),
        Verdict(5, "main", False, ("gpu-1 has it loaded",)),
        Verdict(4, "main", False, ("its number is a multiple of 4",)),
        Verdict(3, "main", True, ("retention: not kept by last=1 best=1:loss:min every=4 age=1s",)),
        Verdict(1, "main", False, ("one of the best 1 by loss (min)",)),
    ]
