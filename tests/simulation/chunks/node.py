"""A node: its disk, and while it runs the services of production over it."""

import asyncio
from functools import partial

from mcr.v1 import admin_pb2 as pb
from mcr_node.core.members import Member
from mcr_node.core.placement.ring import ranked
from mcr_node.core.state.collecting import round_of
from mcr_node.services.availability import Availability
from mcr_node.services.cluster_chunks import ClusterChunks
from mcr_node.services.collecting import Collector, Settings
from mcr_node.services.damage import WatchedStore
from mcr_node.services.draining import Draining
from mcr_node.services.presence import Presence
from mcr_node.services.promises import Promises, PromisingStore
from mcr_node.services.rebalance import Rebalance
from mcr_node.services.repair import Repair
from mcr_node.services.scrub import Scrub
from mcr_node.services.sessions import SessionsService
from mcr_node.services.surplus import Surplus
from mcr_node.services.upkeep import MEMBERS_LOOK_S
from mcr_node.services.versions import VersionsService
from mcr_node.services.workers import Task, Worker
from tests.simulation.chunks.disks import Disk
from tests.simulation.chunks.garbage import MemoryGarbage
from tests.simulation.chunks.log import SimShared
from tests.simulation.chunks.peers import Links, SimPeers
from tests.simulation.chunks.virtual import Beside, Life, VirtualClock, VirtualLoop
from tests.simulation.cluster.world import MS, World

SILENCE_S = 2.0
SCRUB_PERIOD_S = 4.0
DISK_US_MAX = 8 * MS
# When its workers begin, after the start.
BEGIN_US_MAX = (20 * MS, 1000 * MS)


class Host:
    """A machine: what survives, and the life of its node."""

    def __init__(
        self,
        member: Member,
        world: World,
        loop: VirtualLoop,
        links: Links,
        shared: SimShared,
        hosts: dict[str, "Host"],
        gc_interval_s: float,
    ) -> None:
        self.member = member
        self.node_id, self.name, self.address = member.node_id, member.name, member.address
        self.world = world
        self.disk = Disk()
        self.garbage = MemoryGarbage()
        self.bugs: list[Exception] = []
        self._loop = loop
        self._links = links
        self._shared = shared
        self._hosts = hosts
        self._gc_interval_s = gc_interval_s
        self._clock = VirtualClock(loop, world.between(-200, 200))
        self.life = Life(member.name)
        self.life.is_alive = False

    @property
    def is_gone(self) -> bool:
        return self.disk.is_gone

    def start(self) -> None:
        """Power on."""
        assert not self.life.is_alive
        self.world.note(f"start {self.name}")
        self.life = life = Life(self.name)
        self.disk.life = life
        self.log = self._shared.start(self.node_id, life, self._clock)
        log = self.log
        promises = Promises(self.disk, self.garbage.journal, lambda: round_of(log.view()))
        store = WatchedStore(PromisingStore(self.disk, promises))
        executor = Beside(life, self.world, self._loop, DISK_US_MAX)
        peers = SimPeers(self.node_id, life, self._links, self._hosts)
        self.chunks = ClusterChunks(
            store, executor, peers, self._me, self._others, lacks=store.lacks, promises=promises
        )
        presence = Presence(peers, self._others, self._clock, silence_s=SILENCE_S)
        self.repair = Repair(
            self.log,
            self.chunks,
            peers,
            presence,
            self._clock,
            lambda members, key: ranked(key, members),
        )
        self.scrub = Scrub(store, self.chunks, self.disk, self._clock, period_s=SCRUB_PERIOD_S)
        self.draining = Draining(self.log, self.chunks, peers, peers, presence, self.repair, self._clock)
        repair = self.repair
        rebalance = Rebalance(
            self.log,
            self.chunks,
            peers,
            presence,
            lambda: repair.under_replicated > 0,
            self._clock,
            is_new=not self.disk.durable,
        )
        settings = Settings(interval_s=self._gc_interval_s)
        surplus = Surplus(self.log, self.chunks, peers)
        self.collector = Collector(self.log, store, self.chunks, promises, self.garbage, settings, surplus)
        tasks: tuple[Task, ...] = (repair, self.scrub, self.draining, rebalance, self.collector)
        self.workers = [Worker(task, self._clock) for task in tasks]
        availability = Availability(self.log, self.chunks, peers, self._me, self._others)
        self.versions = VersionsService(self.log, self.chunks, availability, "client")
        self.sessions = SessionsService(self.log, self.chunks, "client")
        life.spawn(self._work())

    async def _work(self) -> None:
        await asyncio.sleep(self.world.draw(self.world.pick(BEGIN_US_MAX)) / 1_000_000)
        async with asyncio.TaskGroup() as group:
            for worker in self.workers:
                group.create_task(worker.work_for_ever(partial(self._bug, self.life)))
            group.create_task(self._watch_members())

    async def _watch_members(self) -> None:
        """Let repair look at once when the members change, as `services.upkeep` does."""
        seen_epoch = 0
        while True:
            await asyncio.sleep(MEMBERS_LOOK_S)
            membership = self.log.membership
            if membership.epoch != seen_epoch or membership.leaving:
                seen_epoch = membership.epoch
                self.workers[0].look()

    async def describe(self) -> pb.ListWorkersResponse:
        """Say how repair does, as a node answers whoever drains."""
        worker = pb.Worker(member=self.name, name=self.repair.name)
        for name, value in self.repair.counts().items():
            worker.counts.add(name=name, value=value)
        return pb.ListWorkersResponse(workers=[worker])

    def _bug(self, life: Life, name: str, error: Exception) -> None:
        if life.is_alive:
            self.bugs.append(error)

    @property
    def swept(self) -> int:
        """How many chunks this life has collected."""
        return self.collector.counts()["chunks_swept"] if self.life.is_alive else 0

    @property
    def spared(self) -> int:
        """How many copies this life has dropped because others have them."""
        return self.collector.counts()["surplus_dropped"] if self.life.is_alive else 0

    def crash(self) -> None:
        """Lose power."""
        if not self.life.is_alive:
            return
        self.world.note(f"crash {self.name}")
        self.life.end()
        self._shared.nodes.pop(self.node_id, None)
        self.disk.crash(self.world)
        self.garbage.journal.crash(self.world)

    def _me(self) -> Member:
        return self.log.membership.get(self.node_id) or self.member

    def _others(self) -> list[Member]:
        return [
            one
            for one in self.log.membership.members
            if one.node_id != self.node_id and one.address and not one.awaited
        ]
