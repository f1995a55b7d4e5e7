"""Several reports in one entry of the log: each as if it had one of its own."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from mcr import canonical
from mcr.errors import CorruptStoreError
from mcr.model import METRICS_MAX, RequestId
from mcr_node.core.state import keys, queries, requests
from mcr_node.core.state.checks import REPORTS_MAX
from mcr_node.core.state.commands import ReportMany, ReportMetrics, SetPolicy
from mcr_node.core.state.outcomes import Accepted, Outcome, PolicyResult, Rejected, ReportsResult
from mcr_node.core.state.records import ReportRow
from mcr_node.core.state.view import View, prefix_end
from tests.support.state_commands import check_invariants
from tests.support.state_world import MODEL, StateWorld

VERSIONS = 3
RULES: Sequence[dict[str, Any]] = (
    {"channel": "production", "metric": "loss", "above": 2.0},
    {"channel": "production", "metric": "loss", "above": 1.0, "count": 2, "target": "v1"},
    {"branch": "main", "metric": "loss", "above": 2.0, "nan": True, "consecutive": 2},
    {"channel": "production", "metric": "accuracy", "drop": 0.1},
    {"branch": "main", "metric": "loss", "above": 1.0, "dry_run": True},
)


def many(reports: Sequence[ReportMetrics]) -> ReportMany:
    first = reports[0]
    return ReportMany(
        request_id=first.request_id,
        principal=first.principal,
        at_ms=first.at_ms,
        reports=tuple(replace(each, at_ms=first.at_ms) for each in reports),
    )


def told(world: StateWorld, reports: Sequence[ReportMetrics]) -> list[Outcome]:
    """Apply reports together, and those that did not have their turn again, as a node does."""
    outcomes: list[Outcome] = []
    while left := reports[len(outcomes) :]:
        result = world.accept_any(many(left))
        assert result.outcomes
        outcomes += result.outcomes
    return outcomes


def prepared(policies: Sequence[int] = ()) -> StateWorld:
    world = StateWorld()
    world.commits(VERSIONS)
    for number in (1, 2, 3):
        world.channel_set(number)
    for place in policies:
        command = SetPolicy(
            request_id=world.request_id(),
            principal="alice",
            at_ms=world.at_ms,
            model=MODEL,
            name=f"p{place}",
            rules=RULES[place],
        )
        world.accept(command, PolicyResult)
    return world


def without_indexes(value: Any) -> Any:  # noqa: ANN401 (whatever a row holds)
    if isinstance(value, dict):
        return {name: without_indexes(item) for name, item in value.items() if name != "index"}
    return [without_indexes(item) for item in value] if isinstance(value, list) else value


def content(view: View) -> dict[bytes, str]:
    """Return what is in a state, as text, but for the log indexes at which it came there."""
    found: dict[bytes, Any] = {}
    for key, value in view.scan(b"A", b"z"):
        family = key[:1]
        if family == b"e":
            row = ReportRow.unpack(value)
            kept = [[row.channel, row.values], *row.more]
            found.setdefault(key[:-8], []).extend([*each, row.principal, row.at_ms] for each in kept)
        elif family in (b"a", b"w", b"W", b"M") or key[:2] == b"Kh":
            # By index, or about those that are.
            found.setdefault(key[:1], []).append(key[:2])
        else:
            found[key] = value if family == b"v" else without_indexes(canonical.decode(value))
    del found[b"a"]
    # As text, for NaN is not equal to itself.
    return {key: repr(value) for key, value in found.items()}


def alike(outcome: Outcome) -> object:
    return (outcome.code, outcome.fields) if isinstance(outcome, Rejected) else outcome.result


@pytest.mark.parametrize("seed", range(40))
def test_reports_together_are_what_they_are_one_by_one(seed: int) -> None:
    chance = random.Random(seed)
    policies = chance.sample(range(len(RULES)), chance.choice([0, 1, 3, 5]))
    apart, together = prepared(policies), prepared(policies)
    ids = [RequestId(b"report %d" % number) for number in range(30)]
    reports, at_ms = [], apart.at_ms
    for _ in range(40):
        values = {
            name: chance.choice([0.5, 1.5, 2.5, 9.0, 1, float("nan")])
            for name in chance.sample(["loss", "accuracy", "norm"], chance.choice([1, 1, 2]))
        }
        report = apart.report(
            chance.choice([1, 2, 3, 3, 4]),
            values,
            chance.choice(["", "", "production", "other"]),
            allow_non_finite=chance.random() < 0.3,
            generation=0,
        )
        reports.append(replace(report, request_id=chance.choice(ids), at_ms=at_ms))

    one_by_one = [apart.apply(report) for report in reports]
    at_once = told(together, reports)

    assert [alike(outcome) for outcome in at_once] == [alike(outcome) for outcome in one_by_one]
    assert content(together.view) == content(apart.view)
    for world in (apart, together):
        check_invariants(world.view)


def test_each_is_remembered_by_itself() -> None:
    world = prepared()
    reports = [world.report(1, {"loss": float(step)}) for step in range(4)]

    first = told(world, reports[:3])
    alone = world.apply(reports[1])
    overlapping = told(world, reports[1:])
    reused = told(world, [replace(reports[0], values={"loss": 9.0})])

    assert isinstance(first[1], Accepted)
    assert alone == replace(first[1], already_applied=True)
    assert [each.already_applied for each in overlapping if isinstance(each, Accepted)] == [True, True, False]
    assert [each.code for each in reused if isinstance(each, Rejected)] == ["request_reused"]
    listed = queries.metric_reports(world.view, MODEL, 1, 10)
    assert [each.values["loss"] for each in listed] == [3.0, 2.0, 1.0, 0.0]
    assert queries.metric_reports(world.view, MODEL, 1, 2) == listed[:2]


def test_nothing_changes_where_none_is_accepted() -> None:
    world = prepared()
    reports = [world.report(1, {"loss": 1.0}), world.report(2, {"loss": 1.0})]
    told(world, reports)

    told(world, reports)
    assert world.changes == []
    world.at_ms += 60_000
    outcomes = told(world, [world.report(9, {"loss": 1.0})])

    assert world.changes == []
    assert [type(outcome) for outcome in outcomes] == [Rejected]


def test_a_report_that_is_one_metric_too_many_leaves_those_around_it_alone() -> None:
    world = prepared()
    full = {f"m{number}": 1.0 for number in range(METRICS_MAX)}
    reports = [world.report(1, values) for values in (full, {"one more": 1.0}, {"m0": 2.0})]

    outcomes = told(world, reports)

    assert [isinstance(outcome, Accepted) for outcome in outcomes] == [True, False, True]
    assert queries.metrics_of(world.view, MODEL, 1) == full | {"m0": 2.0}


def test_a_decision_ends_its_entry() -> None:
    world = prepared([0])
    reports = [world.report(3, {"loss": value}) for value in (1.0, 9.0, 9.0, 1.0)]

    result = world.accept_any(many(reports))

    assert len(result.outcomes) == 2
    assert "rolled channel:production back" in str(result.outcomes[1])
    assert [str(outcome) for outcome in told(world, reports[2:]) if "rolled" in str(outcome)] == []


def test_those_of_one_command_are_forgotten_together() -> None:
    world = prepared()
    reports = [world.report(1, {"loss": float(step)}) for step in range(3)]
    told(world, reports)
    world.at_ms += 8 * requests.DAY_MS

    told(world, [world.report(2, {"loss": float(step)}) for step in range(5)])

    remembered = [key[1:] for key, _ in world.view.scan(b"q", prefix_end(b"q"))]
    assert [one.request_id for one in reports if one.request_id in remembered] == []
    check_invariants(world.view)
    assert all(isinstance(outcome, Accepted) for outcome in told(world, reports))
    assert len(queries.metric_reports(world.view, MODEL, 1, 10)) == 6


@pytest.mark.parametrize("count", [0, REPORTS_MAX + 1])
def test_nothing_and_too_much_are_refused(count: int) -> None:
    world = prepared()
    reports = [world.report(1, {"loss": 1.0}) for _ in range(max(1, count))]

    code, _ = world.reject(replace(many(reports), reports=many(reports).reports[:count]))

    assert code == "invalid_argument"


def test_reports_in_another_name_are_refused() -> None:
    world = prepared()
    command = many([world.report(1, {"loss": 1.0})])

    for bad in ({"principal": "mallory"}, {"at_ms": world.at_ms + 1}):
        assert world.reject(replace(command, **bad))[0] == "invalid_argument"


@pytest.mark.parametrize("value", [b"\xff", b"\x80", b"\x01"])
def test_a_damaged_list_of_requests_is_told(value: bytes) -> None:
    with pytest.raises(CorruptStoreError):
        requests.remembered_in(value)


def test_an_age_says_whether_it_is_that_of_several() -> None:
    assert keys.request_age_in(keys.request_age(7)) == (7, False)
    assert keys.request_age_in(keys.request_ages(7)) == (7, True)
    assert keys.request_age(7) < keys.request_ages(7) < keys.request_age(8)


def test_the_result_tells_what_became_of_each() -> None:
    world = prepared()

    result = world.accept_any(many([world.report(1, {"loss": 1.0}), world.report(9, {"loss": 1.0})]))

    assert isinstance(result, ReportsResult)
    assert [type(outcome) for outcome in result.outcomes] == [Accepted, Rejected]
