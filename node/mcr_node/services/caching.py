"""The chunk store of a node with a cache beside it: what a read may find, and what counts as a copy.

Only `get` looks into the cache. All else, `missing` above all, is about the store: what is cached may be gone
in a moment, so nobody may count on it.
"""

from collections.abc import Callable

from mcr.errors import MissingChunkError
from mcr.model import MIB, Chunk, ChunkId
from mcr.transfer import put_in_place
from mcr_node.ports import ChunkStore
from mcr_node.ports_cache import ChunkCache
from mcr_node.services.damage import WatchedStore

# What the cache takes where nobody said otherwise: some large models.
CACHE_BYTES_DEFAULT = 65_536 * MIB
# The cache gives way before the disk is so full: uploads need the room more.
FREE_BYTES_MIN = 2_048 * MIB


class CachingStore(WatchedStore):
    """A `WatchedStore` whose reads find what is cached as well."""

    def __init__(self, store: ChunkStore, cache: ChunkCache) -> None:
        super().__init__(store)
        self.cache = cache

    def get(self, chunk_id: ChunkId) -> bytes:
        """See ChunkStore. A chunk that the store lost is healed from the cache."""
        try:
            return super().get(chunk_id)
        except MissingChunkError:
            data = self.cache.get(chunk_id)
            if data is None:
                raise
        if self.lacks(chunk_id):
            self.put([Chunk(chunk_id, data)])
        return data

    def get_into(self, chunk_id: ChunkId, place: memoryview) -> int:
        """See ChunkStore."""
        return put_in_place(self.get(chunk_id), place)


def room_bytes(
    cached_bytes: int,
    *,
    limit_bytes: int,
    bytes_free: int,
    stored_bytes: int,
    capacity_bytes: int | None,
) -> int:
    """Return what a cache may take: never what copies may need.

    Args:
        cached_bytes: what it takes now.
        limit_bytes: what it was given.
        bytes_free: of the file system.
        stored_bytes: what the store takes.
        capacity_bytes: what both may take together; None = whatever the disk holds.
    """
    room = min(limit_bytes, cached_bytes + bytes_free - FREE_BYTES_MIN)
    if capacity_bytes is not None:
        room = min(room, capacity_bytes - stored_bytes)
    return max(0, room)


def room_of(
    limit_bytes: int, capacity_bytes: int | None, store: ChunkStore, bytes_free: Callable[[], int]
) -> Callable[[int], int]:
    """Return what tells a cache what it may take now."""

    def room(cached_bytes: int) -> int:
        stored_bytes = store.stats().bytes_used if capacity_bytes is not None else 0
        return room_bytes(
            cached_bytes,
            limit_bytes=limit_bytes,
            bytes_free=bytes_free(),
            stored_bytes=stored_bytes,
            capacity_bytes=capacity_bytes,
        )

    return room
