"""Disks of chunks: what was not synced is gone with the power, bytes go bad, room runs out."""

from collections.abc import Iterator, Sequence

from mcr.errors import CorruptChunkError, OutOfSpaceError
from mcr.model import Chunk, ChunkId, digest
from mcr_node.ports import PutReceipt, Scrubbed
from mcr_node.ports_scrub import ScrubPlace
from tests.conformance.memory_chunk_store import MemoryChunkStore
from tests.simulation.chunks.virtual import Life
from tests.simulation.cluster.world import World


class Disk(MemoryChunkStore):
    """`ports.ChunkStore` of a node; survives it, less what was not synced."""

    def __init__(self) -> None:
        super().__init__()
        self.life: Life | None = None
        self.is_full = False
        # Thrown away, with all that was on it.
        self.is_gone = False
        self.place = ScrubPlace()
        # Chunks that went bad here and were not met since.
        self.bad: dict[ChunkId, None] = {}
        self.breaches: list[str] = []

    def crash(self, world: World) -> None:
        """Lose power: of what was not synced, a part reached the disk all the same."""
        unsynced = [one for one in self._chunks if one not in self.durable]
        kept = [one for one in unsynced if world.happens(300)]
        self.durable |= {one: self._chunks[one] for one in kept}
        self._chunks = dict(self.durable)

    def destroy(self) -> None:
        """Lose all."""
        self.is_gone = True
        self._chunks, self.durable = {}, {}
        self.bad.clear()

    def rot(self, chunk_id: ChunkId) -> None:
        """Change a byte of a durable chunk."""
        self.damage(chunk_id)
        self.durable[chunk_id] = self._chunks[chunk_id]
        self.bad[chunk_id] = None

    def has(self, chunk_id: ChunkId) -> bool:
        """Say whether a copy is on the disk for good, damaged or not."""
        return chunk_id in self.durable

    def has_good(self, chunk_id: ChunkId) -> bool:
        """Say whether a copy is on the disk for good that can be read."""
        data = self.durable.get(chunk_id)
        return data is not None and chunk_id not in self.bad

    # ---- ports.ChunkStore and ports.ScrubPlaces ----

    def _check(self) -> None:
        assert self.life is not None
        self.life.check()

    def put(self, chunks: Sequence[Chunk]) -> PutReceipt:
        self._check()
        if self.is_full:
            raise OutOfSpaceError("the chunks", "the disk is full")
        for chunk in chunks:
            if digest(chunk.data) != chunk.id:
                # Said aloud at the next look, whatever becomes of it here.
                self.breaches.append(f"truth: other bytes are stored as {chunk.id.hex()[:12]}")
        return super().put(chunks)

    def sync(self) -> None:
        self._check()
        super().sync()

    def get(self, chunk_id: ChunkId) -> bytes:
        self._check()
        try:
            return super().get(chunk_id)
        except CorruptChunkError:
            # Set aside, also after a restart.
            self.durable.pop(chunk_id, None)
            self.bad.pop(chunk_id, None)
            raise

    def missing(self, ids: Sequence[ChunkId]) -> set[ChunkId]:
        self._check()
        return {one for one in ids if one not in self._chunks}

    def remove(self, ids: Sequence[ChunkId]) -> int:
        self._check()
        for chunk_id in ids:
            self.bad.pop(chunk_id, None)
        return super().remove(ids)

    def scrub(self, after: ChunkId | None = None) -> Iterator[Scrubbed]:
        for found in super().scrub(after):
            self._check()
            yield found

    def read(self) -> ScrubPlace:
        return self.place

    def write(self, place: ScrubPlace) -> None:
        self._check()
        self.place = place
