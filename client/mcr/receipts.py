"""Receipts, as consumers give them and as others ask for them: a part of `AsyncModel`."""

from collections.abc import AsyncIterator
from datetime import datetime

from mcr import _wire_receipts as wire
from mcr.errors import InvalidArgumentError
from mcr.reading import PAGE_MAX, ModelReader
from mcr.references import Selector
from mcr.reporting import write_header
from mcr.serving import Receipt, Served, Serving
from mcr.v1 import receipts_pb2 as pb

LOADED, FAILED, GONE = "loaded", "failed", "gone"


class ReceiptCalls(ModelReader):
    """The methods of `AsyncModel` about receipts."""

    async def acknowledge(
        self,
        ref: str,
        consumer: str,
        *,
        rank: int = 0,
        state: str = LOADED,
        channel: str = "",
        generation: int = 0,
    ) -> int:
        """Say what a consumer has loaded; return the generation of the channel that the receipt speaks of.

        A version that somebody has loaded is not collected as garbage. The same again is a sign of life.

        Args:
            ref: the version. Where it names a channel, as `channel:production`, that channel is meant below.
            consumer: name of the process, or of the job that it is a part of; 1 to 256 characters.
            rank: which process of the job.
            state: `loaded`; `failed`: could not be loaded, what was before stays; `gone`: the consumer ends.
            channel: that told the consumer to load the version; "" = none.
            generation: at which the channel was at the version; 0 = the latest such.

        Raises:
            ReferenceNotFoundError: no such version or channel.
            InvalidArgumentError: the channel was not at the version at that generation.
        """
        reference = self._reference(ref)
        if not channel and reference.selector is Selector.CHANNEL:
            channel = reference.name
        answer = await self._connection.receipts.acknowledge(
            pb.AcknowledgeRequest(
                header=write_header(None),
                model=self.name,
                number=await self._number(ref),
                channel=channel,
                generation=generation,
                consumer=consumer,
                rank=rank,
                state=wire.state_to_wire(state),
            )
        )
        return answer.generation

    async def served(self, *, at: datetime | None = None) -> Served:
        """Return what consumers have loaded, by their receipts: now, or at a time.

        Raises:
            ModelNotFoundError: there is no such model.
            InvalidArgumentError: `at` has no time zone.
        """
        if at is not None and at.tzinfo is None:
            raise InvalidArgumentError("at", "the time needs a zone")
        found: list[Serving] = []
        complete = True
        async for page in self._served(None if at is None else int(at.timestamp() * 1000)):
            found += [wire.serving_from_wire(serving) for serving in page.servings]
            complete = complete and page.complete
        return Served(tuple(found), complete)

    async def _served(self, at_ms: int | None) -> AsyncIterator[pb.ListServedResponse]:
        request = pb.ListServedRequest(model=self.name, at_ms=at_ms, limit=PAGE_MAX)
        while True:
            page = await self._connection.receipts.list_served(request)
            yield page
            if not page.next_consumer:
                return
            request.after_consumer, request.after_rank = page.next_consumer, page.next_rank

    async def receipts(self, consumer: str, *, limit: int = 100) -> list[Receipt]:
        """List the receipts of all ranks of a consumer that are remembered, newest first.

        Raises:
            ModelNotFoundError: there is no such model.
        """
        answer = await self._connection.receipts.list_receipts(
            pb.ListReceiptsRequest(model=self.name, consumer=consumer, limit=min(limit, PAGE_MAX))
        )
        return [wire.receipt_from_wire(receipt) for receipt in answer.receipts]
