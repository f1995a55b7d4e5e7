"""mcr.v1.AdminService: totals and health of this node's store."""

from collections.abc import Callable

from mcr.v1 import admin_pb2 as pb
from mcr_node.ports import ChunkStore, LogStore
from mcr_node.runtime.runner import Runner


class AdminService:
    """The service over one node's parts."""

    def __init__(
        self,
        runner: Runner,
        log: LogStore,
        chunks: ChunkStore,
        *,
        store_id: bytes,
        store_format: int,
        encoding: str,
        bytes_free: Callable[[], int],
    ) -> None:
        self._runner = runner
        self._log = log
        self._chunks = chunks
        self._store_id = store_id
        self._store_format = store_format
        self._encoding = encoding
        self._bytes_free = bytes_free

    async def get_store_status(self, request: pb.GetStoreStatusRequest) -> pb.GetStoreStatusResponse:
        """Return totals and health."""
        return await self._runner.run(self._status)

    def _status(self) -> pb.GetStoreStatusResponse:
        stats = self._chunks.stats()
        first, last = self._log.bounds()
        return pb.GetStoreStatusResponse(
            store_id=self._store_id,
            store_format=self._store_format,
            applied_index=self._runner.applied,
            state_digest=self._runner.state_digest,
            chunk_count=stats.chunk_count,
            chunk_bytes_plain=stats.bytes_plain,
            chunk_bytes_live=stats.bytes_live,
            chunk_bytes_used=stats.bytes_used,
            chunks_quarantined=stats.quarantined,
            bytes_free=self._bytes_free(),
            encoding=self._encoding,
            log_entry_count=last - first + 1,
        )
