"""Merges for blocking callers: a part of `mcr.client.Model`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mcr.aio import AsyncModel
from mcr.loop_thread import LoopThread
from mcr.model import Version
from mcr.references import DEFAULT_BRANCH

if TYPE_CHECKING:
    from mcr.merging.document import Document
    from mcr.merging.waiting import MergeOutcome, WaitingMerge
    from mcr.merging.writing import Progress


class BlockingMerges:
    """The methods of `mcr.client.Model` about merges; it brings the model and the loop."""

    _model: AsyncModel
    _loop: LoopThread

    def merge(
        self,
        source: str,
        *,
        into: str = DEFAULT_BRANCH,
        strategies: Sequence[str] = (),
        choices: Mapping[str, str | Path] | None = None,
        message: str | None = None,
        durability: str | int | None = None,
        request_id: str | None = None,
        progress: Progress | None = None,
    ) -> MergeOutcome:
        """See `AsyncModel.merge`; `progress` is called from another thread."""
        work = self._model.merge(
            source,
            into=into,
            strategies=strategies,
            choices=choices,
            message=message,
            durability=durability,
            request_id=request_id,
            progress=progress,
        )
        return self._loop.run(work, "merge")

    def merges(self) -> list[WaitingMerge]:
        """See `AsyncModel.merges`."""
        return self._loop.run(self._model.merges(), "conflicts")

    def conflicts(self, merge: int) -> WaitingMerge:
        """See `AsyncModel.conflicts`."""
        return self._loop.run(self._model.conflicts(merge), "conflicts")

    def resolve(
        self,
        merge: int,
        choices: Mapping[str, str | Path],
        *,
        durability: str | int | None = None,
        progress: Progress | None = None,
    ) -> MergeOutcome | None:
        """See `AsyncModel.resolve`; `progress` is called from another thread."""
        work = self._model.resolve(merge, choices, durability=durability, progress=progress)
        return self._loop.run(work, "conflicts")

    def drop_merge(self, merge: int) -> None:
        """See `AsyncModel.drop_merge`."""
        self._loop.run(self._model.drop_merge(merge), "conflicts")

    def merge_document(self, ref: str) -> Document:
        """See `AsyncModel.merge_document`."""
        return self._loop.run(self._model.merge_document(ref), "merge")

    def replay(self, ref: str, *, progress: Progress | None = None) -> Version:
        """See `AsyncModel.replay`; `progress` is called from another thread."""
        return self._loop.run(self._model.replay(ref, progress=progress), "merge")
