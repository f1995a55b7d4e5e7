"""`mcr.layout` for blocking callers: a part of `Client`."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from mcr.arrangement import DrainProgress, Layout, LayoutPlan, Quota
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

    def layout(self) -> Layout:
        """See `AsyncClient.layout`."""
        return self._loop.run(self._client.layout(), "cluster layout show")

    def plan_layout(self) -> LayoutPlan:
        """See `AsyncClient.plan_layout`."""
        return self._loop.run(self._client.plan_layout(), "cluster layout show")

    def stage_layout(
        self,
        name: str,
        *,
        site: str | None = None,
        capacity_bytes: int | None = None,
        leaving: bool | None = None,
        reset: bool = False,
        expected_epoch: int | None = None,
    ) -> int:
        """See `AsyncClient.stage_layout`."""
        staged = self._client.stage_layout(
            name,
            site=site,
            capacity_bytes=capacity_bytes,
            leaving=leaving,
            reset=reset,
            expected_epoch=expected_epoch,
        )
        return self._loop.run(staged, "cluster layout stage")

    def apply_layout(self, *, expected_epoch: int | None = None) -> int:
        """See `AsyncClient.apply_layout`."""
        return self._loop.run(
            self._client.apply_layout(expected_epoch=expected_epoch), "cluster layout apply"
        )
