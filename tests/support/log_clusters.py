"""Clusters for the suite over `ports_log.ReplicatedLog`: engines side by side in one process, with faults.

async with raft_cluster(3) as cluster:
    await cluster.nodes[2].propose(...)
    cluster.cut(3)
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from mcr_node.core.members import Member, Membership
from mcr_node.core.raft.messages import ConfState, Message
from mcr_node.ports import LogStore, SnapshotSource, StateStore, StorageFailure
from mcr_node.ports_log import ReplicatedLog
from mcr_node.runtime.runner import Runner, Self, Timing
from mcr_node.storage.database import Changes, Database
from mcr_node.storage.log_store import RocksLogStore
from mcr_node.storage.state_store import StateStore as RocksStateStore
from tests.conformance.memory_state_store import MemoryStateStore
from tests.support.memory_log import SettableClock, SharedLog
from tests.support.memory_log_store import MemoryLogStore

# Time passes for all nodes on one loop, so a slow machine slows all of them alike.
# An election timeout of 0.3 s: a busy machine may keep a thread waiting for a good part of it.
TIMING = Timing(tick_ms=30, election_ticks=10)


class Cluster(Protocol):
    """Nodes 1, 2, … of one log, all of them voters, and what a test may do to them."""

    @property
    def nodes(self) -> Mapping[int, ReplicatedLog]:
        """The nodes by id, those that `start` added as well."""

    def start(self, node_id: int) -> ReplicatedLog:
        """Start one more node, which is no member yet."""

    def cut(self, node_id: int) -> None:
        """Lose what passes between a node and the others."""

    def mend(self, node_id: int) -> None:
        """End that."""

    def break_disk(self, node_id: int) -> None:
        """Let the next thing fail that a node writes."""

    def waiting(self, node_id: int) -> int:
        """Return how much a node keeps for callers that wait."""


OpenCluster = Callable[[], AbstractAsyncContextManager[Cluster]]


def member(node_id: int) -> Member:
    return Member(node_id, f"n{node_id}", f"host:{node_id}")


def leader_of(cluster: Cluster) -> ReplicatedLog:
    """Return the node that leads; one is known when nothing is under way."""
    [found] = [log for log in cluster.nodes.values() if log.is_leader]
    return found


async def join(cluster: Cluster, node_id: int) -> ReplicatedLog:
    """Start a node, and make it a voter."""
    log = cluster.start(node_id)
    leader = leader_of(cluster)
    await leader.members.add(member(node_id))
    await leader.members.promote(node_id)
    await log.wait_applied(leader.applied)
    return log


@asynccontextmanager
async def memory_cluster(size: int) -> AsyncIterator[Cluster]:
    """Nodes on one list."""
    cluster = _MemoryCluster()
    await cluster.start(1).wait_applied(cluster.shared.nodes[1].commit)
    for node_id in range(2, size + 1):
        await join(cluster, node_id)
    yield cluster
    for log in cluster.nodes.values():
        await log.close()


class _MemoryCluster:
    def __init__(self) -> None:
        self.shared = SharedLog(member(1))

    @property
    def nodes(self) -> Mapping[int, ReplicatedLog]:
        return self.shared.nodes

    def start(self, node_id: int) -> ReplicatedLog:
        return self.shared.open(node_id)

    def cut(self, node_id: int) -> None:
        self.shared.cut(node_id)

    def mend(self, node_id: int) -> None:
        self.shared.mend(node_id)

    def break_disk(self, node_id: int) -> None:
        self.shared.nodes[node_id].breaks = True

    def waiting(self, node_id: int) -> int:
        return self.shared.nodes[node_id].waiting


@dataclass
class _Stores:
    """Where one node keeps its log and state, and how its disk breaks."""

    log: LogStore
    state: StateStore
    break_disk: Callable[[], None]


def _memory_stores(node_id: int) -> _Stores:
    log = MemoryLogStore()
    return _Stores(log, MemoryStateStore(), lambda: setattr(log, "sync_fails", True))


class _BreakableDatabase(Database):
    """RocksDB on a disk that may be gone."""

    is_broken = False

    def sync(self) -> None:
        if self.is_broken:
            raise StorageFailure("the medium is gone")
        super().sync()


def _disk_stores(folder: Path, node_id: int) -> _Stores:
    opened: list[_BreakableDatabase] = []
    identity = b"%016d" % node_id
    path = folder / str(node_id)
    path.mkdir()

    def open_database(path: Path, *, founding: Changes = ()) -> Database:
        opened.append(_BreakableDatabase(path, Database.open(path, founding=founding)._opened()))
        return opened[-1]

    def break_disk() -> None:
        opened[0].is_broken = True

    log = RocksLogStore.open(path / "log", identity, open_database=open_database)
    return _Stores(log, RocksStateStore.open(path / "state", identity), break_disk)


@asynccontextmanager
async def disk_cluster(size: int) -> AsyncIterator[Cluster]:
    """As `raft_cluster`, on the stores that a real node has."""
    with TemporaryDirectory() as folder:
        async with raft_cluster(size, partial(_disk_stores, Path(folder))) as cluster:
            yield cluster


@asynccontextmanager
async def raft_cluster(
    size: int, open_stores: Callable[[int], _Stores] = _memory_stores
) -> AsyncIterator[Cluster]:
    """Runners, whose messages go by the event loop; each has a thread for its stores."""
    cluster = _RaftCluster(open_stores)
    try:
        cluster.start(1)
        await cluster.started()
        for node_id in range(2, size + 1):
            await join(cluster, node_id)
        yield cluster
    finally:
        await cluster.close()


class _RaftCluster:
    def __init__(self, open_stores: Callable[[int], _Stores]) -> None:
        self._open_stores = open_stores
        self.runners: dict[int, Runner] = {}
        self.cut_off: set[int] = set()
        self._stores: dict[int, _Stores] = {}
        self._executors: list[ThreadPoolExecutor] = []
        self._starting: list[asyncio.Task[None]] = []

    @property
    def nodes(self) -> Mapping[int, ReplicatedLog]:
        return self.runners

    def start(self, node_id: int) -> ReplicatedLog:
        executor = ThreadPoolExecutor(1)
        self._executors.append(executor)
        stores = self._stores[node_id] = self._open_stores(node_id)
        founding = Membership(ConfState(voters=(1,)), (member(1),)) if node_id == 1 else Membership()
        runner = self.runners[node_id] = Runner(
            myself=Self(node_id, founding, random.Random(node_id).randrange),
            log=stores.log,
            state=stores.state,
            clock=SettableClock(),
            log_executor=executor,
            state_executor=executor,
            read_executor=executor,
            timing=TIMING,
        )
        self._starting.append(asyncio.ensure_future(runner.start(_Wire(self, node_id))))
        return runner

    def cut(self, node_id: int) -> None:
        self.cut_off.add(node_id)

    def mend(self, node_id: int) -> None:
        self.cut_off.discard(node_id)

    def break_disk(self, node_id: int) -> None:
        self._stores[node_id].break_disk()

    def waiting(self, node_id: int) -> int:
        runner = self.runners[node_id]
        waiting = runner._waiting
        return len(waiting.answers) + len(waiting.reads) + runner.replica.waiting

    async def started(self) -> None:
        await asyncio.gather(*self._starting)

    async def close(self) -> None:
        await self.started()
        for runner in self.runners.values():
            await runner.close()
        for stores in self._stores.values():
            with suppress(StorageFailure):
                stores.log.close()
            stores.state.close()
        for executor in self._executors:
            executor.shutdown()


class _Wire:
    """`ports.Peers` of one node: what it sends is there a turn of the loop later, in order."""

    def __init__(self, cluster: _RaftCluster, node_id: int) -> None:
        self._cluster = cluster
        self._node_id = node_id

    def update(self, members: Sequence[Member]) -> None:
        pass

    def introduce(self, node_id: int, address: str) -> None:
        pass

    def send(self, message: Message) -> None:
        self._carry(message.to, lambda runner: runner.deliver([message]))

    def forward(self, to: int, term: int, commands: Sequence[bytes]) -> None:
        self._carry(to, lambda runner: runner.accept_forwarded(term, commands))

    def flush(self) -> None:
        pass

    def send_snapshot(self, message: Message, source: SnapshotSource) -> None:
        raise AssertionError("the stores have no snapshots")

    def _carry(self, to: int, arrive: Callable[[Runner], None]) -> None:
        runner = self._cluster.runners.get(to)
        if runner is None or not self._cluster.cut_off.isdisjoint((self._node_id, to)):
            return
        asyncio.get_running_loop().call_soon(arrive, runner)
