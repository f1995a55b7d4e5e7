"""One seed: a cluster with its chunks, its users, what breaks it, and twice the proof that it heals."""

import asyncio
import gc
import traceback
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from mcr.errors import McrError
from mcr_node.core.members import Member
from mcr_node.services import chunks as chunks_module
from mcr_node.services import cluster_chunks, repair
from tests.simulation.chunks.clients import Client
from tests.simulation.chunks.faults import Faults
from tests.simulation.chunks.log import SimShared
from tests.simulation.chunks.node import Host
from tests.simulation.chunks.oracle import Oracle
from tests.simulation.chunks.peers import Links
from tests.simulation.chunks.virtual import NodeDied, VirtualLoop
from tests.simulation.cluster.laws import LawBroken, law
from tests.simulation.cluster.world import SECOND, World

# Virtual seconds under faults of each round, and rounds.
SECONDS = 8
ROUNDS = 2
SETTLE_S_MAX = 120.0
# A world that goes on for so long waits for something that never comes.
VIRTUAL_S_MAX = 1_000.0
SITES = ("east", "west")
CLIENTS_MAX = 2
# Between two marks: a commit meets several of them, or a node comes back within one round.
GC_INTERVALS_S = (1.0, 2.0, 6.0)


@dataclass(frozen=True, slots=True)
class Report:
    """What a seed came to."""

    seed: int
    virtual_s: float
    versions: int
    checks: int
    counts: dict[str, int]
    trace_hash: str


class SeedFailed(Exception):  # noqa: N818 - it names what happened
    """A law was broken, or a service tripped."""

    def __init__(self, seed: int, seconds: int, world: World, cause: BaseException) -> None:
        self.seed = seed
        self.cause = cause
        self.recent = list(world.recent)
        where = "".join(traceback.format_exception(cause)[-4:])
        super().__init__(
            f"seed {seed} at {world.now_us / SECOND:.3f} s: {cause!r}\n{where}"
            f"rerun: PYTHONHASHSEED=0 python -m tests.simulation.chunks.run --first {seed} --seeds 1"
            f" --seconds {seconds} --trace"
        )


class Simulation:
    """A cluster under faults for so many virtual seconds, twice."""

    def __init__(self, seed: int, *, seconds: int = SECONDS) -> None:
        self.seed, self.seconds = seed, seconds
        self.world = World(seed * 16 + 7)
        # What rots, and rots again before it is healed for good, only a walk through all finds; where nothing
        # does, no walk may be needed.
        self._bytes_rot = self.world.happens(500)
        self._bugs: list[BaseException] = []

    def run(self) -> Report:
        """Run it.

        Raises:
            SeedFailed: with the command that runs it again.
        """
        # Collected at other moments, what is left of tasks would end in another order.
        gc.disable()
        loop = VirtualLoop()
        loop.set_exception_handler(self._lost)
        asyncio.set_event_loop(loop)
        try:
            with ExitStack() as stack:
                self._hurry(stack)
                return loop.run_until_complete(self._bounded(loop))
        except Exception as error:
            self.world.now_us = int(loop.now_s * SECOND)
            raise SeedFailed(self.seed, self.seconds, self.world, error) from error
        finally:
            _end_all(loop)
            asyncio.set_event_loop(None)
            loop.close()
            gc.enable()

    def _hurry(self, stack: ExitStack) -> None:
        """Shorten what is long only for the sake of real machines; and, in some worlds, trust nothing."""
        world = self.world
        changes: list[tuple[Any, str, float]] = [
            (repair, "AGAIN_S", 1.0),
            (repair, "NEW_VERSIONS_S", 1.0),
            (repair, "REWALK_S", 10.0 if self._bytes_rot else 3600.0),
            (chunks_module, "FORWARD_BYTES_MIN", world.pick([0, 1 << 20])),
            (cluster_chunks, "SEALED_S_MAX", world.pick([0.0, 10.0])),
        ]
        for module, name, value in changes:
            stack.enter_context(patch.object(module, name, value))

    def _lost(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Keep what nobody took from a task: a bug, unless its node died, or it is for callers."""
        error = context.get("exception")
        if error is not None and not isinstance(error, (NodeDied, McrError)):
            self._bugs.append(error)

    async def _bounded(self, loop: VirtualLoop) -> Report:
        async with asyncio.timeout(VIRTUAL_S_MAX):
            return await self._story(loop)

    async def _story(self, loop: VirtualLoop) -> Report:
        world = self.world
        links = Links(world)
        oracle = Oracle(loop.time)
        founder = self._member(1, SITES[0])
        shared = SimShared(founder, world)
        shared.on_applied = oracle.applied

        gc_interval_s = world.pick(GC_INTERVALS_S)

        def add_host(site: str) -> Host:
            member = self._member(len(oracle.hosts) + 1, site)
            host = Host(member, world, loop, links, shared, oracle.hosts, gc_interval_s)
            oracle.hosts[member.address] = host
            return host

        add_host(founder.site).start()
        faults = Faults(world, links, shared, oracle, add_host, bytes_rot=self._bytes_rot)
        for _ in range(world.pick([2, 3, 4])):
            await faults.grow()
        clients = [
            Client(number, world, links, oracle.hosts, oracle)
            for number in range(world.between(1, CLIENTS_MAX))
        ]
        for round_number in range(ROUNDS):
            if round_number:
                faults = Faults(world, links, shared, oracle, add_host, bytes_rot=self._bytes_rot)
            await self._storm(loop, oracle, faults, clients)
            await self._calm(loop, oracle, clients)
            if faults.leave_in_calm():
                # Those who stay know from before what all held, and have not started again since.
                await self._heal(loop, oracle)
            await faults.end()
        for host in oracle.hosts.values():
            world.counts["chunks swept"] = world.counts.get("chunks swept", 0) + host.swept
            world.counts["surplus dropped"] = world.counts.get("surplus dropped", 0) + host.spared
            host.crash()
        await asyncio.sleep(1)
        self._check_bugs(oracle)
        world.now_us = int(loop.now_s * SECOND)
        return Report(self.seed, loop.now_s, oracle.versions, oracle.checks, world.counts, world.trace_hash)

    def _member(self, number: int, site: str) -> Member:
        if not site:
            site = self.world.pick(SITES) if number > len(SITES) else SITES[number - 1]
        return Member(number, f"n{number}", f"n{number}:1", site=site)

    async def _storm(self, loop: VirtualLoop, oracle: Oracle, faults: Faults, clients: list[Client]) -> None:
        for client in clients:
            client.is_stopped = False
        try:
            await clients[0].begin_long()
        except LawBroken:
            # Because of another one, perhaps.
            self._check_bugs(oracle)
            faults.check()
            raise
        working = [asyncio.create_task(client.work()) for client in clients]
        end_s = loop.now_s + self.seconds
        while loop.now_s < end_s:
            await asyncio.sleep(0.25)
            self.world.now_us = int(loop.now_s * SECOND)
            oracle.check("nothing happened")
            self._check_bugs(oracle)
            for task in working:
                if task.done():
                    task.result()
        await faults.stop()
        for client in clients:
            client.is_stopped = True
        for task in working:
            await task

    async def _calm(self, loop: VirtualLoop, oracle: Oracle, clients: list[Client]) -> None:
        """Nothing fails any more: it must heal, take commits, and give all that it holds."""
        await self._heal(loop, oracle)
        await clients[0].seal_long()
        refused = self.world.counts.get("met durability", 0)
        law(await clients[0].commit(is_wide=False), "liveness: no commit")
        is_calm = self.world.counts.get("met durability", 0) == refused
        law(is_calm, "liveness: a commit is refused for lack of nodes, and all are there")
        for host in oracle.hosts.values():
            if host.life.is_alive:
                for _ in range(4):
                    await clients[0].read(host, must=True)
        oracle.check("all was read")
        oracle.check_end()

    async def _heal(self, loop: VirtualLoop, oracle: Oracle) -> None:
        """Wait until those who are there have all copies among them."""
        give_up_s = loop.now_s + SETTLE_S_MAX
        while lacking := oracle.lacking():
            await asyncio.sleep(0.5)
            oracle.check("all is calm")
            self._check_bugs(oracle)
            law(loop.now_s < give_up_s, f"liveness: after {SETTLE_S_MAX:.0f} s of calm {lacking}")
        oracle.settled()

    def _check_bugs(self, oracle: Oracle) -> None:
        bugs = self._bugs + [bug for host in oracle.hosts.values() for bug in host.bugs]
        if bugs:
            raise bugs[0]


def _end_all(loop: VirtualLoop) -> None:
    """End what a world that failed left behind: collected later, it would go on without a loop, for ever."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=VIRTUAL_S_MAX))
