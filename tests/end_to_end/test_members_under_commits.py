"""Every chunk of every visible version is on two nodes at every instant, whoever is killed, added, drained.

At an instant all nodes stand still (SIGSTOP) while their files are copied; the copies are then opened and
read. Nobody is asked. `make members MINUTES=30` goes on for so long; here one round is made.
"""

import os
import random
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mcr._local_network import free_addresses
from mcr.client import Client
from mcr.errors import McrError
from mcr.testing import LocalCluster
from mcr_node.runtime.clock import SystemClock
from mcr_node.services.presence import NS_PER_S
from tests.support.disks import copied, holders_on_disk, visible_manifests
from tests.support.served import bytes_from

pytestmark = pytest.mark.slow

SECONDS = 60 * float(os.environ.get("MEMBERS_MINUTES", "0"))
SEED = int(os.environ.get("MEMBERS_SEED", "1"))
COPIES = 2
NODES = 4
WRITERS = 2
CALL_S = 60.0


def now_s() -> float:
    return SystemClock().monotonic_ns() / NS_PER_S


class Run:
    """A cluster, those who commit to it, and who is done what to."""

    def __init__(self, cluster: LocalCluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        self.chance = random.Random(SEED)
        # Places of the members in `cluster.nodes`; who was removed is none, and its disk does not count.
        self.members = list(range(NODES))
        self.acknowledged: list[str] = []
        self.ending = threading.Event()
        self.instants = 0
        self.bugs: list[BaseException] = []

    def running(self) -> list[int]:
        return [i for i in list(self.members) if self.cluster.nodes[i].is_running]

    def write_for_ever(self, writer: int) -> None:
        chance = random.Random(SEED * 1000 + writer)
        number = 0
        source = self.folder / f"in{writer}"
        source.mkdir()
        while not self.ending.is_set():
            number += 1
            length = chance.randrange(200_000, 3_000_000)
            (source / "weights.bin").write_bytes(bytes_from(chance.randrange(10**9), length))
            try:
                with self.cluster.connect(chance.choice(list(self.members))) as client:
                    made = client.model(f"members/net{writer}").commit(source)
                self.acknowledged.append(f"members/net{writer}@v{made.number}")
            except McrError:
                # Killed, or going: what was not acknowledged is promised to nobody.
                continue
            except BaseException as error:
                self.bugs.append(error)
                raise

    def instant(self) -> None:
        """Let all stand still, and count copies on the disks."""
        acknowledged = list(self.acknowledged)
        standing = self.running()
        copies: list[Path] = []
        for i in standing:
            self.cluster.pause(i)
        try:
            here = self.folder / f"instant{self.instants}"
            copies += [copied(self.cluster.nodes[i].data, here / str(i)) for i in self.members]
        finally:
            for i in standing:
                self.cluster.resume(i)
        visible = visible_manifests(copies)
        missing = [name for name in acknowledged if name not in visible]
        assert not missing, f"acknowledged and not there: {missing}"
        found = holders_on_disk(copies, visible.values())
        short = {one.hex(): places for one, places in found.items() if len(places) < COPIES}
        assert not short, f"instant {self.instants}, members {self.members}: {short}"
        shutil.rmtree(here)
        self.instants += 1

    # ---- what is done ----

    def kill(self) -> None:
        i = self.chance.choice(self.running())
        self.cluster.kill(i)
        self.instant()
        self.cluster.start(i)
        self.cluster.wait_ready()

    def kill_leader(self) -> None:
        leader = self.cluster.leader()
        self.cluster.kill(leader)
        self.instant()
        self.cluster.start(leader)
        self.cluster.wait_ready()

    def add(self) -> None:
        (address,) = free_addresses(1)
        self.cluster._add(address)
        self.members.append(len(self.cluster.nodes) - 1)
        self.instant()

    def drain_and_remove(self) -> None:
        gone = self.chance.choice(self.running())
        name = self.cluster.nodes[gone].name
        others = [i for i in self.running() if i != gone]
        self.until(others, lambda client: client.drain_member(name, wait=False))
        self.instant()
        self.until(others, lambda client: client.remove_member(name))
        self.members.remove(gone)
        self.instant()
        self.cluster.kill(gone)

    def until(self, through: list[int], work: Callable[[Client], object]) -> None:
        """Do something by any of some nodes, again while they elect or are killed."""
        give_up_s = now_s() + 5 * CALL_S
        while True:
            try:
                with self.cluster.connect(self.chance.choice(through)) as client:
                    work(client)
            except McrError:
                if now_s() > give_up_s:
                    raise
            else:
                return


def test_no_chunk_is_ever_on_fewer_nodes_than_promised(tmp_path: Path) -> None:
    settings = {"repair_silence_s": 3}
    with LocalCluster(NODES, heartbeat_ms=100, election_ms=1000, settings=settings) as cluster:
        run = Run(cluster, tmp_path)
        writers = [threading.Thread(target=run.write_for_ever, args=[number]) for number in range(WRITERS)]
        for writer in writers:
            writer.start()
        try:
            end_s = now_s() + SECONDS
            run.kill()
            run.add()
            run.drain_and_remove()
            run.kill_leader()
            while now_s() < end_s:
                # Five members at most, four at least.
                grow = run.add if len(run.members) <= NODES else run.drain_and_remove
                run.chance.choice([run.kill, run.kill_leader, grow])()
        finally:
            run.ending.set()
            for writer in writers:
                writer.join()
        run.instant()
        assert not run.bugs
        assert len(run.acknowledged) > 2
        sys.stdout.write(f"{run.instants} instants, {len(run.acknowledged)} commits, seed {SEED}\n")
