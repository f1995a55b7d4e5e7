"""Loss, delay, duplication, crashes and membership changes in random order; the laws hold after every step.

Thesis figure 3.2: at most one leader a term, log matching, and nobody ever applies anything else at an index.
Thesis §6.4: a read names an index at or after everything that was committed when it was asked for.

The parameter is the seed. One run again: RAFT_FIRST_SEED=17 RAFT_SEEDS=1. More of them: RAFT_SEEDS=1000.
"""

import os
import random

import pytest

from mcr_node.core.raft.errors import CompactedError, ProposalDroppedError, ReadDroppedError
from mcr_node.core.raft.messages import ConfChange, ConfChangeType, Entry
from mcr_node.core.raft.raft import Role
from tests.support.raft_network import RaftNetwork

FIRST_SEED = int(os.environ.get("RAFT_FIRST_SEED", "0"))
SEEDS = int(os.environ.get("RAFT_SEEDS", "8"))
STEPS = 1_500
# A message is lost or doubled once in so many.
LOSS_PERIOD = 40
IN_FLIGHT_MAX = 100
DELIVERIES_PER_STEP = 3


class Chaos:
    """One run; `step` does one random thing and checks the laws."""

    def __init__(self, seed: int, *, safety: bool, asynchronous: bool) -> None:
        self.random = random.Random(seed)
        self.network = RaftNetwork(
            5,
            pre_vote=safety,
            check_quorum=safety,
            inflight_messages_max=4,
            asynchronous=asynchronous,
            draw=self.random.randrange,
        )
        self.asynchronous = asynchronous
        self.leaders: dict[int, int] = {}
        self.history: dict[int, Entry] = {}
        self.asked: dict[bytes, int] = {}
        self.checked_reads: dict[int, int] = {}
        self.number = 0

    def step(self) -> None:
        node_id = self.random.randint(1, 5)
        match self.random.choices(range(7), (1, 2, 1, 2, 12, 12, 30))[0]:
            case 0:
                self.network.restart(node_id)
                self.checked_reads[node_id] = 0
            case 1:
                self._propose_change(node_id)
            case 2:
                self.network.nodes[node_id].transfer_leader(self.random.randint(1, 5))
            case 3:
                self._compact(node_id)
            case 4:
                self._propose(node_id)
            case 5:
                self._read(node_id)
            case _:
                self.network.nodes[node_id].tick()
        self._work(node_id)
        for _ in range(DELIVERIES_PER_STEP):
            self._deliver_one()
        self.check()

    def check(self) -> None:
        for node_id, node in self.network.nodes.items():
            raft = node.raft
            if raft.role is Role.LEADER:
                assert self.leaders.setdefault(raft.term, node_id) == node_id, f"two lead term {raft.term}"
            for entry in self.network.applied[node_id][-20:]:
                assert self.history.setdefault(entry.index, entry) == entry
            states = self.network.read_states[node_id]
            for state in states[self.checked_reads.get(node_id, 0) :]:
                assert state.index >= self.asked[state.token], "a stale read"
            self.checked_reads[node_id] = len(states)

    def _work(self, node_id: int) -> None:
        if not self.asynchronous:
            self.network.work(node_id)
            return
        # The disk, the state machine and the core each go on at their own pace.
        for _ in range(self.random.randrange(6)):
            choice = self.random.randrange(3)
            if choice == 0:
                self.network.finish_append(node_id)
            elif choice == 1:
                self.network.finish_apply(node_id)
            elif self.network.nodes[node_id].has_ready():
                self.network.begin(node_id)

    def _committed(self) -> int:
        return max(self.network.committed(node_id) for node_id in self.network.nodes)

    def _propose(self, node_id: int) -> None:
        self.number += 1
        try:
            self.network.nodes[node_id].propose(b"%d" % self.number)
        except ProposalDroppedError:
            return

    def _read(self, node_id: int) -> None:
        self.number += 1
        token = b"r%d" % self.number
        self.asked[token] = self._committed()
        try:
            self.network.nodes[node_id].read_index(token)
        except ReadDroppedError:
            return

    def _propose_change(self, node_id: int) -> None:
        kinds = (
            ConfChangeType.ADD_NODE,
            ConfChangeType.ADD_NODE,
            ConfChangeType.ADD_LEARNER,
            ConfChangeType.REMOVE_NODE,
        )
        change = ConfChange(self.random.choice(kinds), self.random.randint(1, 5))
        try:
            self.network.nodes[node_id].propose_conf_change(change)
        except ProposalDroppedError:
            return

    def _compact(self, node_id: int) -> None:
        applied = self.network.nodes[node_id].status().applied
        if applied:
            try:
                self.network.storages[node_id].compact(applied)
            except CompactedError:
                return

    def _deliver_one(self) -> None:
        in_flight = self.network.in_flight
        if not in_flight:
            return
        # The network reorders a little; what piles up is lost.
        message = in_flight.pop(self.random.randrange(min(len(in_flight), 8)))
        del in_flight[IN_FLIGHT_MAX:]
        fate = self.random.randrange(LOSS_PERIOD)
        if fate == 0:
            return
        self.network.deliver(message)
        self._work(message.to)
        if fate == 1:
            in_flight.append(message)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["one by one", "in parallel"])
@pytest.mark.parametrize("safety", [False, True], ids=["plain", "pre-vote and check-quorum"])
@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + SEEDS))
def test_the_laws_hold_whatever_network_and_machines_do(seed: int, safety: bool, asynchronous: bool) -> None:
    chaos = Chaos(seed, safety=safety, asynchronous=asynchronous)

    for _ in range(STEPS):
        chaos.step()
