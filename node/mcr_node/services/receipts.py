"""mcr.v1.ReceiptsService: what is really loaded where. Decisions are made in core/state."""

from mcr import _wire_receipts as wire
from mcr.errors import InvalidArgumentError
from mcr.references import check_model
from mcr.v1 import receipts_pb2 as pb
from mcr_node.core.state import served
from mcr_node.core.state.commands import Acknowledge
from mcr_node.core.state.outcomes import ReceiptResult
from mcr_node.core.state.queries import PAGE_MAX
from mcr_node.core.state.receipts import check_consumer
from mcr_node.services.log_calls import LogCalls


class ReceiptsService(LogCalls):
    """The service for one principal, as authenticated at the edge."""

    async def acknowledge(self, request: pb.AcknowledgeRequest) -> pb.AcknowledgeResponse:
        """Note a receipt."""
        accepted = await self._propose(
            Acknowledge(
                **self._envelope(request.header),
                model=request.model,
                number=request.number,
                channel=request.channel,
                generation=request.generation,
                consumer=request.consumer,
                rank=request.rank,
                state=wire.state_from_wire(request.state),
            )
        )
        assert isinstance(accepted.result, ReceiptResult)
        return pb.AcknowledgeResponse(log_index=accepted.index, generation=accepted.result.generation)

    async def list_served(self, request: pb.ListServedRequest) -> pb.ListServedResponse:
        """List what consumers have loaded."""
        model, limit = check_model(request.model), _limit(request.limit)
        at_ms = request.at_ms if request.HasField("at_ms") else None
        after = (request.after_consumer, request.after_rank)
        index = await self._fresh(request.read)
        page = await self._read(
            lambda view: served.served(view, model, at_ms=at_ms, after=after, limit=limit)
        )
        return pb.ListServedResponse(
            servings=[wire.serving_to_wire(serving) for serving in page.servings],
            next_consumer=page.next_consumer,
            next_rank=page.next_rank,
            complete=page.is_complete,
            log_index=index,
        )

    async def list_receipts(self, request: pb.ListReceiptsRequest) -> pb.ListReceiptsResponse:
        """List the receipts of a consumer."""
        model, limit = check_model(request.model), _limit(request.limit)
        check_consumer(request.consumer)
        index = await self._fresh(request.read)
        found = await self._read(lambda view: served.receipts_of(view, model, request.consumer, limit=limit))
        return pb.ListReceiptsResponse(
            receipts=[wire.receipt_to_wire(receipt) for receipt in found], log_index=index
        )


def _limit(limit: int) -> int:
    if not 0 < limit <= PAGE_MAX:
        raise InvalidArgumentError("limit", f"{limit} is not between 1 and {PAGE_MAX}")
    return limit
