"""What comes in with metrics: it is kept, and shown to the policies that watch for it.

NaN and infinities are taken where a policy watches them (`nan: true`), since a loss that became NaN is what
such a policy is for; elsewhere only where the caller says that they are meant, as most are mistakes.
"""

import math

from mcr.errors import InvalidArgumentError, InvalidMetricError
from mcr.model import RefKind
from mcr_node.core.state import keys, lookup, metrics, policy_keys, versions, watching
from mcr_node.core.state.commands import CommitVersion, ReportMetrics
from mcr_node.core.state.keys import RefName
from mcr_node.core.state.outcomes import ReportResult, VersionResult
from mcr_node.core.state.policy_rows import PoliciesRow
from mcr_node.core.state.records import MoveRow, read
from mcr_node.core.state.step import Step
from mcr_node.core.state.view import View
from mcr_node.core.state.watching import Report


def commit(step: Step, command: CommitVersion) -> VersionResult:
    """Make a version; see `versions.commit`. Its metrics are a report like any other."""
    result = versions.commit(step, command)
    if command.metrics:
        # The commit moved its branch, so what policies decide on its metrics is an entry of its own.
        watching.note(step, Report(command.model, result.number, command.metrics), may_move=False)
    return result


def report(step: Step, command: ReportMetrics) -> ReportResult:
    """Record metrics for a version that exists.

    Raises:
        ModelNotFoundError, ReferenceNotFoundError: no such version or channel.
        InvalidArgumentError: the version would have too many different metrics, or the channel was never at
            that generation.
        InvalidMetricError: a value is not finite, and nobody expects that.
    """
    model, number = command.model, command.number
    check(step.overlay, command)
    count = metrics.keep(step, model, number, command.values, command.channel)
    seen = Report(model, number, command.values, command.channel, command.generation)
    return ReportResult(number, count, watching.note(step, seen, may_move=True))


def check(view: View, command: ReportMetrics) -> None:
    """Check a report by what is there; see `report` for what it raises."""
    lookup.record_bytes(view, command.model, command.number)
    if command.channel:
        _check_generation(view, command)
    if not command.allow_non_finite:
        _check_finite(view, command)


def _check_generation(view: View, command: ReportMetrics) -> None:
    of = RefName(command.model, RefKind.CHANNEL, command.channel)
    last = lookup.ref_row(view, of).generation
    if not command.generation:
        return
    move = read(view, keys.move(of, command.generation), MoveRow)
    if move is None:
        raise InvalidArgumentError("generation", f"{of} is at generation {last}")
    if move.number != command.number:
        reason = f"{of} was at v{move.number} at generation {command.generation}, not at v{command.number}"
        raise InvalidArgumentError("generation", reason)


def _check_finite(view: View, command: ReportMetrics) -> None:
    for name in sorted(command.values):
        value = command.values[name]
        if not math.isfinite(value) and not _is_watched(view, command.model, name):
            raise InvalidMetricError(name, repr(value), "it is not a finite number")


def _is_watched(view: View, model: str, metric: str) -> bool:
    """Tell whether a policy watches for values of a metric that are not finite."""
    totals = read(view, policy_keys.totals(model), PoliciesRow) or PoliciesRow()
    for name in totals.by_metric.get(metric, ()):
        found = watching.find(view, model, name)
        if found is not None and found[1].nan:
            return True
    return False
