"""A refused vote says what is committed, so that a group goes on whose leader removed itself."""

import pytest

from mcr_node.core.raft.conf_codec import conf_change_entry, decode_conf_change
from mcr_node.core.raft.config import RaftConfig
from mcr_node.core.raft.messages import (
    ConfChange,
    ConfChangeType,
    ConfState,
    Entry,
    EntryType,
    HardState,
    Message,
    MessageType,
    Snapshot,
)
from mcr_node.core.raft.node import RawNode
from mcr_node.core.raft.raft import Role
from mcr_node.core.raft.storage import MemoryStorage


class Node:
    """One node with its disk; it applies membership changes and nothing else."""

    def __init__(self, node_id: int, *, pre_vote: bool) -> None:
        self.disk = MemoryStorage()
        self.disk.apply_snapshot(Snapshot(1, 1, ConfState(voters=(1, 2))))
        self.core = RawNode(RaftConfig(node_id=node_id, draw=lambda _: node_id, pre_vote=pre_vote), self.disk)

    def run(self) -> list[Message]:
        """Carry out all there is to do; return what it sends."""
        sent: list[Message] = []
        while self.core.has_ready():
            ready = self.core.ready()
            if ready.hard_state is not None:
                self.disk.set_hard_state(ready.hard_state)
            self.disk.append(ready.entries)
            for entry in ready.committed_entries:
                if entry.type is not EntryType.NORMAL:
                    self.core.apply_conf_change(decode_conf_change(entry))
            sent += ready.messages
            self.core.advance()
        return sent


def settle(nodes: dict[int, Node]) -> None:
    while sent := [message for node in nodes.values() for message in node.run()]:
        for message in sent:
            nodes[message.to].core.step(message)


@pytest.mark.parametrize("pre_vote", [False, True])
def test_a_leader_that_removed_itself_leaves_a_group_that_can_elect(pre_vote: bool) -> None:
    """Only node 1 knows its removal to be committed, and its vote is what node 2 seems to lack."""
    nodes = {node_id: Node(node_id, pre_vote=pre_vote) for node_id in (1, 2)}
    one, two = nodes[1], nodes[2]
    one.core.campaign()
    settle(nodes)
    one.core.propose_conf_change(ConfChange(ConfChangeType.REMOVE_NODE, 1))
    arrives = one.run()
    one.core.propose(b"never committed, but it makes the log of node 1 the longer one")
    one.run()
    for message in arrives:
        two.core.step(message)
    for message in two.run():
        one.core.step(message)
    # The news of the commit is lost with this; from here on nothing is.
    one.run()
    assert one.core.raft.log.committed > two.core.raft.log.committed
    for _ in range(60):
        for node in nodes.values():
            node.core.tick()
        settle(nodes)
    assert two.core.raft.role is Role.LEADER
    assert two.core.raft.tracker.config == ConfState(voters=(2,))


@pytest.mark.parametrize("pre_vote", [False, True])
def test_a_campaign_ends_that_learns_of_a_change_of_members_not_applied_yet(pre_vote: bool) -> None:
    """Else votes asked of one configuration would be counted in another (etcd#7625)."""
    disk = MemoryStorage(ConfState(voters=(1, 2, 3)))
    change = conf_change_entry(ConfChange(ConfChangeType.REMOVE_NODE, 3))
    disk.append((Entry(1, 1), Entry(1, 2, change.type, change.data)))
    disk.set_hard_state(HardState(1, 0, 1))
    core = RawNode(RaftConfig(node_id=1, draw=lambda _: 0, pre_vote=pre_vote), disk)
    core.campaign()
    assert core.raft.role is (Role.PRE_CANDIDATE if pre_vote else Role.CANDIDATE)
    kind = MessageType.PRE_VOTE_RESP if pre_vote else MessageType.VOTE_RESP

    core.step(Message(kind, 1, 2, core.raft.term, 1, commit=2, reject=True))

    assert (core.raft.log.committed, core.raft.role) == (2, Role.FOLLOWER)


@pytest.mark.parametrize("kind", [MessageType.VOTE_RESP, MessageType.PRE_VOTE_RESP])
@pytest.mark.parametrize(
    ("term", "commit", "learned"), [(1, 2, 2), (1, 3, 3), (2, 2, 1), (1, 9, 1), (0, 2, 1)]
)
def test_only_the_commit_of_an_entry_that_is_held_is_learned(
    kind: MessageType, term: int, commit: int, learned: int
) -> None:
    """Thesis §3.5, log matching: index and term together name one entry and all before it."""
    disk = MemoryStorage(ConfState(voters=(1, 2, 3)))
    disk.append(tuple(Entry(1, index) for index in (1, 2, 3)))
    disk.set_hard_state(HardState(1, 0, 1))
    core = RawNode(RaftConfig(node_id=1, draw=lambda _: 0, pre_vote=False), disk)
    core.campaign()
    core.step(Message(kind, 1, 2, 2, term, commit=commit, reject=True))
    assert core.raft.log.committed == learned
