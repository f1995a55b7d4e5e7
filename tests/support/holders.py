"""The chunk stores of other nodes in memory."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress

from mcr import _frames
from mcr.errors import CorruptChunkError, MissingChunkError, OutOfSpaceError, UnavailableError
from mcr.model import Chunk, ChunkId
from mcr_node.ports_garbage import Promise
from tests.conformance.memory_chunk_store import MemoryChunkStore


class MemoryHolders:
    """`services.copies.Holders` over stores in memory.

    Attributes:
        stores: by address.
        syncs: addresses, in the order they were synced.
        sent: ids that were put, by address.
        silent: addresses that do not answer.
        returning: those of them that do once they are waited for.
        loses_unsynced: those that return have lost power.
        fails_after: how many more puts an address takes before it falls silent.
        full: addresses without room.
        put_order: chunks in the order in which they were put anywhere.
        asked: how many chunks were asked for.
        vouched: ids that an address was asked to vouch for.
        restarts: addresses that lose power once, unnoticed, before they are synced.
        lives: of their processes; 1 where it is not told.
        rounds: of garbage collection, in which an address promises; 0 where it is not told.
    """

    def __init__(self, *addresses: str) -> None:
        self.stores = {address: MemoryChunkStore() for address in addresses}
        self.syncs: list[str] = []
        self.sent: dict[str, list[ChunkId]] = {address: [] for address in addresses}
        self.silent: list[str] = []
        self.returning: list[str] = []
        self.loses_unsynced = False
        self.fails_after: dict[str, int] = {}
        self.full: list[str] = []
        self.put_order: list[ChunkId] = []
        self.asked = 0
        self.restarts: list[str] = []
        self.lives: dict[str, int] = {}
        self.rounds: dict[str, int] = {}
        self.vouched: dict[str, list[ChunkId]] = {}

    def _of(self, address: str) -> MemoryChunkStore:
        if address in self.silent:
            raise UnavailableError(address, "it does not answer")
        return self.stores[address]

    async def wait_reachable(self, address: str) -> None:
        if address in self.returning:
            self.returning.remove(address)
            self.silent.remove(address)
            self.fails_after.pop(address, None)
            if self.loses_unsynced:
                self._restart(address)
        self._of(address)

    def _restart(self, address: str) -> None:
        durable = self.stores[address].durable
        self.stores[address] = MemoryChunkStore()
        self.stores[address].put([Chunk.of(data) for data in durable.values()])
        self.lives[address] = self._life(address) + 1

    def _life(self, address: str) -> int:
        return self.lives.get(address, 1)

    async def get(self, address: str, ids: Sequence[ChunkId]) -> list[bytes]:
        return [self._of(address).get(each) for each in ids]

    async def have(self, address: str, ids: Sequence[ChunkId]) -> set[ChunkId]:
        return set(ids) - self._of(address).missing(ids)

    async def fetch(self, address: str, ids: Sequence[ChunkId], *, for_site: bool) -> AsyncGenerator[bytes]:
        for chunk_id in ids:
            with suppress(MissingChunkError, CorruptChunkError):
                yield _frames.encode([Chunk(chunk_id, self._of(address).get(chunk_id))])

    async def missing(self, address: str, ids: Sequence[ChunkId]) -> set[ChunkId]:
        self.asked += len(ids)
        return self._of(address).missing(ids)

    async def promise(self, address: str, ids: Sequence[ChunkId]) -> Promise:
        missing = await self.missing(address, ids)
        return Promise(missing, self.rounds.get(address, 0), self._life(address))

    async def vouch(self, address: str, ids: Sequence[ChunkId]) -> Promise:
        lacking = self._of(address).missing(ids)
        for one in set(ids) - lacking:
            try:
                self.stores[address].get(one)
            except CorruptChunkError:
                lacking.add(one)
        self.vouched[address] = [*self.vouched.get(address, []), *ids]
        await self.sync(address)
        return Promise(lacking, self.rounds.get(address, 0))

    async def put(self, address: str, chunks: Sequence[Chunk]) -> None:
        if address in self.fails_after:
            if not self.fails_after[address]:
                self.silent.append(address)
            self.fails_after[address] -= 1
        store = self._of(address)
        if address in self.full:
            raise OutOfSpaceError(address, "it is full")
        store.put(chunks)
        self.put_order += [chunk.id for chunk in chunks]
        self.sent[address] += [chunk.id for chunk in chunks]

    async def sync(self, address: str) -> int:
        if address in self.restarts:
            self.restarts.remove(address)
            self._restart(address)
        self._of(address).sync()
        self.syncs.append(address)
        return self._life(address)
