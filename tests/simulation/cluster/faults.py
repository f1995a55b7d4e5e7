"""Who breaks things, and who changes the membership. Each seed has its own mixture, often without some kind.

A world in which everything fails at once rarely gets far enough to fail interestingly (swarm testing, Groce
et al. 2012), so each kind is absent in about a third of the worlds.
"""

from collections.abc import Callable, Mapping

from mcr_node.core.members import Member, Membership, decode_membership, encode_context
from mcr_node.core.raft.errors import ConfChangeError, ProposalDroppedError
from mcr_node.core.raft.messages import (
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfChangeV2,
)
from mcr_node.core.replica import Replica
from tests.simulation.cluster.network import Network, Weather
from tests.simulation.cluster.node import Host, Process
from tests.simulation.cluster.world import MS, SECOND, World

VOTERS_MAX = 5
HOSTS_MAX = 24


class Faults:
    """Breaks things until it is stopped."""

    def __init__(
        self, world: World, network: Network, hosts: Mapping[int, Host], add_host: Callable[[int], Host]
    ) -> None:
        self._world = world
        self._network = network
        self._hosts = hosts
        self._add_host = add_host
        self.is_stopped = False
        kinds: list[tuple[Callable[[], None], int]] = [
            (self._crash, 2 * SECOND),
            (self._crash_leader, 2 * SECOND),
            (self._power_failure, 6 * SECOND),
            (self._partition, 2 * SECOND),
            (self._change_weather, 2 * SECOND),
            (self._change_members, 1 * SECOND),
            (self._transfer, 2 * SECOND),
            (self._pause, 1 * SECOND),
            (self._crash_quorum_at_sync, 3 * SECOND),
        ]
        for act, period_us in kinds:
            if world.happens(650):
                self._repeat(act, period_us * world.pick([1, 1, 2, 3]))

    def grow_to(self, voters: int) -> None:
        """Add nodes, one after another, until so many vote."""

        def again() -> None:
            if self.is_stopped or len(newest_membership(self._hosts).conf.voters) >= voters:
                return
            for leader in self._leaders():
                conf = leader.replica.membership.conf
                if conf.learners:
                    self._propose(leader, self._change(((ConfChangeType.ADD_NODE, conf.learners[0]),)))
                elif len(self._hosts) < HOSTS_MAX:
                    self._propose(leader, self._change(((ConfChangeType.ADD_LEARNER, self._new_id()),)))
            self._world.after(self._world.between(100 * MS, 600 * MS), again)

        self._world.after(300 * MS, again)

    def stop(self) -> None:
        """End all faults: links and nodes come back, disks are quick."""
        self.is_stopped = True
        self._network.heal()
        self._network.weather = Weather()
        for host in self._hosts.values():
            host.habits.aimed_crash_per_mille = 0
            host.habits.half_installed_per_mille = 0
            host.habits.slow_sync_per_mille = 0
            if host.process is None and not host.is_retired:
                host.start()

    def _repeat(self, act: Callable[[], None], period_us: int) -> None:
        def again() -> None:
            if not self.is_stopped:
                act()
                self._world.after(self._world.between(1, 2 * period_us), again)

        self._world.after(self._world.between(1, 2 * period_us), again)

    # ---- nodes ----

    def _alive(self) -> list[Process]:
        return [host.process for host in self._hosts.values() if host.process is not None]

    def _leaders(self) -> list[Process]:
        return [process for process in self._alive() if process.replica.is_leader]

    def _down(self, host: Host, down_us_max: int) -> None:
        world = self._world
        host.crash()

        def restart() -> None:
            if host.process is None and not host.is_retired:
                host.start()

        world.after(world.between(1 * MS, down_us_max), restart)

    def _crash(self) -> None:
        if alive := self._alive():
            self._world.count("crash")
            self._down(self._world.pick(alive).host, self._world.pick([50 * MS, 500 * MS, 3 * SECOND]))

    def _crash_leader(self) -> None:
        if leaders := self._leaders():
            self._world.count("crash of a leader")
            self._down(self._world.pick(leaders).host, self._world.pick([50 * MS, 500 * MS, 3 * SECOND]))

    def _pause(self) -> None:
        """Stop a process for a while, leaders first: it wakes up believing what is long over."""
        candidates = self._leaders() if self._world.happens(700) else self._alive()
        if candidates:
            self._world.count("pause")
            process = self._world.pick(candidates)
            process.paused_until_us = self._world.now_us + self._world.between(100 * MS, 1500 * MS)

    def _power_failure(self) -> None:
        self._world.count("power failure of all")
        for process in self._alive():
            self._down(process.host, 500 * MS)

    def _crash_quorum_at_sync(self) -> None:
        """Wait for a moment at which most nodes have something unsynced, and crash those that do."""
        tries = [200]

        def look() -> None:
            tries[0] -= 1
            pending = [process for process in self._alive() if process.host.log.unsynced]
            if 2 * len(pending) > len(self._alive()):
                self._world.count("crash of a quorum at its syncs")
                for process in pending:
                    self._down(process.host, 300 * MS)
            elif tries[0] and not self.is_stopped:
                self._world.after(self._world.between(100, 1 * MS), look)

        look()

    # ---- links ----

    def _partition(self) -> None:
        world, network = self._world, self._network
        ids = list(self._hosts)
        world.count("partition")
        match world.draw(5):
            case 0:
                alone = world.pick(ids)
                pairs = [(a, b) for a in ids for b in ids if (a == alone) != (b == alone)]
            case 1:
                left = [node_id for node_id in ids if world.happens(500)]
                pairs = [(a, b) for a in ids for b in ids if (a in left) != (b in left)]
            case 2:
                # One direction only: it is heard and does not hear, or the other way round.
                alone = world.pick(ids)
                hears = world.happens(500)
                pairs = [(a, b) for a in ids for b in ids if (a if hears else b) == alone]
            case 3:
                leaders = self._leaders()
                alone = world.pick(leaders).node_id if leaders else world.pick(ids)
                pairs = [(a, b) for a in ids for b in ids if (a == alone) != (b == alone)]
            case _:
                pairs = [(world.pick(ids), world.pick(ids)) for _ in range(3)]
        for pair in pairs:
            network.cut(*pair)
        world.after(world.between(50 * MS, 2500 * MS), network.heal)

    def _change_weather(self) -> None:
        world = self._world
        world.count("weather")
        self._network.weather = Weather(
            delay_us_max=world.pick([1, 5, 30]) * MS,
            slow_per_mille=world.pick([0, 10, 100]),
            slow_us_max=world.pick([50, 500, 2000]) * MS,
            loss_per_mille=world.pick([0, 20, 200]),
            double_per_mille=world.pick([0, 20, 200]),
        )

    # ---- membership ----

    def _transfer(self) -> None:
        if leaders := self._leaders():
            leader = self._world.pick(leaders)
            target = self._world.pick(leader.replica.membership.ids())
            if leader.replica.match_of(target) is None:
                return
            self._world.count("transfer of leadership")
            leader.decide(lambda replica: replica.transfer_leader(target))

    def _change_members(self) -> None:
        # Before the leaders are looked up: one of them may be switched off here.
        self._retire_removed()
        leaders = self._leaders()
        if not leaders:
            return
        leader = self._world.pick(leaders)
        change = self._new_change(leader)
        if change is not None:
            self._propose(leader, change)

    def _propose(self, leader: Process, change: ConfChangeV2) -> None:
        def propose(replica: Replica) -> None:
            try:
                replica.change_members(change)
            except (ConfChangeError, ProposalDroppedError):
                self._world.note("a membership change was not taken")

        self._world.count("membership change")
        leader.decide(propose)

    def _new_change(self, leader: Process) -> ConfChangeV2 | None:
        world, replica = self._world, leader.replica
        conf = replica.membership.conf
        if not conf.voters or conf.voters_outgoing:
            return None
        learners, voters = list(conf.learners), list(conf.voters)
        may_add = len(self._hosts) < HOSTS_MAX
        match world.draw(5):
            case 0 if may_add and len(learners) < 2:
                return self._change(((ConfChangeType.ADD_LEARNER, self._new_id()),))
            case 1 if learners and len(voters) < VOTERS_MAX:
                return self._change(((ConfChangeType.ADD_NODE, world.pick(learners)),))
            case 2 if len(voters) > (1 if world.happens(100) else 2):
                return self._change(((ConfChangeType.REMOVE_NODE, world.pick(voters)),))
            case 3 if learners and len(voters) > 1:
                # A swap needs a joint configuration.
                return self._change(
                    (
                        (ConfChangeType.ADD_NODE, world.pick(learners)),
                        (ConfChangeType.REMOVE_NODE, world.pick(voters)),
                    )
                )
            case 4 if len(voters) > 2:
                return self._change(((ConfChangeType.ADD_LEARNER, world.pick(voters)),))
            case _:
                return None

    def _new_id(self) -> int:
        node_id = len(self._hosts) + 1
        self._add_host(node_id).start()
        return node_id

    def _change(self, singles: tuple[tuple[ConfChangeType, int], ...]) -> ConfChangeV2:
        told = [Member(node_id, f"node-{node_id}") for _, node_id in singles]
        return ConfChangeV2(
            tuple(ConfChangeSingle(kind, node_id) for kind, node_id in singles),
            ConfChangeTransition.AUTO,
            encode_context(told),
        )

    def _retire_removed(self) -> None:
        """Switch off a node that was removed; ids are never used again.

        Not before a majority of those that stay have applied the removal durably: one that only has the entry
        still counts the removed node, and may need its vote to find out that the entry is committed.
        """
        present = newest_membership(self._hosts)
        voters = present.conf.voters
        for node_id, host in self._hosts.items():
            was_told = decode_membership(host.state.configuration()).conf.voters
            if node_id in present.ids() or not was_told or not self._world.happens(200):
                continue
            told = [
                voter
                for voter in voters
                if node_id not in decode_membership(self._hosts[voter].state.durable_configuration()).ids()
            ]
            if 2 * len(told) > len(voters):
                host.is_retired = True
                host.crash()


def newest_membership(hosts: Mapping[int, Host]) -> Membership:
    """Return the membership as of the last entry that any node applied."""
    newest = max(hosts.values(), key=lambda host: host.state.applied())
    known = decode_membership(newest.state.configuration())
    return known if known.conf.voters else hosts[1].at_start
