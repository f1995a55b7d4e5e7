"""What is done to the nodes of a cluster while clients use it, and how it is undone."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mcr.client import Client
from mcr.errors import McrError
from mcr.model import CheckReport
from tests.chaos.clients import Recorder
from tests.chaos.cluster import DiskCluster
from tests.chaos.garbage import drop_some
from tests.chaos.history import Kind
from tests.chaos.standing import Instants
from tests.support.load import PATIENCE_S

# Flipped in the file of chunks of one node at a time.
FLIPS = 3
# Of a slow node: far less than it says under load, and a sea away.
SLOW_BYTES_PER_S = 200_000.0
SLOW_DELAY_S = 0.1
# From the beginning of a commit or a rollback until the leader is killed: about as long as one takes.
MOMENT_S_MAX = 0.06
Undo = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that was done.

    Attributes:
        struck_s: when the blow fell.
        began_s: from when it was felt: an orderly stop, for one, takes its time.
        ended_s: when all of it was undone and every node ran again.
        keeps_majority: there was one all the time, so that clients may expect answers.
    """

    name: str
    keeps_majority: bool
    struck_s: float
    began_s: float
    ended_s: float


class ChaosCluster(DiskCluster):
    """The cluster that is hurt."""

    def __init__(self, nodes: int, program: tuple[str, ...] = ()) -> None:
        # Garbage is marked all the time, and who is silent for some seconds has its copies made anew.
        settings = {"garbage_interval_s": 5, "repair_silence_s": 3}
        super().__init__(nodes, settings=settings, program=program)


@dataclass(slots=True)
class Nemesis:
    """Hurts a cluster, one fault after the other.

    Attributes:
        recorder: of what clients do, for blows that fall while they do it.
        names: of what it does; empty = of all that can be done here.
        faults: what was done.
        wrong: what it saw of the nodes that may never be.
        instants: of all nodes standing still, at which copies are counted on their disks.
    """

    cluster: ChaosCluster
    recorder: Recorder
    chance: random.Random
    names: Sequence[str] = ()
    faults: list[Fault] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    instants: Instants = field(init=False)
    _struck_s: float = 0.0

    def __post_init__(self) -> None:
        self.instants = Instants(self.recorder, random.Random(self.chance.random()))

    def kinds(self) -> list[str]:
        """Return the names of all faults, in an order by chance; quick ones are there thrice."""
        names = [name for name in self.names or FAULTS if name not in ON_DISKS or not self.cluster.no_disk]
        names += 2 * [name for name in names if name in QUICK]
        self.chance.shuffle(names)
        return names

    def strike(self, name: str, hold: Callable[[], None]) -> None:
        """Do one thing to the cluster, hold it for a while, and undo it."""
        keeps_majority, do = FAULTS[name]
        self.cluster.leader(timeout_s=PATIENCE_S)
        self._struck_s = 0.0
        begun_s = time.perf_counter()
        undo = do(self)
        # From here on it is felt: an orderly stop, for one, takes its time and gives leadership away first.
        began_s = time.perf_counter()
        hold()
        self._look_for_dead()
        undo()
        struck_s = self._struck_s or begun_s
        self.faults.append(Fault(name, keeps_majority, struck_s, began_s, time.perf_counter()))

    def _look_for_dead(self) -> None:
        """Note nodes that ended by themselves, and start them again."""
        for i, node in enumerate(self.cluster.nodes):
            if node.process is not None and (status := node.process.poll()) is not None:
                self.wrong.append(f"node ended: {node.name} by itself, with {status}: {node.talk()[-500:]}")
                self.cluster.kill(i)
                self.cluster.start(i)

    def strikes_now(self) -> None:
        """Note that the blow falls in this moment."""
        self._struck_s = time.perf_counter()

    def wait_moment(self, *kinds: Kind) -> None:
        """Wait until a client is in the middle of something of these kinds."""
        self.recorder.wait_begun(kinds)
        end_s = time.perf_counter() + self.chance.uniform(0, MOMENT_S_MAX)
        while time.perf_counter() < end_s:
            pass

    def asked(self, what: str, through: int, work: Callable[[Client], object]) -> bool:
        """Ask a node for something that it has to do, whatever happened before; note it where it does not.

        An election may be under way, which is told as such: it is asked again, as an operator would.
        """
        give_up_s = time.perf_counter() + PATIENCE_S
        with self.cluster.connect(through) as client:
            while True:
                try:
                    work(client)
                except McrError as error:
                    if time.perf_counter() > give_up_s or error.code not in _PASSING:
                        self.wrong.append(f"refused: {what}: {type(error).__name__}: {error.message}")
                        return False
                else:
                    return True

    def look_at_disks(self, told: Sequence[str] = ()) -> None:
        """Count copies while no node runs; `told` must be visible by now."""
        self.wrong += self.instants.look([node.data for node in self.cluster.nodes], told)

    def others(self, node: int) -> int:
        """Return one of the other nodes, by chance."""
        return self.chance.choice([i for i in self.everyone if i != node])

    def some(self, count: int) -> list[int]:
        """Return so many nodes, by chance."""
        return self.chance.sample(range(len(self.cluster.nodes)), count)

    def a_follower(self) -> int:
        """Return a node that does not lead."""
        return self.others(self.cluster.leader())

    @property
    def minority(self) -> int:
        """How many nodes may be missing."""
        return (len(self.cluster.nodes) - 1) // 2

    @property
    def everyone(self) -> list[int]:
        """All nodes."""
        return list(range(len(self.cluster.nodes)))


# What passes by itself: an election, a node that has just started, a count that another one overtook.
_PASSING = ("no_quorum", "unavailable", "deadline", "node_busy", "members_changed")


def _kill(nemesis: Nemesis, nodes: Sequence[int]) -> Undo:
    nemesis.strikes_now()
    for i in nodes:
        nemesis.cluster.kill(i)
    return lambda: nemesis.cluster.start_all(nodes)


def _kill_all(nemesis: Nemesis) -> Undo:
    told = nemesis.instants.acknowledged()
    start = _kill(nemesis, nemesis.everyone)
    nemesis.look_at_disks(told)
    return start


def _stand_still(nemesis: Nemesis) -> Undo:
    """Pause all nodes at once, right after a commit was answered, and look at their disks."""
    nemesis.recorder.wait_answered((Kind.COMMIT,))
    told = nemesis.instants.acknowledged()
    resume = _pause(nemesis, nemesis.everyone)
    try:
        nemesis.cluster.wait_still(nemesis.everyone)
        nemesis.look_at_disks(told)
    except BaseException:
        resume()
        raise
    return resume


def _kill_during(nemesis: Nemesis, *kinds: Kind) -> Undo:
    leader = nemesis.cluster.leader()
    nemesis.wait_moment(*kinds)
    return _kill(nemesis, [leader])


def _kill_while_garbage_goes(nemesis: Nemesis) -> Undo:
    """Delete versions for good, let all nodes sweep, and kill the leader in the middle of it."""
    leader = nemesis.cluster.leader()
    nemesis.asked("deletion", nemesis.others(leader), lambda client: drop_some(client, nemesis.recorder))
    nemesis.asked("gc start", nemesis.others(leader), lambda client: client.start_worker("gc"))
    return _kill(nemesis, [leader])


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


def _fill(nemesis: Nemesis, node: int) -> Undo:
    nemesis.cluster.fill_disk(node)
    return lambda: nemesis.cluster.empty_disk(node)


def _lose_power(nemesis: Nemesis, nodes: Sequence[int]) -> Undo:
    nemesis.strikes_now()
    told = nemesis.instants.acknowledged()
    nemesis.cluster.lose_power(nodes)

    def return_power() -> None:
        nemesis.cluster.switch_on(nodes)
        if len(nodes) == len(nemesis.everyone):
            # What was not synced is gone, and nobody has repaired anything yet.
            nemesis.look_at_disks(told)
        nemesis.cluster.start_all(nodes)

    return return_power


def _slow(nemesis: Nemesis, nodes: Sequence[int]) -> Undo:
    for i in nodes:
        nemesis.cluster.slow(i, SLOW_BYTES_PER_S, delay_s=SLOW_DELAY_S)

    def fast() -> None:
        for i in nodes:
            nemesis.cluster.slow(i, None)

    return fast


def _drain(nemesis: Nemesis) -> Undo:
    """Let a node leave, and take it back while others copy what it has."""
    node = nemesis.chance.choice(nemesis.everyone)
    name = nemesis.cluster.nodes[node].name
    through = nemesis.others(node)
    nemesis.asked("drain", through, lambda client: client.drain_member(name, wait=False))

    def stay() -> None:
        nemesis.asked("end of a drain", through, lambda client: client.cancel_drain(name))

    return stay


def _rejoin(nemesis: Nemesis, node: int) -> None:
    nemesis.cluster.join_anew(node)
    nemesis.cluster.wait_repaired(PATIENCE_S)


def _remove(nemesis: Nemesis) -> Undo:
    """Let a node leave for good; a new one on an empty disk takes its name."""
    node = nemesis.chance.choice(nemesis.everyone)
    name = nemesis.cluster.nodes[node].name
    through = nemesis.others(node)
    if not nemesis.asked("removal", through, lambda client: client.remove_member(name)):
        return lambda: None
    nemesis.cluster.kill(node)
    return lambda: _rejoin(nemesis, node)


def _lose_disk(nemesis: Nemesis) -> Undo:
    """Destroy a node with its disk: the others have all it had, or will not let it go."""
    node = nemesis.chance.choice(nemesis.everyone)
    name = nemesis.cluster.nodes[node].name
    through = nemesis.others(node)
    nemesis.strikes_now()
    nemesis.cluster.kill(node)
    if not nemesis.asked("removal", through, lambda client: client.remove_member(name, force=True)):
        return lambda: nemesis.cluster.start(node)
    return lambda: _rejoin(nemesis, node)


# No process has to start again, so there is time for thrice as many.
QUICK = (
    "pause of the leader",
    "pause of a minority",
    "pause of a majority",
    "all stand still",
    "leader cut off",
    "minority cut off",
    "all cut apart",
    "bridge",
    "slow links of the leader",
    "slow links of all",
    "full disk",
)
# Needs nodes that have disks of their own.
ON_DISKS = ("full disk", "power loss of one", "power loss of all")
# By name: whether a majority stays, and what is done.
FAULTS: dict[str, tuple[bool, Callable[[Nemesis], Undo]]] = {
    "kill -9 of the leader during a commit": (True, lambda it: _kill_during(it, Kind.COMMIT)),
    "kill -9 of the leader during a rollback": (
        True,
        lambda it: _kill_during(it, Kind.CHANNEL_ROLLBACK, Kind.BRANCH_ROLLBACK),
    ),
    "kill -9 of the leader while garbage goes": (True, _kill_while_garbage_goes),
    "kill -9 of a minority": (True, lambda it: _kill(it, it.some(it.minority))),
    "kill -9 of all": (False, _kill_all),
    "restart of the leader": (True, lambda it: _stop(it, it.cluster.leader())),
    "restart of a follower": (True, lambda it: _stop(it, it.a_follower())),
    "pause of the leader": (True, lambda it: _pause(it, [it.cluster.leader()])),
    "pause of a minority": (True, lambda it: _pause(it, it.some(it.minority))),
    "all stand still": (False, _stand_still),
    "pause of a majority": (False, lambda it: _pause(it, it.some(it.minority + 1))),
    "leader cut off": (True, lambda it: _cut(it, [it.cluster.leader()])),
    "minority cut off": (True, lambda it: _cut(it, it.some(it.minority))),
    "all cut apart": (False, lambda it: _cut(it, *([i] for i in it.everyone[1:]))),
    "bridge": (True, _bridge),
    "slow links of the leader": (True, lambda it: _slow(it, [it.cluster.leader()])),
    "slow links of all": (True, lambda it: _slow(it, it.everyone)),
    "flipped bits": (True, _flip_bits),
    "full disk": (True, lambda it: _fill(it, it.chance.choice(it.everyone))),
    "power loss of one": (True, lambda it: _lose_power(it, it.some(1))),
    "power loss of all": (False, lambda it: _lose_power(it, it.everyone)),
    "drain, and its end": (True, _drain),
    "removal, and a new node": (True, _remove),
    "disk lost, and a new node": (True, _lose_disk),
}
