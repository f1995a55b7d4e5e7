"""One node, put together: its stores, its runner and its services. What runs it stands above.

The embedded store (`embedded`) and the served node (`main`) are the same parts with another door. What only
a node with others needs (`among_others`), and the services that most commands do not ask, are loaded when
they are first asked for: opening a store is most of what a short command takes.
"""

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcr.blocking import run_blocking
from mcr.errors import CorruptStoreError, StoreBusyError
from mcr.values import dataclass
from mcr_node.core.members import Member, Membership
from mcr_node.core.raft.messages import ConfState
from mcr_node.core.state.collecting import round_of
from mcr_node.ports import ChunkStore, Clock, LogStore, StateStore, StorageFailure
from mcr_node.ports_log import ReplicatedLog
from mcr_node.runtime.clock import SystemClock
from mcr_node.runtime.runner import Runner, Self, Timing
from mcr_node.services.availability import Availability
from mcr_node.services.chunks import LocalChunks
from mcr_node.services.damage import WatchedStore
from mcr_node.services.myself import Myself
from mcr_node.services.needing import Needing
from mcr_node.services.pace import Pace
from mcr_node.services.promises import Promises, PromisingStore
from mcr_node.services.versions import VersionsService
from mcr_node.storage import store_folder, successor
from mcr_node.storage.chunk_store import RESERVE_BYTES, PackChunkStore
from mcr_node.storage.database import Database
from mcr_node.storage.disk import Disk
from mcr_node.storage.garbage_folder import GarbageFiles
from mcr_node.storage.log_store import OpenDatabase, RocksLogStore
from mcr_node.storage.snapshots import SnapshotFolder
from mcr_node.storage.state_store import StateStore as RocksStateStore
from mcr_node.storage.store_folder import StoreIdentity, StoreLock

if TYPE_CHECKING:
    from mcr_node.among_others import Others
    from mcr_node.ports_cache import ChunkCache
    from mcr_node.runtime.reseeding import Reseeding
    from mcr_node.services.admin import AdminService
    from mcr_node.services.cluster_chunks import ClusterChunks
    from mcr_node.services.collecting import Collector
    from mcr_node.services.layout import LayoutService
    from mcr_node.services.merges import MergesService
    from mcr_node.services.policies import PoliciesService
    from mcr_node.services.quotas import QuotasService
    from mcr_node.services.receipts import ReceiptsService
    from mcr_node.services.retention import RetentionService
    from mcr_node.services.sessions import SessionsService
    from mcr_node.services.trash import TrashService
    from mcr_node.services.upkeep import Upkeep

# Chunk work runs on as many threads as keep two cores busy while some wait for the disk.
CHUNK_WORKERS = 4
# The log and the state have one writer each.
WRITERS = 1
# Reads of the state; they hold the interpreter's lock most of the time, so more threads bring nothing.
READ_WORKERS = 2
# How often a caller that may wait looks whether the store is free.
LOCK_POLL_S = 0.05

OnFailure = Callable[[StorageFailure], None]


@dataclass(frozen=True, slots=True)
class Parts:
    """What may be replaced when a node is opened.

    Attributes:
        timing: of the log.
        joins: the node belongs to a cluster that others began, so it waits to be told who the members are.
        others: the public edges of the other nodes; None = there are none.
        pace: of its background work.
        node_id: given to it when it joined; None = the one that the store's id implies.
        disk: where segments are written.
        open_database: opens the databases of the log, the state and the chunk index.
        cache_bytes: what chunks may take that were fetched for readers; 0 = none is kept.
        on_failure: called at once, in the thread that met it, when the disk broke a promise; None = callers
            get the error.
    """

    timing: Timing = field(default_factory=Timing)
    joins: bool = False
    others: "Others | None" = None
    pace: Pace = field(default_factory=Pace)
    node_id: int | None = None
    disk: Disk | None = None
    open_database: OpenDatabase = Database.open
    on_failure: OnFailure | None = None
    cache_bytes: int = 0


class _Executor(ThreadPoolExecutor):
    """Threads of one purpose. Whatever they run, a disk that failed is reported before anybody goes on."""

    def __init__(self, workers: int, name: str, on_failure: OnFailure | None) -> None:
        super().__init__(workers, thread_name_prefix=name)
        self._on_failure = on_failure

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:  # noqa: ANN401
        """See Executor."""
        return super().submit(self._watch, partial(fn, *args, **kwargs))

    def _watch(self, work: Callable[[], Any]) -> Any:  # noqa: ANN401 (whatever the work returns)
        try:
            return work()
        except StorageFailure as error:
            if self._on_failure is not None:
                self._on_failure(error)
            raise


class _Stores:
    """The three stores of a node, opened together or not at all."""

    def __init__(self, path: Path, identity: StoreIdentity, parts: Parts) -> None:
        opened: list[LogStore | StateStore | ChunkStore] = []
        open_database, disk = parts.open_database, parts.disk or Disk()
        try:
            self.state = RocksStateStore.open(
                path / "state", identity.store_id, disk=disk, open_database=open_database
            )
            opened.append(self.state)
            self.log = RocksLogStore.open(
                path / "log",
                identity.store_id,
                last_at_least=self.state.applied(),
                installed=self.state.installed(),
                disk=disk,
                open_database=open_database,
            )
            opened.append(self.log)
            floor = self.log.bounds()[0] - 1
            if self.state.applied() < floor:
                reason = f"the state has applied {self.state.applied()}, but the log begins after {floor}"
                raise CorruptStoreError(str(path / "state"), reason)
            self.chunks = PackChunkStore.open(
                path / "chunks",
                encoding=identity.encoding,
                disk=disk,
                open_database=open_database,
            )
        except BaseException:
            for store in reversed(opened):
                store.close()
            raise

        self.snapshots = SnapshotFolder.open(path / "snapshots", self.state, disk)
        # What nodes ask for whose state is wrong, or this one; beside those that raft sends.
        self.given = SnapshotFolder.open(path / "snapshots" / "given", self.state, disk)

    def log_entry_count(self) -> int:
        first, last = self.log.bounds()
        return last - first + 1

    def close(self) -> None:
        self.chunks.close()
        self.log.close()
        self.state.close()


class Node:
    """The parts of an open node. Make one with `open_node`."""

    def __init__(
        self,
        path: Path,
        identity: StoreIdentity,
        myself: Myself,
        lock: StoreLock,
        stores: _Stores,
        executor: ThreadPoolExecutor,
        parts: Parts,
    ) -> None:
        self.path = path
        self.clock: Clock = SystemClock()
        self.cluster_id = identity.store_id
        self.snapshots = stores.snapshots
        self.given = stores.given
        self._lock = lock
        self._stores = stores
        self._pace = parts.pace
        self._executor = executor
        self._chunk_executor = _Executor(CHUNK_WORKERS, "mcr-chunks", parts.on_failure)
        self._state_executor = _Executor(WRITERS, "mcr-state", parts.on_failure)
        self.read_executor: ThreadPoolExecutor = _Executor(READ_WORKERS, "mcr-reads", parts.on_failure)
        self._closed = False
        self.runner = Runner(
            myself=_self_of(identity, myself, parts),
            log=stores.log,
            state=stores.state,
            clock=self.clock,
            log_executor=executor,
            state_executor=self._state_executor,
            read_executor=self.read_executor,
            snapshots=stores.snapshots,
            timing=parts.timing,
            fence=stores.state,
        )
        # What stands above knows the log by its port; only whoever starts and connects it, the runner.
        self.log: ReplicatedLog = self.runner
        self._others_edges = parts.others
        self._myself = myself
        self._identity = identity
        self._garbage = GarbageFiles(path)
        self._cache: ChunkCache | None = None
        self._store = self._open_chunks(stores.chunks, parts)
        self.needing = Needing(self.log, self.chunks)
        self._availability = Availability(self.log, self.chunks, parts.others, self._me, self._others)
        # None: nobody serves it, so it has no background of its own.
        self.upkeep = None if parts.others is None else self._upkeep_of(parts.others)

    def _open_chunks(self, chunks: ChunkStore, parts: Parts) -> WatchedStore:
        """Put together what moves chunks, and return the store below it."""
        capacity_bytes = self._myself.capacity_bytes
        self._promises = Promises(chunks, self._garbage.journal, lambda: round_of(self.log.view()))
        promising = PromisingStore(chunks, self._promises)
        # None: it has no other node to give to.
        self.giving: ClusterChunks | None = None
        if parts.others is None:
            store = WatchedStore(promising)
            self.chunks = LocalChunks(
                store, self._chunk_executor, capacity_bytes=capacity_bytes, promises=self._promises
            )
            return store
        from mcr_node import among_others

        self._cache = among_others.cache_of(self.path, chunks, capacity_bytes, parts.cache_bytes)
        store = among_others.store_of(promising, self._cache)
        self.chunks = self.giving = among_others.ClusterChunks(
            store,
            self._chunk_executor,
            parts.others,
            self._me,
            self._others,
            capacity_bytes=capacity_bytes,
            cache=self._cache,
            lacks=store.lacks,
            promises=self._promises,
        )
        return store

    @cached_property
    def collector(self) -> "Collector":
        """What collects garbage."""
        from mcr_node.services.collecting import Collector, Settings

        settings = Settings(self._pace.garbage_interval_s, self._pace.garbage_bytes_per_s)
        surplus = None
        if self._others_edges is not None and self._pace.drops_surplus:
            from mcr_node import among_others

            surplus = among_others.Surplus(self.log, self.chunks, self._others_edges)
        return Collector(self.log, self._store, self.chunks, self._promises, self._garbage, settings, surplus)

    @cached_property
    def admin(self) -> "AdminService":
        """The service about this node and its cluster."""
        from mcr_node.services.admin import AdminService

        return AdminService(
            self.log,
            self._store,
            store_id=self._identity.store_id,
            store_format=store_folder.STORE_FORMAT,
            encoding=self._identity.encoding,
            bytes_free=self._bytes_free,
            log_entry_count=self._stores.log_entry_count,
            life=self.chunks.life,
            myself=self._myself,
            colleagues=self._others_edges,
            keep_all=self._keep_all,
            check_dispensable=self._check_dispensable,
            upkeep=self.upkeep,
            collector=self.collector,
        )

    @cached_property
    def layout(self) -> "LayoutService":
        """The service about who holds what."""
        from mcr_node.services.layout import LayoutService

        draining = None if self.upkeep is None else self.upkeep.draining
        return LayoutService(self.log, self.chunks, self.admin.membership, draining)

    def _upkeep_of(self, others: "Others") -> "Upkeep":
        from mcr_node import among_others

        assert self.giving is not None, "whoever has others to ask gives to them"
        return among_others.upkeep_of(
            self.path,
            self.log,
            self._store,
            self.giving,
            others,
            members=self._others,
            collector=self.collector,
            room_bytes=self._room_bytes,
            clock=self.clock,
            pace=self._pace,
        )

    def _room_bytes(self) -> int:
        return 0 if self._cache is None else self._cache.stats().bytes_max

    def _bytes_free(self) -> int:
        # What is reserved for log and state is none of it.
        return max(0, store_folder.bytes_free(self.path) - RESERVE_BYTES)

    async def _keep_all(self, leaving: int) -> None:
        await self.layout.drain(leaving)

    async def _check_dispensable(self, member: Member) -> None:
        if self.upkeep is not None:
            await self.upkeep.draining.check_dispensable(member)

    def _me(self) -> Member:
        known = self.log.membership.get(self.log.node_id)
        return known or Member(self.log.node_id, self._myself.name, site=self._myself.site)

    def _others(self) -> list[Member]:
        return [
            one
            for one in self.log.membership.members
            if one.node_id != self.log.node_id and one.address and not one.awaited
        ]

    def reseeding(self) -> "Reseeding":
        """Return what replaces the state of this node; its runner has stopped."""
        from mcr_node.runtime.reseeding import Reseeding

        stores = self._stores
        return Reseeding(self.runner, stores.log, stores.given, self._state_executor)

    def versions(self, principal: str) -> VersionsService:
        """Return the service for somebody."""
        return VersionsService(self.log, self.chunks, self._availability, principal)

    def merges(self, principal: str) -> "MergesService":
        """Return the service for somebody."""
        from mcr_node.services.merges import MergesService

        return MergesService(self.log, self.chunks, principal)

    def trash(self, principal: str) -> "TrashService":
        """Return the service for somebody."""
        from mcr_node.services.trash import TrashService

        return TrashService(self.log, principal, trash_period_s=self._pace.trash_period_s)

    def quotas(self, principal: str) -> "QuotasService":
        """Return the service for somebody."""
        from mcr_node.services.quotas import QuotasService

        return QuotasService(self.log, principal)

    def retention(self, principal: str) -> "RetentionService":
        """Return the service for somebody."""
        from mcr_node.services.retention import RetentionService

        return RetentionService(self.log, principal)

    def policies(self, principal: str) -> "PoliciesService":
        """Return the service for somebody."""
        from mcr_node.services.policies import PoliciesService

        return PoliciesService(self.log, self._availability, principal)

    def receipts(self, principal: str) -> "ReceiptsService":
        """Return the service for somebody."""
        from mcr_node.services.receipts import ReceiptsService

        return ReceiptsService(self.log, principal)

    def sessions(self, principal: str) -> "SessionsService":
        """Return the service of upload sessions for somebody."""
        from mcr_node.services.sessions import SessionsService

        return SessionsService(self.log, self.chunks, principal)

    async def close(self) -> None:
        """Sync and release everything; may be called twice."""
        if self._closed:
            return
        self._closed = True
        try:
            await self.chunks.close()
            await self.runner.close()
            await run_blocking(self._executor, self._stores.close)
            if self._cache is not None:
                self._cache.close()
            self._garbage.journal.close()
        finally:
            for executor in (
                self._executor,
                self._chunk_executor,
                self._state_executor,
                self.read_executor,
            ):
                executor.shutdown()
            self._lock.release()


async def open_node(
    path: Path, myself: Myself, *, timeout_s: float | None = None, parts: Parts | None = None
) -> Node:
    """Open the store of a node; `runner.start` brings its state up to the end of its log.

    Args:
        path: the store's folder.
        myself: who this node is.
        timeout_s: how long to wait for another process that has it open; None = not at all.
        parts: see Parts.

    Raises:
        StoreNotFoundError, StoreBusyError, StoreFormatError, CorruptStoreError: see `mcr.errors`.
    """
    parts = parts or Parts()
    successor.finish(path, parts.disk)
    identity = store_folder.read(path)
    lock = StoreLock(path)
    try:
        await _acquire(lock, timeout_s)
        executor = _Executor(WRITERS, "mcr-log", parts.on_failure)
        stores = await run_blocking(executor, partial(_Stores, path, identity, parts))
        node = Node(path, identity, myself, lock, stores, executor, parts)
    except BaseException:
        lock.release()
        raise
    return node


def _self_of(identity: StoreIdentity, myself: Myself, parts: Parts) -> Self:
    node_id = node_id_of(identity.store_id) if parts.node_id is None else parts.node_id
    at_start = Membership()
    if not parts.joins:
        # No address: a log that nobody else follows needs none, and a node that is served announces it.
        at_start = Membership(ConfState(voters=(node_id,)), (Member(node_id, myself.name),))
    return Self(node_id, at_start, random.SystemRandom().randrange)


def node_id_of(store_id: bytes) -> int:
    """Return the id of the node with which a cluster began: it follows from the store's."""
    return int.from_bytes(store_id[:8], "big") >> 2 | 1


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
