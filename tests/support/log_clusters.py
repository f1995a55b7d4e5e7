"""Clusters for the suite over `ports_log.ReplicatedLog`: engines side by side in one process, with faults.

async with raft_cluster(3) as cluster:
    await cluster.nodes[2].propose(...)
    cluster.cut(3)
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from mcr_node.core.members import Member, Membership
from mcr_node.core.raft.messages import ConfState, Message
from mcr_node.ports import SnapshotSource
from mcr_node.ports_log import ReplicatedLog
from mcr_node.runtime.runner import Runner, Self, Timing
from tests.conformance.memory_state_store import MemoryStateStore
from tests.support.memory_log import SettableClock, SharedLog
from tests.support.memory_log_store import MemoryLogStore

# Time passes for all nodes on one loop, so a slow machine slows all of them alike.
TIMING = Timing(tick_ms=20, election_ticks=10)


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


@asynccontextmanager
async def raft_cluster(size: int) -> AsyncIterator[Cluster]:
    """Runners, whose messages go by the event loop; each has a thread for its stores in memory."""
    cluster = _RaftCluster()
    try:
        await cluster.start(1).members.wait_leader()
        for node_id in range(2, size + 1):
            await join(cluster, node_id)
        yield cluster
    finally:
        await cluster.close()


class _RaftCluster:
    def __init__(self) -> None:
        self.runners: dict[int, Runner] = {}
        self.cut_off: set[int] = set()
        self._logs: dict[int, MemoryLogStore] = {}
        self._executors: list[ThreadPoolExecutor] = []
        self._starting: list[asyncio.Task[None]] = []

    @property
    def nodes(self) -> Mapping[int, ReplicatedLog]:
        return self.runners

    def start(self, node_id: int) -> ReplicatedLog:
        executor = ThreadPoolExecutor(1)
        self._executors.append(executor)
        self._logs[node_id] = MemoryLogStore()
        founding = Membership(ConfState(voters=(1,)), (member(1),)) if node_id == 1 else Membership()
        runner = self.runners[node_id] = Runner(
            myself=Self(node_id, founding, random.Random(node_id).randrange),
            log=self._logs[node_id],
            state=MemoryStateStore(),
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
        self._logs[node_id].sync_fails = True

    def waiting(self, node_id: int) -> int:
        runner = self.runners[node_id]
        return len(runner._answers) + len(runner._reads) + runner.replica.waiting

    async def close(self) -> None:
        await asyncio.gather(*self._starting)
        for runner in self.runners.values():
            await runner.close()
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
        self._carry(message.to, lambda runner: runner.deliver(message))

    def forward(self, to: int, term: int, commands: Sequence[bytes]) -> None:
        self._carry(to, lambda runner: runner.accept_forwarded(term, commands))

    def send_snapshot(self, message: Message, source: SnapshotSource) -> None:
        raise AssertionError("the stores have no snapshots")

    def _carry(self, to: int, arrive: Callable[[Runner], None]) -> None:
        runner = self._cluster.runners.get(to)
        if runner is None or not self._cluster.cut_off.isdisjoint((self._node_id, to)):
            return
        asyncio.get_running_loop().call_soon(arrive, runner)
