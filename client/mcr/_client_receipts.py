"""Receipts for blocking callers: a part of `mcr.client.Model`."""

from datetime import datetime

from mcr.aio import AsyncModel
from mcr.loop_thread import LoopThread
from mcr.receipts import LOADED
from mcr.serving import Receipt, Served


class BlockingReceipts:
    """The methods of `mcr.client.Model` about receipts; it brings the model and the loop."""

    _model: AsyncModel
    _loop: LoopThread

    def acknowledge(
        self,
        ref: str,
        consumer: str,
        *,
        rank: int = 0,
        state: str = LOADED,
        channel: str = "",
        generation: int = 0,
    ) -> int:
        """See `AsyncModel.acknowledge`."""
        work = self._model.acknowledge(
            ref, consumer, rank=rank, state=state, channel=channel, generation=generation
        )
        return self._loop.run(work, "ack")

    def served(self, *, at: datetime | None = None) -> Served:
        """See `AsyncModel.served`."""
        return self._loop.run(self._model.served(at=at), "served")

    def receipts(self, consumer: str, *, limit: int = 100) -> list[Receipt]:
        """See `AsyncModel.receipts`."""
        return self._loop.run(self._model.receipts(consumer, limit=limit), "served")
