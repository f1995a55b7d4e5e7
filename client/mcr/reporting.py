"""Metrics, as a client reports them: a part of `AsyncModel`."""

import secrets
from collections.abc import Mapping, Sequence

from mcr import _wire
from mcr.errors import InvalidArgumentError
from mcr.model import REQUEST_ID_BYTES_MAX
from mcr.reading import ModelReader
from mcr.v1 import versions_pb2 as pb

# Some dozen kilobytes, and a few batches of the log.
REPORTS_PER_CALL = 256


class ReportCalls(ModelReader):
    """The methods of `AsyncModel` that report metrics."""

    async def report(
        self,
        ref: str,
        values: Mapping[str, float],
        *,
        channel: str = "",
        generation: int = 0,
        allow_non_finite: bool = False,
    ) -> str:
        """Record metrics for a version, and return what policies decided on them; "" when nothing.

        Args:
            ref: the version.
            values: by metric.
            channel: whose fleet measured them; "" = nobody's in particular.
            generation: at which that channel was when they were measured; 0 = not said. A late report that
                says it is not taken for one about a later time at the same version.
            allow_non_finite: accept NaN and infinities also where no policy watches for them.

        Raises:
            InvalidMetricError: NaN or infinite without `allow_non_finite`, or too many.
        """
        answer = await self._connection.versions.report_metrics(
            pb.ReportMetricsRequest(
                header=write_header(None),
                model=self.name,
                number=await self._number(ref),
                metrics=_wire.metrics_to_wire(values),
                channel=channel,
                generation=generation,
                allow_non_finite=allow_non_finite,
            )
        )
        return answer.decision

    async def report_many(
        self,
        ref: str,
        reports: Sequence[Mapping[str, float]],
        *,
        channel: str = "",
        allow_non_finite: bool = False,
    ) -> None:
        """Record many reports for a version, such as one a step of training; sooner than one by one.

        Args:
            ref: what they are about.
            reports: in the order in which they count; the last value of a metric is the latest.
            channel: see `report`.
            allow_non_finite: see `report`.

        Raises:
            InvalidMetricError: as `report`, for the first that was refused; others are recorded all the same.
        """
        number = await self._number(ref)
        for start in range(0, len(reports), REPORTS_PER_CALL):
            answer = await self._connection.versions.batch_report_metrics(
                pb.BatchReportMetricsRequest(
                    reports=[
                        pb.ReportMetricsRequest(
                            header=write_header(None),
                            model=self.name,
                            number=number,
                            metrics=_wire.metrics_to_wire(values),
                            channel=channel,
                            allow_non_finite=allow_non_finite,
                        )
                        for values in reports[start : start + REPORTS_PER_CALL]
                    ]
                )
            )
            for result in answer.results:
                if result.error:
                    raise _wire.error_from_wire(result.error)


def write_header(request_id: str | None) -> pb.WriteHeader:
    """Return what every write carries: a request id, given or drawn.

    Raises:
        InvalidArgumentError: the one given is too long, or empty.
    """
    if request_id is None:
        return pb.WriteHeader(request_id=secrets.token_bytes(16))
    data = request_id.encode()
    if not 0 < len(data) <= REQUEST_ID_BYTES_MAX:
        raise InvalidArgumentError(
            "request_id", f"it has {len(data)} bytes, 1 to {REQUEST_ID_BYTES_MAX} allowed"
        )
    return pb.WriteHeader(request_id=data)
