"""Finding versions, and what they were derived from, for blocking callers: a part of `mcr.client.Model`."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from mcr.aio import AsyncModel
from mcr.finding import Condition
from mcr.loop_thread import LoopThread
from mcr.model import ParameterValue, Version
from mcr.reading import Lineage
from mcr.references import DEFAULT_BRANCH


class BlockingFinding:
    """The methods of `mcr.client.Model` that find versions; it brings the model and the loop."""

    _model: AsyncModel
    _loop: LoopThread

    def find(
        self,
        *,
        metrics: Iterable[str | Condition] = (),
        params: Mapping[str, ParameterValue] | Iterable[str | Condition] = (),
        since: datetime | None = None,
        until: datetime | None = None,
        creator: str = "",
        tags: Iterable[str] = (),
        ref: str | None = None,
        limit: int | None = 100,
    ) -> list[Version]:
        """See `AsyncModel.find`."""
        work = self._model.find(
            metrics=metrics,
            params=params,
            since=since,
            until=until,
            creator=creator,
            tags=tags,
            ref=ref,
            limit=limit,
        )
        return self._loop.run(work, "log")

    def lineage(self, ref: str = DEFAULT_BRANCH, *, limit: int = 100) -> Lineage:
        """See `AsyncModel.lineage`."""
        return self._loop.run(self._model.lineage(ref, limit=limit), "show")
