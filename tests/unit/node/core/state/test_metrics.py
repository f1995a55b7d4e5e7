"""Reports of metrics."""

import math

from mcr.model import METRICS_MAX
from mcr_node.core.state import queries
from mcr_node.core.state.outcomes import ReportResult, VersionResult
from tests.support.state_world import MODEL, StateWorld


def test_the_latest_value_of_each_metric_counts_and_every_report_is_kept() -> None:
    world = StateWorld()
    world.accept(world.commit(metrics={"loss": 0.5}), VersionResult)
    world.channel_set(1)

    first = world.reported(1, {"accuracy": 0.8, "eval/val acc@5": 0.9})
    world.principal = "fleet"
    second = world.accept(world.report(1, {"loss": 0.4}, channel="production"), ReportResult)

    assert (first.metric_count, second.metric_count) == (3, 3)
    assert queries.get_version(world.view, MODEL, 1).metrics == {
        "accuracy": 0.8,
        "eval/val acc@5": 0.9,
        "loss": 0.4,
    }
    reports = queries.metric_reports(world.view, MODEL, 1, 10)
    assert [(each.values, each.channel, each.principal) for each in reports] == [
        ({"loss": 0.4}, "production", "fleet"),
        ({"accuracy": 0.8, "eval/val acc@5": 0.9}, "", "alice"),
        ({"loss": 0.5}, "", "alice"),
    ]
    assert queries.metric_reports(world.view, MODEL, 1, 1) == reports[:1]


def test_metrics_of_one_version_are_not_those_of_another() -> None:
    world = StateWorld()
    world.commits(2)

    world.reported(1, {"loss": 1.0})

    assert queries.metrics_of(world.view, MODEL, 2) == {}
    assert queries.metric_reports(world.view, MODEL, 2, 10) == []


def test_what_is_not_finite_is_kept_only_when_asked_for() -> None:
    world = StateWorld()
    world.commits(1)
    values = {"loss": math.nan, "norm": math.inf}

    code, fields = world.reject(world.report(1, values))
    in_commit = world.reject(world.commit(metrics=values))
    world.reported(1, values)
    world.accept(world.commit(metrics=values, allow_non_finite=True), VersionResult)

    assert (code, fields["key"], fields["value"]) == ("invalid_metric", "loss", "nan")
    assert in_commit[0] == "invalid_metric"
    kept = queries.metrics_of(world.view, MODEL, 1)
    assert math.isnan(kept["loss"])
    assert kept["norm"] == math.inf


def test_a_report_needs_a_version_and_a_channel_that_exist() -> None:
    world = StateWorld()

    assert world.reject(world.report(1, {"loss": 1}))[0] == "model_not_found"
    world.commits(1)
    assert world.reject(world.report(2, {"loss": 1}))[1]["reference"] == "v2"
    assert world.reject(world.report(1, {"loss": 1}, "production"))[1]["reference"] == "channel:production"
    assert world.reject(world.report(1, {"loss": 1}, "no name"))[0] == "invalid_name"


def test_a_version_has_a_bounded_number_of_metrics() -> None:
    world = StateWorld()
    world.commits(1)
    world.reported(1, {f"m{number}": 1.0 for number in range(METRICS_MAX)})

    world.reported(1, {"m0": 2.0})
    code, fields = world.reject(world.report(1, {"m0": 3.0, "one more": 1.0}))

    assert (code, fields["argument"]) == ("invalid_argument", "metrics")
    assert queries.metrics_of(world.view, MODEL, 1)["m0"] == 2.0
