"""Metrics: reported with a commit or later; every report is kept, and the latest value of each counts."""

from collections.abc import Mapping
from dataclasses import dataclass, field

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
    kept = Kept(step)
    count = kept.check(model, number, values)
    kept.add(model, number, values, channel, count)
    kept.write()
    return count


class Kept:
    """The reports of one command, on their way into rows: what those of a version share is written once."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self._versions: dict[tuple[str, int], _Version] = {}

    def check(self, model: str, number: int, values: Mapping[str, float]) -> int:
        """Return how many different metrics a version has with those of one report more; nothing changes.

        Raises:
            InvalidArgumentError: there would be more than METRICS_MAX.
        """
        overlay = self._step.overlay
        version = self._versions.get((model, number))
        if version is None:
            row = read(overlay, keys.metric_count(model, number), MetricCountRow)
            version = self._versions[model, number] = _Version(0 if row is None else row.count)
        latest = version.latest
        count = version.count + sum(
            [name not in latest and overlay.get(keys.metric(model, number, name)) is None for name in values]
        )
        if count > METRICS_MAX:
            reason = f"v{number} would have {count} different metrics, at most {METRICS_MAX}"
            raise InvalidArgumentError("metrics", reason)
        return count

    def add(self, model: str, number: int, values: Mapping[str, float], channel: str, count: int) -> None:
        """Take a report; `count` is what `check` said of it."""
        version = self._versions[model, number]
        version.count = count
        kept = {name: float(value) for name, value in values.items()}
        version.latest.update(kept)
        version.reports.append((channel, kept))

    def write_values(self, step: Step, model: str, number: int, values: Mapping[str, float]) -> None:
        """Write the latest values of a version, for whoever looks before `write`; counts stay as they are."""
        for name, value in values.items():
            row = MetricRow(value=float(value), index=step.index)
            step.overlay.put(keys.metric(model, number, name), row.pack())

    def write(self) -> None:
        """Write all that was taken."""
        step = self._step
        for (model, number), version in self._versions.items():
            if not version.reports:
                continue
            self.write_values(step, model, number, version.latest)
            count = MetricCountRow(count=version.count)
            step.overlay.put(keys.metric_count(model, number), count.pack())
            (channel, values), *more = version.reports
            row = ReportRow(
                values=values, channel=channel, principal=step.principal, at_ms=step.at_ms, more=more
            )
            step.overlay.put(keys.report(model, number, step.index), row.pack())


@dataclass(slots=True)
class _Version:
    """Reports of one version: how many metrics it has, the latest value of those, and all of them."""

    count: int
    latest: dict[str, float] = field(default_factory=dict)
    reports: list[tuple[str, dict[str, float]]] = field(default_factory=list)
