"""`mcr.layout` for blocking callers: a part of `Client`."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from mcr.arrangement import DrainProgress, Quota
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
        return self._loop.run(self._client.drain_member(name, wait=wait, progress=progress), "cluster drain")

    def set_quota(self, scope: str, bytes_max: int | None, *, request_id: str | None = None) -> Quota | None:
        """See `AsyncClient.set_quota`."""
        return self._loop.run(self._client.set_quota(scope, bytes_max, request_id=request_id), "quota --set")

    def quotas(self, scope: str = "") -> list[Quota]:
        """See `AsyncClient.quotas`."""
        return self._loop.run(self._client.quotas(scope), "quota")

    def cancel_drain(self, name: str) -> None:
        """See `AsyncClient.cancel_drain`."""
        self._loop.run(self._client.cancel_drain(name), "cluster drain --cancel")

    def drain_progress(self, name: str) -> DrainProgress:
        """See `AsyncClient.drain_progress`."""
        return self._loop.run(self._client.drain_progress(name), "cluster drain")
