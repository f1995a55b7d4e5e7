"""The part of mcr.v1.VersionsService about metrics: one report, or many with one entry of the log."""

from collections.abc import Sequence

from mcr.errors import InvalidArgumentError, McrError
from mcr.model import MIB
from mcr.v1 import versions_pb2 as pb
from mcr_node.core.state import checks
from mcr_node.core.state.commands import ReportMany, ReportMetrics
from mcr_node.core.state.outcomes import Outcome, Rejected, ReportResult, ReportsResult
from mcr_node.services import errors
from mcr_node.services.log_calls import LogCalls, request_id_of

# In one call; as many as a page may have.
REPORTS_MAX = 1000
# Of the requests whose reports share an entry. An entry takes twice as much, and any one report fits.
ENTRY_BYTES_MAX = 1 * MIB

Answer = pb.ReportMetricsResponse | McrError


class ReportCalls(LogCalls):
    """What `VersionsService` does about metrics."""

    async def report_metrics(self, request: pb.ReportMetricsRequest) -> pb.ReportMetricsResponse:
        """Record metrics."""
        accepted = await self._propose(self._report_of(request, self._log.clock.now_ms()))
        assert isinstance(accepted.result, ReportResult)
        return pb.ReportMetricsResponse(log_index=accepted.index, decision=accepted.result.decision)

    async def batch_report_metrics(
        self, request: pb.BatchReportMetricsRequest
    ) -> pb.BatchReportMetricsResponse:
        """Record many reports in their order, each by itself; they share entries, messages and syncs."""
        if not 0 < len(request.reports) <= REPORTS_MAX:
            raise InvalidArgumentError(
                "reports", f"{len(request.reports)} in one call, 1 to {REPORTS_MAX} allowed"
            )
        response = pb.BatchReportMetricsResponse()
        for answer in await self._report_all(request.reports):
            if isinstance(answer, McrError):
                response.results.add(error=errors.detail_of(answer))
            else:
                response.results.add(log_index=answer.log_index)
        return response

    async def _report_all(self, requests: Sequence[pb.ReportMetricsRequest]) -> list[Answer]:
        """Propose reports, entry after entry, for what one decides changes how the next ones are judged."""
        answers: list[Answer | None] = [None] * len(requests)
        waiting: list[tuple[int, ReportMetrics]] = []
        at_ms = self._log.clock.now_ms()
        for place, request in enumerate(requests):
            try:
                report = self._report_of(request, at_ms)
                checks.check(report)
                waiting.append((place, report))
            except McrError as error:
                answers[place] = error
        while waiting:
            part = waiting[: _fitting([requests[place] for place, _ in waiting])]
            told = await self._report_part([report for _, report in part])
            for (place, _), answer in zip(part, told, strict=False):
                answers[place] = answer
            waiting = waiting[len(told) :]
        return [answer for answer in answers if answer is not None]

    async def _report_part(self, reports: Sequence[ReportMetrics]) -> list[Answer]:
        """Propose reports as one entry; return answers to the first of them, to one at least."""
        first = reports[0]
        command = ReportMany(
            request_id=first.request_id,
            principal=first.principal,
            at_ms=first.at_ms,
            reports=tuple(reports),
        )
        try:
            accepted = await self._propose(command)
        except McrError as error:
            # It is that of each.
            return [error] * len(reports)
        assert isinstance(accepted.result, ReportsResult)
        assert accepted.result.outcomes, "the first one always has its turn"
        return [_answer(outcome) for outcome in accepted.result.outcomes]

    def _report_of(self, request: pb.ReportMetricsRequest, at_ms: int) -> ReportMetrics:
        return ReportMetrics(
            request_id=request_id_of(request.header),
            principal=self._principal,
            at_ms=at_ms,
            model=request.model,
            number=request.number,
            values={metric.name: metric.value for metric in request.metrics},
            channel=request.channel,
            allow_non_finite=request.allow_non_finite,
            generation=request.generation,
        )


def _fitting(requests: Sequence[pb.ReportMetricsRequest]) -> int:
    """Return how many of the first requests share an entry; one at least."""
    size_bytes = 0
    for count, request in enumerate(requests[: checks.REPORTS_MAX]):
        size_bytes += request.ByteSize()
        if count and size_bytes > ENTRY_BYTES_MAX:
            return count
    return min(len(requests), checks.REPORTS_MAX)


def _answer(outcome: Outcome) -> Answer:
    if isinstance(outcome, Rejected):
        return outcome.error()
    assert isinstance(outcome.result, ReportResult)
    return pb.ReportMetricsResponse(log_index=outcome.index, decision=outcome.result.decision)
