"""Who breaks the chunk plane, and who changes its members. Each world has its own mixture of it.

What no store of two copies can survive does not happen here: a disk is thrown away, or a copy damaged, only
while another good copy of each of its chunks is on some disk. All else may happen at any moment.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

from mcr.errors import McrError
from mcr.model import ChunkId
from mcr_node.core.members import Member, Membership, Told
from tests.simulation.chunks.log import SimShared
from tests.simulation.chunks.node import Host
from tests.simulation.chunks.oracle import Oracle
from tests.simulation.chunks.peers import HEARD, KINDS, MOMENTS, Links, Trap
from tests.simulation.cluster.world import MS, SECOND, World

HOSTS_MAX = 9
STAYING_MIN = 3
DRAIN_S_MAX = 60.0
SLOW_PER_MILLE = 300
DIES_MEANWHILE_PER_MILLE = 500
# How long a node is off, at most.
OFF_US_MAX = (50 * MS, 500 * MS, 4 * SECOND)
# Who dies of a trap is back soon, while whoever asked goes on.
TRAPPED_US_MAX = (50 * MS, 50 * MS, 500 * MS)
# From when one goes while all is calm: repair begins once its silence counts, and tries.
FULL_IN_CALM_MS = (3000, 8000)
# How soon one dies after what it said was heard.
HEARD_US_MAX = 30 * MS


class Faults:
    """Breaks things until it is stopped."""

    def __init__(
        self,
        world: World,
        links: Links,
        shared: SimShared,
        oracle: Oracle,
        add_host: Callable[[str], Host],
        *,
        bytes_rot: bool,
    ) -> None:
        self._world = world
        self._links = links
        self._shared = shared
        self._oracle = oracle
        self._hosts = oracle.hosts
        self._add_host = add_host
        self.is_stopped = False
        self._arranging = asyncio.Lock()
        # Off until all is calm and was looked at: who is left must have all copies.
        self._away: Host | None = None
        # In some worlds much of what is proposed takes long to be decided, so others happen in between.
        shared.slow_per_mille = world.pick([0, SLOW_PER_MILLE])
        shared.on_held_back = self._held_back
        self._tasks: list[asyncio.Task[None]] = []
        kinds: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self._crash, 3 * SECOND),
            (self._set_trap, 1 * SECOND),
            (self._power_failure, 6 * SECOND),
            (self._partition, 2 * SECOND),
            (self._weather, 2 * SECOND),
            (self._replace, 4 * SECOND),
            (self._drain, 3 * SECOND),
            (self._fill, 3 * SECOND),
            (self._vanish, 2 * SECOND),
        ]
        if bytes_rot:
            self._tasks.append(asyncio.create_task(self._repeat(self._rot, 500 * MS)))
        for act, period_us in kinds:
            if world.happens(650):
                self._tasks.append(asyncio.create_task(self._repeat(act, period_us * world.pick([1, 1, 2]))))
        self._tasks.append(asyncio.create_task(self._elect()))

    def check(self) -> None:
        """Raise what broke in here, if anything did."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def stop(self) -> None:
        """End all faults: links, nodes and disks come back."""
        self.is_stopped = True
        for task in self._tasks[:-1]:
            # What an operator began comes to its end.
            await asyncio.wait([task])
            task.result()
        self._links.heal()
        self._links.trap = None
        self._shared.slow_per_mille = 0
        self._links.loss_per_mille = self._links.flips_per_mille = 0
        self._links.delay_us_max = 5 * MS
        for node_id in list(self._shared.cut_off):
            self._mend(node_id)
        self._set_full(False)
        self._start_all()

    def leave_in_calm(self) -> bool:
        """Let one node go while nothing else happens, in half of the worlds; say whether one went."""
        candidates = [host for host in self._alive() if self._is_spare(host)]
        if self._away is not None or len(candidates) < STAYING_MIN or not self._world.happens(500):
            return False
        self._world.count("away in calm")
        self._leave(self._world.pick(candidates))
        if self._world.happens(500):
            # Nobody takes a copy at first, and nothing happens afterwards that would let anybody count anew.
            self._world.count("all full in calm")
            self._set_full(True)
            full_s = self._world.between(*FULL_IN_CALM_MS) / 1000
            asyncio.get_running_loop().call_later(full_s, self._set_full, False)
        return True

    def _set_full(self, is_full: bool) -> None:
        for host in self._present():
            host.disk.is_full = is_full

    async def end(self) -> None:
        """Also elect no more; and whoever was away comes back."""
        self._away = None
        self._start_all()
        self._tasks[-1].cancel()
        await asyncio.wait([self._tasks[-1]])

    async def _repeat(self, act: Callable[[], Awaitable[None]], period_us: int) -> None:
        while True:
            await asyncio.sleep(self._world.between(1, 2 * period_us) / 1_000_000)
            if self.is_stopped:
                return
            await act()

    async def _elect(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            self._shared.elect()

    def _present(self) -> list[Host]:
        """Return those whose disks are there."""
        return [host for host in self._hosts.values() if not host.is_gone]

    def _start_all(self) -> None:
        for host in self._present():
            if not host.life.is_alive and host is not self._away:
                host.start()

    def _alive(self) -> list[Host]:
        return [host for host in self._present() if host.life.is_alive]

    # ---- nodes ----

    def _down(self, host: Host, us_max: int) -> None:
        host.crash()
        self._oracle.check(f"{host.name} lost power")

        def restart() -> None:
            if not host.life.is_alive and not host.is_gone and host is not self._away:
                host.start()

        delay_us = self._world.between(20 * MS, us_max)
        asyncio.get_running_loop().call_later(delay_us / 1_000_000, restart)

    async def _crash(self) -> None:
        if alive := self._alive():
            self._world.count("crash")
            self._down(self._world.pick(alive), self._world.pick(OFF_US_MAX))

    async def _set_trap(self) -> None:
        """Let the next one who is asked for something die of it, at one of the moments of the call."""
        world = self._world
        kind, moment = world.pick(KINDS), world.pick(MOMENTS)

        def die(host: Host) -> None:
            self._die(host, f"{moment}: {kind}")

        def spring(host: Host) -> None:
            delay_us = world.draw(HEARD_US_MAX) if moment == HEARD else 0
            if delay_us:
                asyncio.get_running_loop().call_later(delay_us / 1_000_000, die, host)
            else:
                die(host)

        self._links.trap = Trap(kind, moment, spring)

    def _die(self, host: Host, why: str) -> None:
        if host.life.is_alive and not self.is_stopped:
            self._world.count(f"crash {why}")
            self._down(host, self._world.pick(TRAPPED_US_MAX))

    def _held_back(self, node_id: int) -> None:
        """Let another node die, or all others, while one waits long for a decision of the log."""
        world = self._world
        others = [host for host in self._alive() if host.node_id != node_id]
        if others and world.happens(DIES_MEANWHILE_PER_MILLE):
            for host in others if world.happens(500) else [world.pick(others)]:
                self._die(host, "while a decision takes long")

    async def _power_failure(self) -> None:
        self._world.count("power failure of all")
        for host in self._alive():
            self._down(host, 2 * SECOND)

    async def _vanish(self) -> None:
        """Let a node go for long, and nobody removes it: who is left must see to it alone."""
        candidates = [host for host in self._alive() if self._is_spare(host)]
        if self._away is None and len(self._present()) > STAYING_MIN and candidates:
            self._world.count("away for long")
            self._leave(self._world.pick(candidates))

    def _leave(self, host: Host) -> None:
        self._away = host
        host.crash()
        self._oracle.check(f"{host.name} went away")

    async def _fill(self) -> None:
        if alive := self._alive():
            self._world.count("disk full")
            # Those of one cluster are alike, so they fill up together.
            full = alive if self._world.happens(400) else [self._world.pick(alive)]
            for host in full:
                host.disk.is_full = True
            await asyncio.sleep(self._world.between(1, 2000) / 1000)
            for host in full:
                host.disk.is_full = False

    async def _rot(self) -> None:
        """Damage a copy of a chunk that has another good one."""
        candidates = [
            (host, chunk_id)
            for chunk_id in self._oracle.needed()
            for host in self._present()
            if host.disk.has_good(chunk_id) and self._others_have(host, chunk_id)
        ]
        if candidates:
            self._world.count("rotten copy")
            host, chunk_id = self._world.pick(candidates)
            self._oracle.rotten(chunk_id)
            host.disk.rot(chunk_id)

    def _others_have(self, host: Host, chunk_id: ChunkId) -> bool:
        """Say whether another disk has a good copy, of a node that neither goes nor is away for long."""
        going = {member.node_id for member in self._shared.membership.leaving}
        return any(
            other is not host and other is not self._away and other.node_id not in going
            for other in self._present()
            if other.disk.has_good(chunk_id)
        )

    def _is_spare(self, host: Host) -> bool:
        """Say whether others decide without a node, and have whole all it has that is needed."""
        voters = self._shared.membership.conf.voters
        left = [one for one in self._present() if one.node_id in voters and one not in (host, self._away)]
        return 2 * len(left) > len(voters) and all(
            self._others_have(host, one) for one in self._oracle.needed() if host.disk.has(one)
        )

    # ---- links ----

    async def _partition(self) -> None:
        world = self._world
        hosts = self._present()
        world.count("partition")
        alone = [host for host in hosts if world.happens(300)] or [world.pick(hosts)]
        for one in alone:
            for other in hosts:
                if other not in alone:
                    self._links.cut(one.node_id, other.node_id)
            if world.happens(700):
                self._shared.cut(one.node_id)
        await asyncio.sleep(world.between(100, 3000) / 1000)
        self._links.heal()
        for one in alone:
            self._mend(one.node_id)

    def _mend(self, node_id: int) -> None:
        self._shared.cut_off.discard(node_id)
        if node_id in self._shared.nodes:
            self._shared.nodes[node_id].wake()

    async def _weather(self) -> None:
        world, links = self._world, self._links
        world.count("weather")
        links.delay_us_max = world.pick([2, 20, 200]) * MS
        links.loss_per_mille = world.pick([0, 10, 100])
        links.flips_per_mille = world.pick([0, 50, 300])

    # ---- members ----

    async def grow(self) -> None:
        """Take a node in; nobody throws it out meanwhile."""
        async with self._arranging:
            await self._grow("")

    async def _grow(self, site: str) -> None:
        host = self._add_host(site)
        host.start()
        await self._arrange(lambda leader: leader.log.members.add(host.member))
        await self._arrange(lambda leader: leader.log.members.promote(host.node_id))

    async def _arrange(self, work: Callable[[Host], Awaitable[object]]) -> None:
        """Let the leader change something, and again until it did."""
        while True:
            leader = next((host for host in self._alive() if host.log.is_leader), None)
            try:
                if leader is not None and self._shared.leader == leader.node_id and self._shared.has_quorum():
                    async with asyncio.timeout(2.0):
                        await work(leader)
                    return
            except (McrError, TimeoutError) as error:
                self._world.note(f"arranging failed: {error}")
            await asyncio.sleep(0.2)
            if self.is_stopped:
                # So that what was begun can be ended.
                self._start_all()
                for node_id in list(self._shared.cut_off):
                    self._mend(node_id)

    async def _replace(self) -> None:
        """Throw a disk away, for good; another node takes its place."""
        async with self._arranging:
            world = self._world
            candidates = [host for host in self._present() if self._is_spare(host)]
            if len(self._hosts) >= HOSTS_MAX or len(self._present()) <= STAYING_MIN or not candidates:
                return
            host = world.pick(candidates)
            world.count("disk thrown away")
            host.crash()
            self._away = None if host is self._away else self._away
            self._oracle.thrown_away(host.disk)
            host.disk.destroy()
            self._oracle.check(f"{host.name} lost its disk")
            self._shared.elect()
            await self._arrange(lambda leader: _removed(leader, host))
            await self._grow(host.member.site)

    async def _drain(self) -> None:
        """Let a member go in good order, and throw its disk away after that."""
        async with self._arranging:
            world = self._world
            staying = [
                host
                for host in self._alive()
                if (known := self._shared.membership.get(host.node_id)) is not None and known.is_staying
            ]
            if len(self._hosts) >= HOSTS_MAX or len(staying) <= STAYING_MIN:
                return
            world.count("drain")
            host = world.pick(staying)
            await self._arrange(partial(_arranged, _leaves(host.member, leaving=True)))
            loop = asyncio.get_running_loop()
            give_up_s = loop.time() + DRAIN_S_MAX
            while not self._is_drained(host):
                await asyncio.sleep(0.1)
                if loop.time() > give_up_s or self.is_stopped:
                    world.count("drain given up")
                    await self._arrange(partial(_arranged, _leaves(host.member, leaving=False)))
                    return
            world.count("drained")
            await self._arrange(lambda leader: _removed(leader, host))
            host.crash()
            self._oracle.goes(host)
            host.disk.destroy()
            self._oracle.check(f"{host.name} went")
            await self._grow(host.member.site)

    def _is_drained(self, host: Host) -> bool:
        return any(
            one.log.is_leader and self._shared.leader == one.node_id and one.draining.is_drained(host.node_id)
            for one in self._alive()
        )


async def _arranged(decide: Callable[[Membership], Told], leader: Host) -> None:
    await leader.log.members.arrange(decide)


async def _removed(leader: Host, host: Host) -> None:
    if leader.log.membership.get(host.node_id) is not None:
        if leader is host:
            await leader.log.members.transfer_leader(None)
        else:
            await leader.log.members.remove(host.node_id)
    if leader.log.shared.membership.get(host.node_id) is not None:
        raise McrError


def _leaves(member: Member, *, leaving: bool) -> Callable[[Membership], Told]:
    def decide(membership: Membership) -> Told:
        known = membership.get(member.node_id) or member
        return Told((replace(known, leaving=leaving),))

    return decide
