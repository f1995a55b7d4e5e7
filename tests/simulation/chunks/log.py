"""The replicated log of the simulated cluster: decided in one place, heard of late, lost with a majority.

How nodes agree is the other simulation's affair (`tests.simulation.cluster`). Here a log decides at once
while a majority of the voters runs and hears of it; what a node misses it catches up on.
"""

import asyncio
from collections.abc import Callable

from mcr.errors import NoQuorumError
from mcr.model import LogIndex
from mcr_node.core.members import Member
from mcr_node.core.raft.messages import Entry
from mcr_node.core.state.commands import Command
from mcr_node.core.state.outcomes import Outcome
from mcr_node.core.state.view import View
from tests.simulation.chunks.virtual import Life, VirtualClock
from tests.simulation.cluster.world import MS, World
from tests.support.memory_log import MemoryLog, SharedLog, _Record

Applied = Callable[[Entry, Outcome, View], None]
LAG_US_MAX = 30 * MS
SLOW_LAG_US_MAX = 2_000 * MS
PROPOSE_US_MAX = 10 * MS
SLOW_PROPOSE_US_MAX = 4_000 * MS


class SimShared(SharedLog):
    """What the nodes share, and who hears of it."""

    def __init__(self, founder: Member, world: World) -> None:
        self.world = world
        self.lives: dict[int, Life] = {}
        # Told of each outcome once, when the first node applies it.
        self.on_applied: Applied = lambda entry, outcome, view: None
        self.told = 0
        # How many proposals take long, per mille; and who is told of each.
        self.slow_per_mille = 0
        self.on_held_back: Callable[[int], None] = lambda node_id: None
        # Of each node the last change of the members that it applied.
        self.kept: dict[int, int] = {}
        super().__init__(founder)

    def start(self, node_id: int, life: Life, clock: VirtualClock) -> "SimLog":
        self.lives[node_id] = life
        log = self.nodes[node_id] = SimLog(self, node_id, clock)
        # A change of the members is durable once applied (`runtime.applying`): no node that starts again
        # goes back to a time when it was alone, and one copy was enough.
        for record in self.records[: self.kept.get(node_id, 0)]:
            log._apply(record)
        log.wake()
        return log

    def hears(self, node_id: int) -> bool:
        life = self.lives.get(node_id)
        return life is not None and life.is_alive and node_id not in self.cut_off

    def has_quorum(self) -> bool:
        voters = self.membership.conf.voters
        return 2 * sum(self.hears(voter) for voter in voters) > len(voters)

    def elect(self) -> None:
        """Let another voter lead where the leader is gone."""
        heard = [voter for voter in self.membership.conf.voters if self.hears(voter)]
        if self.has_quorum() and not self.hears(self.leader):
            self.decide(self.membership, self.world.pick(heard))


class SimLog(MemoryLog):
    """One node's end."""

    shared: SimShared

    def __init__(self, shared: SimShared, node_id: int, clock: VirtualClock) -> None:
        super().__init__(shared, node_id)
        self.clock = clock  # type: ignore[assignment]

    def wake(self) -> None:
        world = self.shared.world
        lag_us = world.draw(LAG_US_MAX if not world.happens(20) else SLOW_LAG_US_MAX)
        asyncio.get_running_loop().call_later(lag_us / 1_000_000, self._catch_up)

    def _catch_up(self) -> None:
        if self.shared.hears(self.node_id) and self.shared.nodes.get(self.node_id) is self:
            super()._catch_up()

    def _apply(self, record: _Record) -> None:
        entry = record.entry
        if record.membership is not None:
            self.shared.kept[self.node_id] = entry.index
        before = self.shared.told
        is_news = record.membership is None and entry.index > before
        answers: asyncio.Future[Outcome] | None = None
        if is_news:
            # Whoever proposed it may be another node, or nobody any more: the outcome is wanted all the same.
            answers = asyncio.get_running_loop().create_future()
            kept = self._answers.get(LogIndex(entry.index))
            self._answers[LogIndex(entry.index)] = answers
            super()._apply(record)
            self._answers.pop(LogIndex(entry.index))
            if kept is not None:
                self._answers[LogIndex(entry.index)] = kept
                if not kept.done():
                    kept.set_result(answers.result())
            self.shared.told = entry.index
            self.shared.on_applied(entry, answers.result(), self.view())
            return
        super()._apply(record)

    def check(self) -> None:
        super().check()
        if not self.shared.hears(self.node_id) or not self.shared.has_quorum():
            raise NoQuorumError("no majority")

    async def propose(self, command: Command) -> Outcome:
        self.check()
        world = self.shared.world
        is_slow = world.happens(self.shared.slow_per_mille)
        if is_slow:
            self.shared.on_held_back(self.node_id)
        await asyncio.sleep(world.draw(SLOW_PROPOSE_US_MAX if is_slow else PROPOSE_US_MAX) / 1_000_000)
        return await super().propose(command)
