"""A group of Raft cores in one thread: storage in memory, messages by hand, links that can be cut.

Every `Ready` is carried out at once and in full, in the order that `mcr_node.core.raft.node` asks for; what a
test chooses is which messages arrive, when time passes, and who crashes.
"""

import contextlib
from collections.abc import Callable
from dataclasses import replace

from mcr_node.core.raft.conf_codec import decode_conf_change
from mcr_node.core.raft.config import RaftConfig
from mcr_node.core.raft.errors import (
    ConfChangeError,
    ProposalDroppedError,
    SnapshotUnavailableError,
    UnknownPeerError,
)
from mcr_node.core.raft.messages import (
    APPEND_QUEUE,
    APPLY_QUEUE,
    EMPTY_HARD_STATE,
    ConfState,
    Entry,
    HardState,
    Message,
    MessageType,
    Snapshot,
    is_conf_change,
)
from mcr_node.core.raft.node import RawNode
from mcr_node.core.raft.raft import ReadState, Role
from mcr_node.core.raft.storage import MemoryStorage

# More rounds than any scenario needs; a group that is still busy then talks in a circle.
ROUNDS_MAX = 1_000


class RaftNetwork:
    """Voters and learners that know of each other, all at term 0 with empty logs.

    Attributes:
        nodes: the cores by id.
        storages: what each has made durable; it outlives `restart`.
        applied: what each has applied since it last started.
        read_states: the answers to each one's reads.
        in_flight: messages on their way, in order.
        held: messages that `hold` kept back.
        seen: every message that was sent, for assertions.
    """

    def __init__(self, voters: int = 3, learners: int = 0, **settings: object) -> None:
        """Start `voters` voters with ids from 1, then `learners` learners; `settings` are RaftConfig's."""
        ids = tuple(range(1, voters + learners + 1))
        self.conf_state = ConfState(voters=ids[:voters], learners=ids[voters:])
        self.nodes: dict[int, RawNode] = {}
        self.storages: dict[int, MemoryStorage] = {}
        self.applied: dict[int, list[Entry]] = {}
        self.read_states: dict[int, list[ReadState]] = {}
        self.in_flight: list[Message] = []
        self.held: list[Message] = []
        self.seen: list[Message] = []
        self._cut: list[tuple[int, int]] = []
        self._held_when: Callable[[Message], bool] | None = None
        self._settings = settings
        self._appends: dict[int, list[Message]] = {}
        self._applies: dict[int, list[Message]] = {}
        for node_id in ids:
            self.add(node_id, self.conf_state)

    def add(self, node_id: int, conf_state: ConfState | None = None) -> RawNode:
        """Start a node with an empty log; without `conf_state` it waits for somebody's snapshot."""
        self.storages[node_id] = MemoryStorage(conf_state)
        return self._start(node_id, applied=0)

    def restart(self, node_id: int) -> RawNode:
        """Crash `node_id` and start it from what it made durable; messages to it on the way are lost."""
        self.in_flight = [message for message in self.in_flight if message.to != node_id]
        storage = self.storages[node_id]
        try:
            applied = storage.snapshot().index
        except SnapshotUnavailableError:
            applied = 0
        # What was applied is committed, although the news of the commit may not have been written yet.
        hard_state, _ = storage.initial_state()
        storage.set_hard_state(replace(hard_state, commit=max(hard_state.commit, applied)))
        return self._start(node_id, applied=applied)

    # -- time and messages -------------------------------------------------------------------------

    def work(self, node_id: int) -> None:
        """Carry out all that `node_id` has to do; what it sends is in flight afterwards."""
        for _ in range(ROUNDS_MAX):
            if self.nodes[node_id].has_ready():
                self.begin(node_id)
            elif self._appends[node_id]:
                self.finish_append(node_id)
            elif self._applies[node_id]:
                self.finish_apply(node_id)
            else:
                return
        raise AssertionError(f"node {node_id} is never done")

    def begin(self, node_id: int) -> None:
        """Take one `Ready`: carry it out in synchronous mode, queue its work in asynchronous mode."""
        node = self.nodes[node_id]
        ready = node.ready()
        self.read_states[node_id].extend(ready.read_states)
        if not node.raft.config.asynchronous:
            self._write(node_id, ready.hard_state, ready.entries, ready.snapshot)
            for entry in ready.committed_entries:
                self._apply(node_id, entry)
        for message in ready.messages:
            if message.to == APPEND_QUEUE:
                self._appends[node_id].append(message)
            elif message.to == APPLY_QUEUE:
                self._applies[node_id].append(message)
            else:
                self._send(message)
        if not node.raft.config.asynchronous:
            node.advance()

    def finish_append(self, node_id: int) -> None:
        """Asynchronous mode: make the oldest append durable, and keep what it promises."""
        if not self._appends[node_id]:
            return
        message = self._appends[node_id].pop(0)
        if message.snapshot is not None:
            # The state is about to be replaced: nothing may still be on its way into the old one.
            while self._applies[node_id]:
                self.finish_apply(node_id)
        hard_state = HardState(message.term, message.vote, message.commit)
        changed = None if hard_state == EMPTY_HARD_STATE else hard_state
        self._write(node_id, changed, message.entries, message.snapshot)
        self._release(node_id, message)

    def finish_apply(self, node_id: int) -> None:
        """Asynchronous mode: apply the oldest batch of committed entries."""
        if not self._applies[node_id]:
            return
        message = self._applies[node_id].pop(0)
        for entry in message.entries:
            self._apply(node_id, entry)
        self._release(node_id, message)

    def settle(self) -> None:
        """Let everybody work and every message arrive until nothing is left to do."""
        for _ in range(ROUNDS_MAX):
            for node_id in self.nodes:
                self.work(node_id)
            if not self.in_flight:
                return
            arriving, self.in_flight = self.in_flight, []
            for message in arriving:
                self.deliver(message)
        raise AssertionError("the group is never done")

    def deliver(self, message: Message) -> None:
        """Hand one message over; a refused proposal and an unknown sender are the sender's bad luck."""
        node = self.nodes.get(message.to)
        if node is None:
            return
        try:
            node.step(message)
        except (ProposalDroppedError, UnknownPeerError):
            return

    def tick(self, *node_ids: int, ticks: int = 1) -> None:
        """Let time pass for some nodes and everybody work."""
        for _ in range(ticks):
            for node_id in node_ids:
                self.nodes[node_id].tick()
            self.settle()

    # -- faults ------------------------------------------------------------------------------------

    def cut(self, sender: int, to: int) -> None:
        """Lose what `sender` sends to `to` from now on; one way."""
        self._cut.append((sender, to))

    def isolate(self, *node_ids: int) -> None:
        """Lose what passes between `node_ids` and the others."""
        for inside in node_ids:
            for outside in self.nodes:
                if outside not in node_ids:
                    self.cut(inside, outside)
                    self.cut(outside, inside)

    def heal(self) -> None:
        """Mend all links."""
        self._cut = []

    def hold(self, when: Callable[[Message], bool]) -> None:
        """Keep back messages for which `when` holds, until `release`."""
        self._held_when = when

    def release(self) -> None:
        """Stop holding, and let what was held arrive now, late."""
        self._held_when = None
        held, self.held = self.held, []
        for message in held:
            self.deliver(message)
        self.settle()

    # -- asking ------------------------------------------------------------------------------------

    def elect(self, node_id: int) -> RawNode:
        """Let `node_id` campaign, and check that it leads."""
        self.nodes[node_id].campaign()
        self.settle()
        assert self.role(node_id) is Role.LEADER
        return self.nodes[node_id]

    def propose(self, node_id: int, data: bytes) -> None:
        """Propose at `node_id` and let it work out."""
        self.nodes[node_id].propose(data)
        self.settle()

    def role(self, node_id: int) -> Role:
        """Return what `node_id` is."""
        return self.nodes[node_id].raft.role

    def term(self, node_id: int) -> int:
        """Return the term of `node_id`."""
        return self.nodes[node_id].raft.term

    def committed(self, node_id: int) -> int:
        """Return the commit index of `node_id`."""
        return self.nodes[node_id].raft.log.committed

    def data(self, node_id: int) -> list[bytes]:
        """Return the commands that `node_id` applied, without empty entries and membership changes."""
        return [entry.data for entry in self.applied[node_id] if entry.data and not is_conf_change(entry)]

    def sent(self, kind: MessageType) -> list[Message]:
        """Return the messages of one kind sent so far, lost ones too."""
        return [message for message in self.seen if message.type is kind]

    # -- inside ------------------------------------------------------------------------------------

    def _start(self, node_id: int, *, applied: int) -> RawNode:
        defaults: dict[str, object] = {"pre_vote": False, "check_quorum": False, "draw": lambda _: 0}
        settings = defaults | self._settings
        config = RaftConfig(node_id=node_id, applied=applied, **settings)  # type: ignore[arg-type]
        self.nodes[node_id] = RawNode(config, self.storages[node_id])
        self._appends[node_id] = []
        self._applies[node_id] = []
        self.applied[node_id] = []
        self.read_states[node_id] = []
        return self.nodes[node_id]

    def _apply(self, node_id: int, entry: Entry) -> None:
        node = self.nodes[node_id]
        if is_conf_change(entry):
            with contextlib.suppress(ConfChangeError):
                node.apply_conf_change(decode_conf_change(entry))
        self.applied[node_id].append(entry)
        self.storages[node_id].make_snapshot(entry.index, node.status().config, b"")

    def _write(
        self,
        node_id: int,
        hard_state: HardState | None,
        entries: tuple[Entry, ...],
        snapshot: Snapshot | None,
    ) -> None:
        storage = self.storages[node_id]
        if snapshot is not None:
            storage.apply_snapshot(snapshot)
        storage.append(entries)
        if hard_state is not None:
            storage.set_hard_state(hard_state)

    def _release(self, node_id: int, message: Message) -> None:
        for response in message.responses:
            if response.to == node_id:
                self.nodes[node_id].step(response)
            else:
                self._send(response)

    def _send(self, message: Message) -> None:
        self.seen.append(message)
        if (message.sender, message.to) in self._cut:
            return
        if self._held_when is not None and self._held_when(message):
            self.held.append(message)
        else:
            self.in_flight.append(message)
