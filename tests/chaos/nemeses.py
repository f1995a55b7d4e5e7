"""What is done to the nodes of a cluster while clients use it, and how it is undone."""

import os
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from mcr.model import CheckReport
from mcr.testing import LocalCluster, LocalNode
from tests.chaos.disks import LoopDisk, missing_for_disks
from tests.support.load import PATIENCE_S

# Left free on a full disk: below what a node keeps for its log and state, so that it refuses chunks.
LEFT_FREE_BYTES = 48 << 20
BALLAST = "ballast"
# Flipped in the file of chunks of one node at a time.
FLIPS = 3
Undo = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that was done.

    Attributes:
        ended_s: when all of it was undone and every node ran again.
        keeps_majority: there was one all the time, so that clients may expect answers.
    """

    name: str
    keeps_majority: bool
    began_s: float
    ended_s: float


class ChaosCluster(LocalCluster):
    """A cluster whose last node is on a disk of its own, where that can be had."""

    def __init__(self, nodes: int, program: tuple[str, ...] = ()) -> None:
        super().__init__(nodes, heartbeat_ms=100, election_ms=1000)
        if program:
            self._program = program
        self.no_disk = missing_for_disks()
        self.disk: LoopDisk | None = None

    def _launch(self, node: LocalNode, *more: str) -> None:
        if node.name == f"n{self._count}" and not self.no_disk and self.disk is None:
            self.disk = LoopDisk(self.folder / "disk.img", self.folder / "disk")
            node.data = self.disk.mount / "data"
        super()._launch(node, *more)

    def close(self) -> None:
        if self.disk is not None:
            for i, node in enumerate(self.nodes):
                if node.process is not None:
                    self.kill(i)
            self.disk.close()
            self.disk = None
        super().close()

    def fill_disk(self) -> None:
        """Leave the last node too little room for chunks."""
        assert self.disk is not None
        disk = os.statvfs(self.disk.mount)
        with (self.disk.mount / BALLAST).open("wb") as ballast:
            os.posix_fallocate(ballast.fileno(), 0, disk.f_bavail * disk.f_frsize - LEFT_FREE_BYTES)

    def empty_disk(self) -> None:
        """Give the room back."""
        assert self.disk is not None
        (self.disk.mount / BALLAST).unlink(missing_ok=True)


@dataclass(slots=True)
class Nemesis:
    """Hurts a cluster, one fault after the other.

    Attributes:
        names: of what it does; empty = of all that can be done here.
        faults: what was done.
        wrong: what it saw of the nodes that may never be.
    """

    cluster: ChaosCluster
    chance: random.Random
    names: Sequence[str] = ()
    faults: list[Fault] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def kinds(self) -> list[str]:
        """Return the names of all faults, in an order by chance."""
        names = [name for name in self.names or FAULTS if name != FULL_DISK or not self.cluster.no_disk]
        self.chance.shuffle(names)
        return names

    def strike(self, name: str, hold: Callable[[], None]) -> None:
        """Do one thing to the cluster, hold it for a while, and undo it."""
        keeps_majority, do = FAULTS[name]
        self.cluster.leader(timeout_s=PATIENCE_S)
        undo = do(self)
        # From here on it is felt: an orderly stop, for one, takes its time and gives leadership away first.
        began_s = time.perf_counter()
        hold()
        self._look_for_dead(name)
        undo()
        self.faults.append(Fault(name, keeps_majority, began_s, time.perf_counter()))

    def _look_for_dead(self, name: str) -> None:
        """Note nodes that ended by themselves, and start them again."""
        for i, node in enumerate(self.cluster.nodes):
            if node.process is not None and (status := node.process.poll()) is not None:
                self.wrong.append(f"node ended: {node.name} by itself, with {status}: {node.talk()[-500:]}")
                self.cluster.kill(i)
                self.cluster.start(i)

    def some(self, count: int) -> list[int]:
        """Return so many nodes, by chance."""
        return self.chance.sample(range(len(self.cluster.nodes)), count)

    def a_follower(self) -> int:
        """Return a node that does not lead."""
        leader = self.cluster.leader()
        return self.chance.choice([i for i in range(len(self.cluster.nodes)) if i != leader])

    @property
    def minority(self) -> int:
        """How many nodes may be missing."""
        return (len(self.cluster.nodes) - 1) // 2

    @property
    def everyone(self) -> list[int]:
        """All nodes."""
        return list(range(len(self.cluster.nodes)))


def _kill(nemesis: Nemesis, nodes: Sequence[int]) -> Undo:
    for i in nodes:
        nemesis.cluster.kill(i)

    def start() -> None:
        # All at once: none has to serve before the others are there.
        with ThreadPoolExecutor(len(nodes)) as starters:
            list(starters.map(nemesis.cluster.start, nodes))

    return start


def _stop(nemesis: Nemesis, node: int) -> Undo:
    nemesis.cluster.stop(node)
    return lambda: nemesis.cluster.start(node)


def _pause(nemesis: Nemesis, nodes: Sequence[int]) -> Undo:
    for i in nodes:
        nemesis.cluster.pause(i)

    def resume() -> None:
        for i in nodes:
            nemesis.cluster.resume(i)

    return resume


def _cut(nemesis: Nemesis, *groups: Sequence[int]) -> Undo:
    nemesis.cluster.partition(*groups)
    return nemesis.cluster.heal


def _bridge(nemesis: Nemesis) -> Undo:
    """Cut the nodes into two halves that both reach one node, but not each other."""
    bridge, *others = nemesis.some(len(nemesis.cluster.nodes))
    names = [nemesis.cluster.nodes[i].name for i in others]
    half = len(names) // 2
    assert bridge not in others
    network = nemesis.cluster._network
    assert network is not None
    network.cut((one, other) for one in names[:half] for other in names[half:])
    return nemesis.cluster.heal


def _flip_bits(nemesis: Nemesis) -> Undo:
    """Damage a stopped follower; started again, it must give all content, from other nodes if need be."""
    node = nemesis.a_follower()
    nemesis.cluster.stop(node)
    nemesis.cluster.corrupt(node, flips=FLIPS, seed=nemesis.chance.randrange(1 << 32))

    def start() -> None:
        nemesis.cluster.start(node)
        nemesis.cluster.wait_ready(PATIENCE_S)
        with nemesis.cluster.connect(node) as client:
            nemesis.wrong += unsound(nemesis.cluster.nodes[node].name, client.check())

    return start


def unsound(node: str, report: CheckReport) -> list[str]:
    """Return what a check of a node's content found, as violations."""
    return [f"not healed: {node}: {what}" for what in (*report.problems, *report.chunks_damaged)]


def _fill(nemesis: Nemesis) -> Undo:
    nemesis.cluster.fill_disk()
    return nemesis.cluster.empty_disk


FULL_DISK = "full disk"
# By name: whether a majority stays, and what is done.
FAULTS: dict[str, tuple[bool, Callable[[Nemesis], Undo]]] = {
    "kill -9 of the leader": (True, lambda it: _kill(it, [it.cluster.leader()])),
    "kill -9 of a minority": (True, lambda it: _kill(it, it.some(it.minority))),
    "kill -9 of all": (False, lambda it: _kill(it, it.everyone)),
    "restart of the leader": (True, lambda it: _stop(it, it.cluster.leader())),
    "restart of a follower": (True, lambda it: _stop(it, it.a_follower())),
    "pause of the leader": (True, lambda it: _pause(it, [it.cluster.leader()])),
    "pause of a minority": (True, lambda it: _pause(it, it.some(it.minority))),
    "pause of a majority": (False, lambda it: _pause(it, it.some(it.minority + 1))),
    "leader cut off": (True, lambda it: _cut(it, [it.cluster.leader()])),
    "minority cut off": (True, lambda it: _cut(it, it.some(it.minority))),
    "all cut apart": (False, lambda it: _cut(it, *([i] for i in it.everyone[1:]))),
    "bridge": (True, _bridge),
    "flipped bits": (True, _flip_bits),
    FULL_DISK: (True, _fill),
}
