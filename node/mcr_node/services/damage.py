"""The chunk store of a node, watched for damage: what was met damaged, and what of it was made good.

Whoever meets damage, a read, a scrub or a copy, meets it here; and whoever brings a good copy, brings it
through here. So both are counted once, in one place.
"""

import threading
from collections.abc import Iterator, Sequence

from mcr.errors import CorruptChunkError
from mcr.model import Chunk, ChunkId
from mcr.values import dataclass
from mcr_node.ports import ChunkStore, ChunkStoreStats, Compacted, HeldChunk, PutReceipt, Scrubbed

# Damaged chunks kept in mind until they are healed, some 100 bytes each. A disk with more is to be replaced;
# beyond it damage is counted, and found again as copies that are missing.
UNHEALED_MAX = 100_000


@dataclass(frozen=True, slots=True)
class DamageCounts:
    """Since the node started.

    Attributes:
        damaged: chunks met damaged and set aside.
        healed: of those, chunks that were stored anew.
        unhealed: of those, chunks that still lack.
    """

    damaged: int
    healed: int
    unhealed: int


class WatchedStore:
    """`ports.ChunkStore` over another one; may be used from several threads at once."""

    def __init__(self, store: ChunkStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._damaged = self._healed = 0
        # In the order in which they were met.
        self._unhealed: dict[ChunkId, None] = {}

    @property
    def damage(self) -> DamageCounts:
        """What was met so far."""
        with self._lock:
            return DamageCounts(self._damaged, self._healed, len(self._unhealed))

    def unhealed(self) -> list[ChunkId]:
        """Return chunks that were damaged and still lack, the oldest first."""
        with self._lock:
            return list(self._unhealed)

    def lacks(self, chunk_id: ChunkId) -> bool:
        """Say whether a chunk was damaged and still lacks."""
        with self._lock:
            return chunk_id in self._unhealed

    def _met(self, chunk_id: ChunkId) -> None:
        with self._lock:
            self._damaged += 1
            if len(self._unhealed) < UNHEALED_MAX:
                self._unhealed[chunk_id] = None

    def _brought(self, ids: Sequence[ChunkId]) -> None:
        with self._lock:
            for chunk_id in ids:
                if chunk_id in self._unhealed:
                    del self._unhealed[chunk_id]
                    self._healed += 1

    # ---- ports.ChunkStore ----

    def missing(self, ids: Sequence[ChunkId]) -> set[ChunkId]:
        """See ChunkStore."""
        return self._store.missing(ids)

    def put(self, chunks: Sequence[Chunk]) -> PutReceipt:
        """See ChunkStore."""
        receipt = self._store.put(chunks)
        if self._unhealed:
            self._brought([chunk.id for chunk in chunks])
        return receipt

    def sync(self) -> None:
        """See ChunkStore."""
        self._store.sync()

    def get(self, chunk_id: ChunkId) -> bytes:
        """See ChunkStore."""
        try:
            return self._store.get(chunk_id)
        except CorruptChunkError:
            self._met(chunk_id)
            raise

    def get_into(self, chunk_id: ChunkId, place: memoryview) -> int:
        """See ChunkStore."""
        try:
            return self._store.get_into(chunk_id, place)
        except CorruptChunkError:
            self._met(chunk_id)
            raise

    def expect(self, ids: Sequence[ChunkId]) -> None:
        """See ChunkStore."""
        self._store.expect(ids)

    def remove(self, ids: Sequence[ChunkId]) -> int:
        """See ChunkStore. What nobody needs any more need not be healed."""
        with self._lock:
            for chunk_id in ids:
                self._unhealed.pop(chunk_id, None)
        return self._store.remove(ids)

    def held(self, after: ChunkId | None) -> list[HeldChunk]:
        """See ChunkStore."""
        return self._store.held(after)

    def compact_one(self, *, live_share_min: float) -> Compacted | None:
        """See ChunkStore."""
        return self._store.compact_one(live_share_min=live_share_min)

    def compact(self, *, live_share_min: float) -> int:
        """See ChunkStore."""
        return self._store.compact(live_share_min=live_share_min)

    def scrub(self, after: ChunkId | None = None) -> Iterator[Scrubbed]:
        """See ChunkStore."""
        for found in self._store.scrub(after):
            if found.is_damaged:
                self._met(found.chunk_id)
            yield found

    def stats(self) -> ChunkStoreStats:
        """See ChunkStore."""
        return self._store.stats()

    def close(self) -> None:
        """See ChunkStore."""
        self._store.close()
