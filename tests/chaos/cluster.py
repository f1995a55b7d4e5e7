"""Nodes that each have a disk of its own, where that can be had: it fills up, loses power, is thrown away."""

import os
import shutil
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mcr.testing import LocalCluster, LocalNode
from tests.chaos.disks import LoopDisk, missing_for_disks
from tests.support.load import PATIENCE_S
from tests.support.waiting import until

# Left free on a full disk: below what a node keeps for its log and state, so that it refuses chunks.
LEFT_FREE_BYTES = 48 << 20
BALLAST = "ballast"
STOPPED_POLL_S = 0.001


class DiskCluster(LocalCluster):
    """A cluster whose nodes' disks can fail.

    Attributes:
        no_disk: why there are no disks of their own; empty where there are.
        disks: by the name of the node.
    """

    def __init__(
        self,
        nodes: int,
        *,
        heartbeat_ms: int = 100,
        election_ms: int = 1000,
        settings: Mapping[str, int] | None = None,
        program: tuple[str, ...] = (),
    ) -> None:
        """Note what to start; see LocalCluster.

        Args:
            nodes: how many.
            heartbeat_ms: see LocalCluster.
            election_ms: see LocalCluster.
            settings: see LocalCluster.
            program: arguments of the interpreter instead of those that run `mcr`.
        """
        super().__init__(nodes, heartbeat_ms=heartbeat_ms, election_ms=election_ms, settings=settings)
        if program:
            self._program = program
        self.no_disk = missing_for_disks()
        self.disks: dict[str, LoopDisk] = {}

    def _launch(self, node: LocalNode, *more: str) -> None:
        if not self.no_disk and node.name not in self.disks:
            disk = LoopDisk(self.folder / f"{node.name}.img", self.folder / f"{node.name}-disk")
            self.disks[node.name] = disk
            node.data = disk.mount / "data"
        super()._launch(node, *more)

    def close(self) -> None:
        """See LocalCluster; may be called twice."""
        for i, node in enumerate(self.nodes):
            if node.process is not None:
                self.kill(i)
        disks, self.disks = self.disks, {}
        for disk in disks.values():
            disk.close()
        super().close()

    def disk_of(self, i: int) -> LoopDisk:
        """Return the disk of a node, which has one."""
        return self.disks[self.nodes[i].name]

    def start_all(self, nodes: Sequence[int]) -> None:
        """Start some nodes at once, so that none has to serve before the others are there."""
        with ThreadPoolExecutor(len(nodes)) as starters:
            list(starters.map(self.start, nodes))

    # ---- a full disk ----

    def fill_disk(self, i: int) -> None:
        """Leave a node too little room for chunks."""
        mount = self.disk_of(i).mount
        disk = os.statvfs(mount)
        with (mount / BALLAST).open("wb") as ballast:
            os.posix_fallocate(ballast.fileno(), 0, disk.f_bavail * disk.f_frsize - LEFT_FREE_BYTES)

    def empty_disk(self, i: int) -> None:
        """Give the room back."""
        (self.disk_of(i).mount / BALLAST).unlink(missing_ok=True)

    # ---- power ----

    def lose_power(self, nodes: Sequence[int]) -> None:
        """Cut the power of some nodes at once; they are gone, and what was not synced with them."""
        for i in nodes:
            self.pause(i)
        # A call to the disk that is under way ends first: its answer is not lost, it is not given.
        self.wait_still(nodes)
        for i in nodes:
            self.disk_of(i).sing()
        for i in nodes:
            self.disk_of(i).cut()
        for i in nodes:
            self.nodes[i].process_signal(signal.SIGKILL)
            self.kill(i)

    def wait_still(self, nodes: Sequence[int]) -> None:
        """Wait until nodes that are paused do nothing more, nor the kernel for them."""
        for i in nodes:
            _wait_stopped(self.nodes[i].pid)

    def switch_on(self, nodes: Sequence[int]) -> None:
        """Give the disks of nodes power again, but do not start these yet.

        Raises:
            AssertionError: what was never synced is still there, so this proves nothing.
        """
        for i in nodes:
            assert self.disk_of(i).restore(), "what was never synced is still there: this cut was none"

    def cut_power(self, nodes: Sequence[int]) -> None:
        """Cut the power of some nodes at once, and start them again.

        Raises:
            AssertionError: see `switch_on`.
        """
        self.lose_power(nodes)
        self.switch_on(nodes)
        self.start_all(nodes)

    # ---- members that come and go ----

    def join_anew(self, i: int) -> None:
        """Start a node on an empty disk, which joins the others under the name of one that was removed."""
        node = self.nodes[i]
        shutil.rmtree(node.data)
        others = ",".join(other.address for other in self.nodes if other is not node)
        self._launch(node, "--join", others)

    def wait_repaired(self, timeout_s: float) -> None:
        """Wait until all nodes have a vote, and all chunks as many copies as they should.

        Raises:
            DeadlineError, AssertionError: they do not get there in time.
        """
        self.wait_ready(timeout_s)
        with self.connect() as client:

            def is_whole() -> bool:
                plan = client.plan_repair()
                return not (plan.chunks or plan.chunks_lost or plan.silent)

            until(is_whole, timeout_s)


def _wait_stopped(pid: int) -> None:
    """Wait until every thread of a process stands still."""
    deadline_s = time.perf_counter() + PATIENCE_S
    nap = threading.Event()
    while time.perf_counter() < deadline_s:
        tasks = Path(f"/proc/{pid}/task").glob("*/stat")
        states = {status.read_text().rpartition(")")[2].split()[0] for status in tasks}
        if states == {"T"}:
            return
        nap.wait(STOPPED_POLL_S)
    raise AssertionError(f"process {pid} does not stop")
