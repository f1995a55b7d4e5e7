"""Chunks for clients in the same process: the store's blocking calls, run beside the event loop."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from mcr.blocking import run_blocking
from mcr.errors import FailedError
from mcr.model import Chunk, ChunkId
from mcr.transfer import Stored
from mcr_node.ports import ChunkStore, StorageFailure

Result = TypeVar("Result")


class LocalChunks:
    """`mcr.transfer.ChunkTransport` on a chunk store.

    Chunks come from the same process that hashed them, so they are not hashed again on the way in; bytes that
    cross a border become chunks by `mcr.transfer.verified` only.
    """

    def __init__(self, store: ChunkStore, executor: ThreadPoolExecutor) -> None:
        self._store = store
        self._executor = executor

    async def put(self, chunks: Sequence[Chunk]) -> Stored:
        """See ChunkTransport."""
        receipt = await self._run(lambda: self._store.put(chunks))
        return Stored(receipt.chunks_new, receipt.bytes_new, receipt.bytes_stored)

    async def sync(self) -> None:
        """See ChunkTransport."""
        await self._run(self._store.sync)

    async def get(self, ids: Sequence[ChunkId]) -> list[bytes]:
        """See ChunkTransport."""

        def read() -> list[bytes]:
            if len(ids) > 1:
                self._store.expect(ids)
            return [self._store.get(chunk_id) for chunk_id in ids]

        return await self._run(read)

    async def missing(self, ids: Sequence[ChunkId]) -> set[ChunkId]:
        """See ChunkTransport."""
        return await self._run(lambda: self._store.missing(ids))

    async def _run(self, work: Callable[[], Result]) -> Result:
        try:
            return await run_blocking(self._executor, work)
        except StorageFailure as error:
            raise FailedError(
                "the disk failed; end this process, look at the disk, then open the store again", str(error)
            ) from error
