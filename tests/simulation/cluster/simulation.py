"""One seed: a cluster, its callers, what breaks it, and at the end the proof that it heals."""

import traceback
from dataclasses import dataclass

from mcr.model import ChunkId, RequestId
from mcr_node.core.members import Member, Membership
from mcr_node.core.raft.messages import ConfState
from mcr_node.core.state import codec
from mcr_node.core.state.commands import CommitVersion
from mcr_node.core.state.outcomes import Accepted, Outcome
from tests.simulation.cluster.clients import EPOCH_MS, Client, Load
from tests.simulation.cluster.faults import Faults, newest_membership
from tests.simulation.cluster.laws import law
from tests.simulation.cluster.network import Network, Weather
from tests.simulation.cluster.node import Habits, Host
from tests.simulation.cluster.oracle import MODELS, Oracle
from tests.simulation.cluster.world import MS, SECOND, World

# Virtual time under faults of a seed, unless said otherwise.
SECONDS = 60
# Bounds on healing. An election takes some 400 ms here, a snapshot as much; many may be needed after a storm.
WRITE_US_MAX = 20 * SECOND
CONVERGE_US_MAX = 20 * SECOND


def nodes_of(seed: int) -> int:
    """Return how many nodes a seed has, unless said otherwise."""
    return (3, 5)[seed % 2]


@dataclass(frozen=True, slots=True)
class Report:
    """What a seed came to."""

    seed: int
    virtual_us: int
    events: int
    committed: int
    counts: dict[str, int]
    trace_hash: str


class SeedFailed(Exception):  # noqa: N818 - it names what happened
    """A law was broken, or the core tripped over an assertion."""

    def __init__(self, seed: int, nodes: int, seconds: int, world: World, cause: BaseException) -> None:
        self.seed = seed
        self.cause = cause
        self.recent = list(world.recent)
        where = "".join(traceback.format_exception(cause)[-4:])
        super().__init__(
            f"seed {seed} at {world.now_us / SECOND:.3f} s, event {world.events}: {cause!r}\n{where}"
            f"rerun: python -m tests.simulation.cluster.run --first {seed} --seeds 1 --nodes {nodes}"
            f" --seconds {seconds}"
        )


class Simulation:
    """A cluster under faults for so many virtual seconds."""

    def __init__(self, seed: int, *, nodes: int = 3, seconds: int = SECONDS) -> None:
        self.seed, self.nodes, self.seconds = seed, nodes, seconds
        self.world = world = World(seed * 16 + nodes)
        self.network = Network(world, Weather())
        self.oracle = Oracle()
        self.hosts = self.oracle.hosts
        self.habits = Habits(
            sync_us_max=world.pick([1, 3, 10]) * MS,
            slow_sync_per_mille=world.pick([0, 10, 100]),
            log_entries_kept_max=world.pick([12, 40, 400]),
            aimed_crash_per_mille=world.pick([0, 1, 4]),
        )
        # Some clusters are there at once; others are founded by one node, and grow, as real ones do.
        founders = 1 if world.happens(300) else nodes
        members = tuple(Member(node_id, f"node-{node_id}") for node_id in range(1, founders + 1))
        at_start = Membership(ConfState(tuple(range(1, founders + 1))), members)
        if founders > 1:
            self.oracle.begin_after(at_start)
        for member in members:
            self._add_host(member.node_id, at_start)
        self.load = Load(world, world.pick([5, 20, 100]) * MS, world.pick([1000, 3000]) * MS)
        self.clients = [
            Client(number, world, self.oracle, self.load) for number in range(world.pick([2, 4, 8]))
        ]
        self.faults = Faults(
            world, self.network, self.hosts, lambda node_id: self._add_host(node_id, Membership())
        )
        if founders < nodes:
            self.faults.grow_to(nodes)

    def run(self) -> Report:
        """Run it.

        Raises:
            SeedFailed: with the command that runs it again.
        """
        world = self.world
        try:
            for host in list(self.hosts.values()):
                host.start()
            self.load.start()
            for client in self.clients:
                client.start()
            world.run_until(self.seconds * SECOND)
            self._heal()
        except Exception as error:
            raise SeedFailed(self.seed, self.nodes, self.seconds, world, error) from error
        return Report(
            self.seed, world.now_us, world.events, len(self.oracle.committed), world.counts, world.trace_hash
        )

    def _add_host(self, node_id: int, at_start: Membership) -> Host:
        host = Host(node_id, at_start, self.world, self.network, self.habits, self.oracle)
        host.peers = self.hosts
        self.hosts[node_id] = host
        self.oracle.added(host)
        return host

    # ---- at the end ----

    def _heal(self) -> None:
        for client in self.clients:
            client.is_stopped = True
        self.faults.stop()
        # Crashes that were scheduled already still come.
        self.world.run_until(self.world.now_us + 2 * SECOND)
        self.faults.stop()
        for node_id in self._voters():
            self._writes(node_id)
        for node_id in self._voters():
            self._reads(node_id)
        is_over = self.world.run_until(self.world.now_us + CONVERGE_US_MAX, self._is_one)
        law(is_over, f"liveness: nodes do not converge: {self._progress()}")
        rows = self.oracle.rows
        for node_id in newest_membership(self.hosts).ids():
            law(self.hosts[node_id].state.rows() == rows, f"rows of node {node_id} differ")
        law(self.oracle.answered_index <= len(self.oracle.committed), "an answered write is lost")

    def _voters(self) -> tuple[int, ...]:
        return newest_membership(self.hosts).conf.voters

    def _writes(self, node_id: int) -> None:
        host, world = self.hosts[node_id], self.world
        request_id = RequestId(b"last-%d" % node_id)
        data = codec.encode(_last_commit(request_id))
        begun_after = self.oracle.answered_index
        outcomes: list[Outcome] = []
        end_us = world.now_us + WRITE_US_MAX
        while not outcomes and world.now_us < end_us:
            assert host.process is not None
            ticket = host.process.propose(data, outcomes.append)
            is_over = world.run_until(world.now_us + 2 * SECOND, lambda: bool(outcomes))
            if not is_over and host.process is not None:
                host.process.forget(ticket, data)
        if not outcomes and self._was_removed(node_id):
            return
        law(bool(outcomes), f"liveness: no write through node {node_id}: {self._progress()}")
        law(isinstance(outcomes[0], Accepted), f"the last write is refused: {outcomes[0]}")
        self.oracle.request_answered(request_id, outcomes[0], begun_after)

    def _reads(self, node_id: int) -> None:
        host, world = self.hosts[node_id], self.world
        begun_after = self.oracle.answered_index
        answers: list[int] = []
        assert host.process is not None
        host.process.read(answers.append)
        is_over = world.run_until(world.now_us + 5 * SECOND, lambda: bool(answers))
        if not is_over and self._was_removed(node_id):
            return
        law(is_over, f"liveness: no read through node {node_id}: {self._progress()}")
        self.oracle.read_answered(host, begun_after)

    def _was_removed(self, node_id: int) -> bool:
        """Whether a change of members that was under way when the faults ended has taken a node out since."""
        if node_id in self._voters():
            return False
        self.world.count("removed in the end")
        return True

    def _is_one(self) -> bool:
        end = len(self.oracle.committed)
        return all(
            self.hosts[node_id].state.applied() == end for node_id in newest_membership(self.hosts).ids()
        )

    def _progress(self) -> str:
        lines = [f"members {newest_membership(self.hosts).conf}"]
        for host in self.hosts.values():
            if host.process is not None:
                replica = host.process.replica
                lines.append(
                    f"{host.node_id}: term {replica.term} leader {replica.leader} commit {replica.commit}"
                    f" applied {replica.applied} last {replica.last} {replica.membership.conf}"
                )
                for peer_id, progress in (
                    replica._node.raft.tracker.progress.items() if replica.is_leader else ()
                ):
                    lines.append(
                        f"  {peer_id}: {progress.state.name} match {progress.match} next {progress.next}"
                        f" pending snapshot {progress.pending_snapshot} paused {progress.flow_paused}"
                        f" active {progress.recently_active} in flight {len(progress.inflights)}"
                    )
        return "\n".join(lines)


def _last_commit(request_id: RequestId) -> CommitVersion:
    return CommitVersion(
        request_id=request_id,
        principal="ci",
        at_ms=EPOCH_MS,
        model=MODELS[0],
        branch="main",
        expected_head=None,
        parent=None,
        description="",
        parameters={},
        manifest=ChunkId(bytes(32)),
        bytes_total=1,
        file_count=1,
        chunk_count=1,
        metrics={},
    )
