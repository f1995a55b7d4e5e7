"""Metrics: reported with a commit or later; every report is kept, and the latest value of each counts."""

from collections.abc import Mapping

from mcr.errors import InvalidArgumentError
from mcr.model import METRICS_MAX
from mcr_node.core.state import keys
from mcr_node.core.state.records import MetricCountRow, MetricRow, ReportRow, read
from mcr_node.core.state.step import Step


def keep(step: Step, model: str, number: int, values: Mapping[str, float], channel: str) -> int:
    """Write one report, and return how many different metrics the version has now.

    Raises:
        InvalidArgumentError: there would be more than METRICS_MAX, so `show` would have no bound.
    """
    overlay = step.overlay
    row = read(overlay, keys.metric_count(model, number), MetricCountRow)
    count = 0 if row is None else row.count
    for name in sorted(values):
        key = keys.metric(model, number, name)
        count += overlay.get(key) is None
        overlay.put(key, MetricRow(value=float(values[name]), index=step.index).pack())
    if count > METRICS_MAX:
        reason = f"v{number} would have {count} different metrics, at most {METRICS_MAX}"
        raise InvalidArgumentError("metrics", reason)
    overlay.put(keys.metric_count(model, number), MetricCountRow(count=count).pack())
    kept = ReportRow(
        values={name: float(value) for name, value in values.items()},
        channel=channel,
        principal=step.principal,
        at_ms=step.at_ms,
    )
    overlay.put(keys.report(model, number, step.index), kept.pack())
    return count
