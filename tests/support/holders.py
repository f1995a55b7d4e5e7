"""The chunk stores of other nodes, in memory."""

from collections.abc import Sequence

from mcr.errors import OutOfSpaceError, UnavailableError
from mcr.model import Chunk, ChunkId
from tests.conformance.memory_chunk_store import MemoryChunkStore


class MemoryHolders:
    """`services.cluster_chunks.Holders` of nodes at some addresses, which may be silent."""

    def __init__(self, *addresses: str) -> None:
        self.stores = {address: MemoryChunkStore() for address in addresses}
        self.silent: list[str] = []
        self.full: list[str] = []
        # Chunks in the order in which they were put, and how many were asked for.
        self.put_order: list[ChunkId] = []
        self.asked = 0

    def _at(self, address: str) -> MemoryChunkStore:
        if address in self.silent:
            raise UnavailableError(address, "it does not answer")
        return self.stores[address]

    async def get(self, address: str, ids: Sequence[ChunkId]) -> list[bytes]:
        return [self._at(address).get(each) for each in ids]

    async def missing(self, address: str, ids: Sequence[ChunkId]) -> set[ChunkId]:
        self.asked += len(ids)
        return self._at(address).missing(ids)

    async def put(self, address: str, chunks: Sequence[Chunk]) -> None:
        store = self._at(address)
        if address in self.full:
            raise OutOfSpaceError(address, "it is full")
        self.put_order += [chunk.id for chunk in chunks]
        store.put(chunks)

    async def sync(self, address: str) -> None:
        self._at(address).sync()
