"""Several reports of metrics in one entry of the log: each as if it had one of its own, but cheaper.

Laws:
    A report is judged, remembered under its own request id, accepted or rejected as by itself, in their
    order: what comes behind it in the same command finds what it left. A rejected one leaves nothing.
    A policy decides once in an entry, as ever: the report on which it does is the last of its entry. The rest
    is left, and whoever proposed the command proposes it again.
    What reports of a version share is written once: the latest value of each metric, their count, and one row
    that holds them all.
"""

from dataclasses import replace

from mcr.errors import CorruptError, McrError, StoreFormatError
from mcr.model import LogIndex, RequestId
from mcr_node.core.state import keys, policy_keys, reporting, requests, watching
from mcr_node.core.state.commands import ReportMany, ReportMetrics
from mcr_node.core.state.metrics import Kept
from mcr_node.core.state.outcomes import Accepted, Outcome, Rejected, ReportResult, ReportsResult
from mcr_node.core.state.records import StateRow, read
from mcr_node.core.state.step import Step
from mcr_node.core.state.view import Overlay
from mcr_node.core.state.watching import Report


def report_many(overlay: Overlay, index: LogIndex, command: ReportMany) -> ReportsResult:
    """Record several reports; see the laws of this module."""
    state = read(overlay, keys.STATE, StateRow) or StateRow()
    step = Step(overlay, index, max(command.at_ms, state.last_at_ms), command.principal)
    kept = Kept(step)
    outcomes: list[Outcome] = []
    accepted: list[RequestId] = []
    for report in command.reports:
        try:
            content = requests.fingerprint(report)
            outcome = requests.recall(overlay, report.request_id, content)
            if outcome is None:
                result = _report(step, kept, report)
                outcome = Accepted(index, result)
                requests.write(step, report.request_id, content, result)
                accepted.append(report.request_id)
        except (CorruptError, StoreFormatError):
            raise
        except McrError as error:
            outcomes.append(Rejected(index, error.code, error.fields()))
            continue
        outcomes.append(outcome)
        if not outcome.already_applied and result.decision:
            break
    if accepted:
        kept.write()
        requests.remember_many(step, accepted, state=state)
    return ReportsResult(tuple(outcomes))


def _report(step: Step, kept: Kept, report: ReportMetrics) -> ReportResult:
    """Record one.

    Raises:
        McrError: as `reporting.report`; nothing is left of it.
    """
    model, number = report.model, report.number
    reporting.check(step.overlay, report)
    count = kept.check(model, number, report.values)
    decision = ""
    if step.overlay.get(policy_keys.totals(model)) is not None:
        # Policies read the latest values, and whatever they do goes with the report or not at all.
        mine = replace(step, overlay=Overlay(step.overlay))
        kept.write_values(mine, model, number, report.values)
        seen = Report(model, number, report.values, report.channel, report.generation)
        decision = watching.note(mine, seen, may_move=True)
        step.overlay.take(mine.overlay)
    kept.add(model, number, report.values, report.channel, count)
    return ReportResult(number, count, decision)
