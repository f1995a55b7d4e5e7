"""The snapshot that is ready to be sent: made when raft asks for one, kept while it is of use."""

import asyncio

from mcr.errors import McrError
from mcr_node.ports import Snapshots, SnapshotSource, StatePosition


class SnapshotShelf:
    """At most one snapshot. Making one takes as long as writing what the state has in memory.

    It has a thread of its own: the state is written meanwhile, but for the milliseconds of the checkpoint.
    """

    def __init__(self, snapshots: Snapshots | None) -> None:
        """Make snapshots of these; None = never."""
        self._snapshots = snapshots
        self._source: SnapshotSource | None = None
        self._making: asyncio.Task[None] | None = None
        self._is_used = True

    @property
    def is_making(self) -> bool:
        """Whether a snapshot is being made; writing the state may have to wait for a moment meanwhile."""
        return self._making is not None and not self._making.done()

    def position(self) -> StatePosition | None:
        """Return what the snapshot is a snapshot of; None = there is none, and one is being made."""
        if self._snapshots is None:
            return None
        if self._source is not None and not self._is_used:
            return self._source.manifest.position
        if not self.is_making:
            self._making = asyncio.ensure_future(self._make(self._snapshots))
        return None

    def source(self, index: int) -> SnapshotSource | None:
        """Return the snapshot at `index`, to be sent; the next follower gets a newer one."""
        source = self._source
        if source is None or source.manifest.position.applied != index:
            return None
        self._is_used = True
        return source

    async def _make(self, snapshots: Snapshots) -> None:
        try:
            self._source = await asyncio.to_thread(snapshots.export)
        except McrError:
            # No space for it: asked for again with the next heartbeat, and the disk's alarm says why.
            return
        self._is_used = False

    async def close(self) -> None:
        """Wait until nothing is being made."""
        if self._making is not None:
            await asyncio.gather(self._making, return_exceptions=True)
