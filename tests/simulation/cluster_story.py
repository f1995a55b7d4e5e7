"""The little language of the scenarios about a cluster: one line, one event or question.

    cluster N                     N voters; wait until one leads
    call NAME leader|NODE         from now on a node has this name; others are their numbers
    rest NAME NAME NAME           the names of the nodes without one, by number
    write ID at NODE              a commit under this request id; wait up to two seconds for the answer
    send ID to NODE               the same without waiting; `answer ID` tells what came
    read at NODE                  how many versions a linearizable read sees; wait up to two seconds
    cut NODE from NODE ...        both ways             heal           all links
    stall NODE                    its disk takes writes and syncs nothing any more
    crash NODE                    power is gone, and so is what was not synced
    start NODE                    with a disk that works again
    wait SECONDS                  everything goes on
    forget NODE                   it cuts its log back to what it has not applied
    learn NODE | promote NODE | remove NODE      the leader changes the members (a new node is started)
    leader | members              who leads, who belongs, by the newest term and the newest state
    logs                          term, commit, last place and what of it is durable, on each node
    agree                         wait until all members hold the same state

The oracle of the simulation watches all along: a story ends early where a law is broken.
"""

from collections.abc import Callable
from dataclasses import replace

from mcr.model import ChunkId, RequestId
from mcr_node.core.members import Member, Membership, encode_context
from mcr_node.core.raft.messages import (
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfChangeV2,
    ConfState,
)
from mcr_node.core.state import codec
from mcr_node.core.state.commands import CommitVersion
from mcr_node.core.state.outcomes import Accepted, Outcome
from tests.simulation.cluster.clients import EPOCH_MS
from tests.simulation.cluster.faults import newest_membership
from tests.simulation.cluster.network import Network, Weather
from tests.simulation.cluster.node import Habits, Host, Process
from tests.simulation.cluster.oracle import MODELS, Oracle, seen_by_a_reader
from tests.simulation.cluster.world import MS, SECOND, World

ANSWER_US_MAX = 2 * SECOND
AGREE_US_MAX = 20 * SECOND
# Longer than any story.
NEVER_US = 3600 * SECOND
_KINDS = {
    "learn": ConfChangeType.ADD_LEARNER,
    "promote": ConfChangeType.ADD_NODE,
    "remove": ConfChangeType.REMOVE_NODE,
}


class ClusterStory:
    """One scenario's cluster, and the execution of its lines."""

    def __init__(self) -> None:
        self.world = World(1)
        self.network = Network(self.world, Weather())
        self.oracle = Oracle()
        self.hosts = self.oracle.hosts
        self.habits = Habits(slow_sync_per_mille=0, log_entries_kept_max=1_000_000)
        self.names: dict[str, int] = {}
        self.answers: dict[str, Outcome] = {}
        self.begun_after: dict[str, int] = {}

    def execute(self, line: str) -> str:
        verb, *words = line.split()
        if verb in _KINDS:
            return self._change(verb, self._id(words[0]))
        method: Callable[[list[str]], str] = getattr(self, f"do_{verb}")
        return method(words)

    # ---- nodes ----

    def do_cluster(self, words: list[str]) -> str:
        ids = tuple(range(1, int(words[0]) + 1))
        founded = Membership(ConfState(ids), tuple(Member(one, f"node-{one}") for one in ids))
        self.oracle.begin_after(founded)
        for node_id in ids:
            self._add(node_id, founded)
        for host in self.hosts.values():
            host.start()
        self._until(lambda: bool(self._leaders()), AGREE_US_MAX)
        return self.do_leader([])

    def do_call(self, words: list[str]) -> str:
        name, who = words
        self.names[name] = self._leader().node_id if who == "leader" else int(who)
        return f"node {self.names[name]}"

    def do_rest(self, words: list[str]) -> str:
        unnamed = [node_id for node_id in self.hosts if node_id not in self.names.values()]
        self.names.update(zip(words, unnamed, strict=True))
        return f"nodes {', '.join(map(str, unnamed))}"

    def do_crash(self, words: list[str]) -> str:
        host = self._host(words[0])
        unsynced = host.log.unsynced
        host.crash(kept=(0, host.state.unsynced))
        return f"{unsynced} writes of its log are lost"

    def do_start(self, words: list[str]) -> str:
        host = self._host(words[0])
        host.habits = self.habits
        host.start()
        return f"its log ends at {host.log.last_index()}"

    def do_stall(self, words: list[str]) -> str:
        host = self._host(words[0])
        host.habits = replace(self.habits, sync_us_max=NEVER_US, slow_sync_us_max=NEVER_US)
        host.habits.slow_sync_per_mille = 1000
        return "nothing is synced any more"

    def do_forget(self, words: list[str]) -> str:
        host = self._host(words[0])
        host.state.sync()
        host.log.compact(host.state.applied())
        return f"its log begins at {host.log.first_index()}"

    # ---- links, time ----

    def do_cut(self, words: list[str]) -> str:
        alone, _, *others = words
        for other in others:
            pair = self._id(alone), self._id(other)
            self.network.cut(*pair)
            self.network.cut(*reversed(pair))
        return f"{alone} and {', '.join(others)} do not hear each other"

    def do_heal(self, _: list[str]) -> str:
        self.network.heal()
        return "all hear each other"

    def do_wait(self, words: list[str]) -> str:
        self.world.run_until(self.world.now_us + int(float(words[0]) * SECOND))
        return self.do_leader([])

    # ---- callers ----

    def do_send(self, words: list[str]) -> str:
        name, _, node = words
        self._propose(name, self._process(node))
        self.world.run_until(self.world.now_us + 20 * MS)
        return "on its way"

    def do_write(self, words: list[str]) -> str:
        name, _, node = words
        self._propose(name, self._process(node))
        self._until(lambda: name in self.answers, ANSWER_US_MAX)
        return self.do_answer([name])

    def do_answer(self, words: list[str]) -> str:
        outcome = self.answers.get(words[0])
        if outcome is None:
            return "no answer"
        verb = "accepted" if isinstance(outcome, Accepted) else "rejected"
        return f"{verb} at index {outcome.index}"

    def do_read(self, words: list[str]) -> str:
        process = self._process(words[-1])
        begun_after = self.oracle.answered_index
        answered: list[int] = []
        ticket = process.read(answered.append)
        if not self._until(lambda: bool(answered), ANSWER_US_MAX):
            process.forget(ticket, None)
            return "no answer"
        self.oracle.read_answered(process.host, begun_after)
        state = process.host.state
        return f"{seen_by_a_reader(state.view())[0][0]} versions at index {state.applied()}"

    # ---- questions ----

    def do_leader(self, _: list[str]) -> str:
        leaders = self._leaders()
        return (
            "; ".join(f"node {one.node_id} leads term {one.replica.term}" for one in leaders)
            or "nobody leads"
        )

    def do_members(self, _: list[str]) -> str:
        conf = newest_membership(self.hosts).conf
        learners = f", learners {', '.join(map(str, conf.learners))}" if conf.learners else ""
        return f"voters {', '.join(map(str, conf.voters))}{learners}"

    def do_logs(self, _: list[str]) -> str:
        lines: list[str] = []
        for node_id, host in self.hosts.items():
            durable = host.log.durable
            if host.process is None:
                lines.append(f"{node_id}: down, log to {durable.last}")
                continue
            replica = host.process.replica
            log = replica._node.raft.log
            lines.append(
                f"{node_id}: term {replica.term}, commit {replica.commit}, log {log.first_index()} to"
                f" {log.last_term}/{log.last_index}, durable to {durable.last}"
            )
        return "\n".join(lines)

    def do_agree(self, _: list[str]) -> str:
        ids = newest_membership(self.hosts).ids()

        def is_one() -> bool:
            return all(self.hosts[one].state.applied() == len(self.oracle.committed) for one in ids)

        assert self._until(is_one, AGREE_US_MAX), "they do not agree"
        for node_id in ids:
            assert self.hosts[node_id].state.rows() == self.oracle.rows
        return f"nodes {', '.join(map(str, ids))} hold the same state at index {len(self.oracle.committed)}"

    # ---- inside ----

    def _add(self, node_id: int, at_start: Membership) -> Host:
        host = Host(node_id, at_start, self.world, self.network, self.habits, self.oracle)
        host.peers = self.hosts
        self.hosts[node_id] = host
        self.oracle.added(host)
        return host

    def _change(self, verb: str, node_id: int) -> str:
        if node_id not in self.hosts:
            self._add(node_id, Membership()).start()
        change = ConfChangeV2(
            (ConfChangeSingle(_KINDS[verb], node_id),),
            ConfChangeTransition.AUTO,
            encode_context([Member(node_id, f"node-{node_id}")]),
        )
        self._leader().decide(lambda replica: replica.change_members(change))
        self.world.run_until(self.world.now_us + ANSWER_US_MAX)
        return self.do_members([])

    def _propose(self, name: str, process: Process) -> None:
        command = CommitVersion(
            request_id=RequestId(name.encode()),
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
        # Asked again it is the same operation, which began when it was asked first.
        begun_after = self.begun_after.setdefault(name, self.oracle.answered_index)

        def answered(outcome: Outcome) -> None:
            self.oracle.request_answered(command.request_id, outcome, begun_after)
            self.answers[name] = outcome

        process.propose(codec.encode(command), answered)

    def _until(self, is_over: Callable[[], bool], us_max: int) -> bool:
        return self.world.run_until(self.world.now_us + us_max, is_over)

    def _leaders(self) -> list[Process]:
        alive = [host.process for host in self.hosts.values() if host.process is not None]
        leaders = [process for process in alive if process.replica.is_leader]
        return sorted(leaders, key=lambda process: process.replica.term)

    def _leader(self) -> Process:
        return self._leaders()[-1]

    def _id(self, word: str) -> int:
        return self.names[word] if word in self.names else int(word)

    def _host(self, word: str) -> Host:
        return self.hosts[self._id(word)]

    def _process(self, word: str) -> Process:
        process = self._host(word).process
        assert process is not None, f"{word} is down"
        return process
