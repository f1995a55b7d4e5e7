"""`mcr.layout` for blocking callers: a part of `Client`."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from mcr.arrangement import DrainProgress
from mcr.loop_thread import LoopThread

if TYPE_CHECKING:
    from mcr.aio import AsyncClient


class BlockingLayout:
    """The methods of `Client` about the layout; it brings the rest."""

    _client: "AsyncClient"
    _loop: LoopThread

    def drain_member(
        self, name: str, *, wait: bool = True, progress: Callable[[DrainProgress], None] | None = None
    ) -> DrainProgress:
        """See `AsyncClient.drain_member`."""
        return self._loop.run(
            self._client.drain_member(name, wait=wait, progress=progress), "cluster drain", bounded=not wait
        )

    def cancel_drain(self, name: str) -> None:
        """See `AsyncClient.cancel_drain`."""
        self._loop.run(self._client.cancel_drain(name), "cluster drain --cancel")

    def drain_progress(self, name: str) -> DrainProgress:
        """See `AsyncClient.drain_progress`."""
        return self._loop.run(self._client.drain_progress(name), "cluster drain")
