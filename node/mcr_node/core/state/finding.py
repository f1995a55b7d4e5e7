"""Looking for versions that meet conditions, a bounded number of them at a time.

A search goes through a history from the newest version on. It keeps no index: which metrics and parameters
people ask for is not known beforehand, and a record is read in some 20 microseconds. Instead each search ends
after `LOOKED_AT_MAX` versions and says where to go on, so no call holds a node up, however long a history is
and however little of it fits. Whoever wants more asks again, on any node.
"""

from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush

from mcr.errors import InvalidArgumentError
from mcr.finding import Conditions
from mcr.model import RefKind
from mcr_node.core.state import keys, lookup
from mcr_node.core.state.keys import NUMBER_MAX
from mcr_node.core.state.queries import metrics_of
from mcr_node.core.state.view import View

# About a tenth of a second where every version has metrics and tags.
LOOKED_AT_MAX = 2000
# How many lines of history side by side a search can go down: as many as were merged into one version.
LINES_MAX = 10_000


class Search:
    """One pass over a part of a model's history.

    Iterate over it for the numbers of versions that fit, newest first; `rest` says where to go on.
    """

    def __init__(
        self, view: View, model: str, conditions: Conditions, *, start: Sequence[int], ancestry: bool
    ) -> None:
        """Begin.

        Args:
            view: where to read.
            model: the model.
            conditions: what to look for.
            start: numbers of versions to go on from, each with what comes before it.
            ancestry: what comes before a version are its parents; else the one with the next smaller number.

        Raises:
            InvalidArgumentError: too many, or impossible, numbers to start from.
        """
        if len(start) > LINES_MAX or not all(0 < number <= NUMBER_MAX for number in start):
            raise InvalidArgumentError("next", f"not 1 to {LINES_MAX} numbers of versions")
        self._view = view
        self._model = model
        self._conditions = conditions
        self._ancestry = ancestry
        # Smallest first, so numbers are kept negative. What is taken never comes back: all that is put in
        # later is smaller than what was taken, see `queries.list_ancestry`.
        self._pending = [-number for number in dict.fromkeys(start)]
        heapify(self._pending)
        self._waiting = dict.fromkeys(start)

    def __iter__(self) -> Iterator[int]:
        for _ in range(LOOKED_AT_MAX):
            if not self._pending:
                return
            number = -heappop(self._pending)
            del self._waiting[number]
            if self._step(number):
                yield number

    @property
    def rest(self) -> tuple[int, ...]:
        """Where to go on, greatest first; empty = all was looked at."""
        return tuple(-number for number in sorted(self._pending))

    def put_back(self, number: int) -> None:
        """Leave a version that was found to the next search, because there was no room for it."""
        self._push(number)

    def _step(self, number: int) -> bool:
        record = lookup.record(self._view, self._model, number)
        conditions = self._conditions
        since_ms = conditions.since_ms
        if since_ms is not None and record.created_at_ms < since_ms:
            # Log time never goes back, so all that comes before is older still.
            return False
        for before in record.parents if self._ancestry else (number - 1,):
            if before:
                self._push(before)
        fits = conditions.fit_record(
            creator=record.creator, parameters=record.parameters, created_at_ms=record.created_at_ms
        )
        if fits and conditions.metrics:
            fits = conditions.fit_metrics(metrics_of(self._view, self._model, number))
        if fits and conditions.tags:
            fits = conditions.fit_tags(self._tags(number))
        return fits

    def _push(self, number: int) -> None:
        if number not in self._waiting:
            self._waiting[number] = None
            heappush(self._pending, -number)

    def _tags(self, number: int) -> list[str]:
        pointers = (
            keys.pointer_in(self._model, key)
            for key, _ in self._view.scan(*keys.pointers(self._model, number))
        )
        return [of.name for of in pointers if of.kind is RefKind.TAG]
