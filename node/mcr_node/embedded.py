"""A whole node in the caller's process: the composition root of the embedded store.

The same log, state, chunk store and services as on a node of a cluster, with one voter and no network.
"""

import asyncio
import secrets
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from mcr.blocking import run_blocking
from mcr.errors import CorruptStoreError, StoreBusyError
from mcr_node.ports import ChunkStore, Clock, LogStore, StateStore
from mcr_node.runtime.clock import SystemClock
from mcr_node.runtime.runner import Runner
from mcr_node.services.admin import AdminService
from mcr_node.services.chunks import LocalChunks
from mcr_node.services.versions import VersionsService
from mcr_node.storage import store_folder
from mcr_node.storage.chunk_store import PackChunkStore
from mcr_node.storage.database import Database
from mcr_node.storage.disk import Disk
from mcr_node.storage.log_store import OpenDatabase, RocksLogStore
from mcr_node.storage.state_store import StateStore as RocksStateStore
from mcr_node.storage.store_folder import Encoding, StoreIdentity, StoreLock

# Chunk work runs on as many threads as keep two cores busy while some wait for the disk.
CHUNK_WORKERS = 4
# The log and the state have one writer.
LOG_WORKERS = 1
# How often a caller that may wait looks whether the store is free.
LOCK_POLL_S = 0.05


def init_store(path: Path, *, encoding: Encoding) -> None:
    """Make a store; see `mcr.init`."""
    store_folder.create(path, StoreIdentity(secrets.token_bytes(store_folder.STORE_ID_BYTES), encoding))


async def open_store(
    path: Path,
    *,
    principal: str,
    timeout_s: float | None,
    disk: Disk | None = None,
    open_database: OpenDatabase = Database.open,
) -> "EmbeddedNode":
    """Open a store in this process; see `mcr.aio.connect`.

    Args:
        path: the store's folder.
        principal: who acts.
        timeout_s: how long to wait for another process that has it open; None = not at all.
        disk: where segments are written; the real one by default.
        open_database: opens the databases of the log, the state and the chunk index.
    """
    identity = store_folder.read(path)
    lock = StoreLock(path)
    try:
        await _acquire(lock, timeout_s)
        executor = ThreadPoolExecutor(LOG_WORKERS, thread_name_prefix="mcr-log")
        stores = await run_blocking(executor, partial(_Stores, path, identity, disk or Disk(), open_database))
        node = EmbeddedNode(path, identity, principal, lock, stores, executor, SystemClock())
        await node.start()
    except BaseException:
        lock.release()
        raise
    return node


async def _acquire(lock: StoreLock, timeout_s: float | None) -> None:
    loop = asyncio.get_running_loop()
    give_up_s = loop.time() + (timeout_s or 0)
    while True:
        try:
            lock.acquire()
        except StoreBusyError:
            if loop.time() >= give_up_s:
                raise
            # flock has no way to wait with a deadline that an event loop could use.
            await asyncio.sleep(LOCK_POLL_S)
        else:
            return


class _Stores:
    """The three stores of a node, opened together or not at all."""

    def __init__(self, path: Path, identity: StoreIdentity, disk: Disk, open_database: OpenDatabase) -> None:
        opened: list[LogStore | StateStore | ChunkStore] = []
        try:
            self.state = RocksStateStore.open(path / "state", identity.store_id, open_database=open_database)
            opened.append(self.state)
            self.log = RocksLogStore.open(
                path / "log",
                identity.store_id,
                last_at_least=self.state.applied(),
                open_database=open_database,
            )
            opened.append(self.log)
            floor = self.log.bounds()[0] - 1
            if self.state.applied() < floor:
                reason = f"the state has applied {self.state.applied()}, but the log begins after {floor}"
                raise CorruptStoreError(str(path / "state"), reason)
            self.chunks = PackChunkStore.open(
                path / "chunks", encoding=identity.encoding, disk=disk, open_database=open_database
            )
        except BaseException:
            for store in reversed(opened):
                store.close()
            raise

    def close(self) -> None:
        self.chunks.close()
        self.log.close()
        self.state.close()


class EmbeddedNode:
    """`mcr.connection.Connection` to a store in this process."""

    def __init__(
        self,
        path: Path,
        identity: StoreIdentity,
        principal: str,
        lock: StoreLock,
        stores: _Stores,
        executor: ThreadPoolExecutor,
        clock: Clock,
    ) -> None:
        self._path = path
        self._lock = lock
        self._stores = stores
        self._executor = executor
        self._chunk_executor = ThreadPoolExecutor(CHUNK_WORKERS, thread_name_prefix="mcr-chunks")
        self._closed = False
        self.runner = Runner(log=stores.log, state=stores.state, clock=clock, executor=executor)
        self.versions = VersionsService(self.runner, stores.chunks, principal)
        self.chunks = LocalChunks(stores.chunks, self._chunk_executor)
        self.admin = AdminService(
            self.runner,
            stores.log,
            stores.chunks,
            store_id=identity.store_id,
            store_format=store_folder.STORE_FORMAT,
            encoding=identity.encoding,
            bytes_free=partial(store_folder.bytes_free, path),
        )

    @property
    def location(self) -> str:
        """The store's folder."""
        return str(self._path)

    async def start(self) -> None:
        """Bring the state up to the end of the log."""
        await self.runner.start()

    async def close(self) -> None:
        """Sync and release everything; may be called twice."""
        if self._closed:
            return
        self._closed = True
        try:
            await self.runner.close()
            await run_blocking(self._executor, self._stores.close)
        finally:
            self._executor.shutdown()
            self._chunk_executor.shutdown()
            self._lock.release()
