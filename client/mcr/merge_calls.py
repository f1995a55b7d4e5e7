"""Merges, as a client asks for them: a part of `AsyncModel`. Only who merges loads `mcr.merges`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mcr.reading import ModelReader
from mcr.references import DEFAULT_BRANCH

if TYPE_CHECKING:
    from mcr.merges import Merges
    from mcr.merging.document import Document
    from mcr.merging.waiting import MergeOutcome, WaitingMerge
    from mcr.merging.writing import Progress
    from mcr.model import Version


class MergeCalls(ModelReader):
    """The methods of `AsyncModel` about merges."""

    async def merge(
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
        """Merge a version into a branch: files, parameters and tensors, three-way.

        The base is the newest common ancestor through all parents. What one side changed is taken; what both
        changed in different ways is a conflict, decided by `choices`, else by the first of `strategies` that
        fits. If any stays open nothing is published: the merge waits in the cluster, see `conflicts`.

        Args:
            source: reference of what is merged.
            into: branch that the result goes to; it must not move meanwhile.
            strategies: `PATTERN=ours|theirs|base|mean|weighted:W|slerp:T|ties:D`, see `mcr.merging.choices`.
            choices: by name of a conflict, a strategy, `value:JSON`, or the path of a file.
            message: description; made up by default.
            durability: see `commit`.
            request_id: see `commit`.
            progress: called from the event loop.

        Raises:
            ConflictsLeftError: conflicts are open; names the merge that waits.
            HeadMovedError: the branch moved meanwhile; nothing was published.
            MissingExtraError: a tensor must be computed, and NumPy is not installed.
        """
        return await self._merges().merge(
            source,
            into=into,
            strategies=strategies,
            choices=choices,
            message=message,
            durability=durability,
            request_id=request_id,
            progress=progress,
        )

    async def merges(self) -> list[WaitingMerge]:
        """List the merges that wait for decisions, by number."""
        return await self._merges().merges()

    async def conflicts(self, merge: int) -> WaitingMerge:
        """Return a merge that waits, with its conflicts.

        Raises:
            MergeNotFoundError: there is none of that number, or no longer.
        """
        return await self._merges().conflicts(merge)

    async def resolve(
        self,
        merge: int,
        choices: Mapping[str, str | Path],
        *,
        durability: str | int | None = None,
        progress: Progress | None = None,
    ) -> MergeOutcome | None:
        """Decide conflicts of a merge that waits; the last decision publishes it.

        Args:
            merge: its number.
            choices: as for `merge`; may be empty, to publish what is decided.
            durability: see `commit`.
            progress: called from the event loop.

        Returns:
            What was published; None when conflicts are left.

        Raises:
            MergeNotFoundError: there is no such merge.
            InvalidArgumentError: there is no such conflict, or a choice does not fit it.
            HeadMovedError: all is decided, but the branch moved since the merge was opened: merge again, with
                these decisions (`mcr conflicts MODEL ID --save FILE`).
        """
        return await self._merges().resolve(merge, choices, durability=durability, progress=progress)

    async def drop_merge(self, merge: int) -> None:
        """Forget a merge that waits, with what was decided.

        Raises:
            MergeNotFoundError: there is none of that number, or no longer.
        """
        return await self._merges().drop_merge(merge)

    async def merge_document(self, ref: str) -> Document:
        """Return how a merge version was computed, and who decided what.

        Raises:
            MergeNotFoundError: the version is no merge.
        """
        return await self._merges().merge_document(ref)

    async def replay(self, ref: str, *, progress: Progress | None = None) -> Version:
        """Compute a merge version again from what it was made of, and prove that the bytes are the same.

        Nothing is stored. Every byte of the result goes into the root of its manifest, which is compared.

        Raises:
            MergeNotFoundError: the version is no merge.
            ReplayDiffersError: something else came of it.
            StoreFormatError: it was computed by definitions of a newer release.
        """
        return await self._merges().replay(ref, progress=progress)

    def _merges(self) -> Merges:
        from mcr.merges import Merges

        return Merges(self._connection, self._executor, self.name)
