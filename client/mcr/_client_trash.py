"""Deletions, the trash and pins for blocking callers: parts of `mcr.client.Model` and `mcr.client.Client`."""

from collections.abc import Sequence

from mcr.aio import AsyncClient, AsyncModel
from mcr.keeping import CollectionPlan, Deleted, Pin, TrashItem
from mcr.loop_thread import LoopThread


class BlockingTrash:
    """The methods of `mcr.client.Model`; it brings the model and the loop."""

    _model: AsyncModel
    _loop: LoopThread

    def delete(
        self,
        refs: Sequence[str],
        *,
        reason: str = "",
        keep_s: float | None = None,
        skip_in_use: bool = False,
    ) -> Deleted:
        """See `AsyncModel.delete`."""
        work = self._model.delete(refs, reason=reason, keep_s=keep_s, skip_in_use=skip_in_use)
        return self._loop.run(work, "delete")

    def delete_tag(self, name: str, *, reason: str = "") -> None:
        """See `AsyncModel.delete_tag`."""
        self._loop.run(self._model.delete_tag(name, reason=reason), "delete")

    def delete_channel(self, name: str, *, reason: str = "") -> None:
        """See `AsyncModel.delete_channel`."""
        self._loop.run(self._model.delete_channel(name, reason=reason), "delete")

    def delete_all(self, *, reason: str = "", keep_s: float | None = None) -> Deleted:
        """See `AsyncModel.delete_all`."""
        return self._loop.run(self._model.delete_all(reason=reason, keep_s=keep_s), "delete")

    def restore(self, versions: Sequence[int] = ()) -> int:
        """See `AsyncModel.restore`."""
        return self._loop.run(self._model.restore(versions), "trash restore")

    def trash(self) -> list[TrashItem]:
        """See `AsyncModel.trash`."""
        return self._loop.run(self._model.trash(), "trash list")

    def empty_trash(self, versions: Sequence[int] = ()) -> int:
        """See `AsyncModel.empty_trash`."""
        return self._loop.run(self._model.empty_trash(versions), "trash empty")

    def pin(self, ref: str, *, reason: str = "") -> bool:
        """See `AsyncModel.pin`."""
        return self._loop.run(self._model.pin(ref, reason=reason), "pin")

    def unpin(self, ref: str) -> bool:
        """See `AsyncModel.unpin`."""
        return self._loop.run(self._model.unpin(ref), "unpin")

    def pins(self) -> list[Pin]:
        """See `AsyncModel.pins`."""
        return self._loop.run(self._model.pins(), "pins")


class BlockingTrashOfAll:
    """The methods of `mcr.client.Client`; it brings the client and the loop."""

    _client: AsyncClient
    _loop: LoopThread

    def trash(self) -> list[TrashItem]:
        """See `AsyncClient.trash`."""
        return self._loop.run(self._client.trash(), "trash list")

    def empty_trash(self) -> int:
        """See `AsyncClient.empty_trash`."""
        return self._loop.run(self._client.empty_trash(), "trash empty")

    def plan_collection(self, *, member: str = "") -> CollectionPlan:
        """See `AsyncClient.plan_collection`."""
        return self._loop.run(self._client.plan_collection(member=member), "gc --dry-run")
