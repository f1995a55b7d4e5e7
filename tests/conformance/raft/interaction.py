"""The interaction commands: a group of cores whose storage, network and applying are driven by hand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from mcr_node.core.raft.conf_codec import decode_conf_change
from mcr_node.core.raft.config import UNLIMITED, RaftConfig
from mcr_node.core.raft.errors import ConfChangeError, ProposalDroppedError, UnknownPeerError
from mcr_node.core.raft.messages import (
    APPEND_QUEUE,
    APPLY_QUEUE,
    EMPTY_HARD_STATE,
    ConfChange,
    ConfChangeTransition,
    ConfChangeV2,
    ConfState,
    Entry,
    HardState,
    Message,
    MessageType,
    Snapshot,
)
from mcr_node.core.raft.node import RawNode
from mcr_node.core.raft.storage import MemoryStorage
from tests.conformance.raft.datadriven import Directive
from tests.conformance.raft.describe import (
    describe_entry,
    describe_message,
    describe_progress,
    describe_ready,
    describe_role,
    indent,
    parse_changes,
)

# The files count ticks on these.
ELECTION_TICKS = 3
HEARTBEAT_TICKS = 1
QUIET_LEVEL = "none"

_TRANSITIONS = {
    "auto": ConfChangeTransition.AUTO,
    "implicit": ConfChangeTransition.JOINT_IMPLICIT,
    "explicit": ConfChangeTransition.JOINT_EXPLICIT,
}


class HistoryStorage(MemoryStorage):
    """A log whose snapshot is always the state machine as it is now."""

    __slots__ = ("history",)

    def __init__(self) -> None:
        super().__init__()
        self.history: list[Snapshot] = []

    def snapshot(self) -> Snapshot:
        return self.history[-1] if self.history else super().snapshot()


@dataclass(slots=True)
class Member:
    """One core with its surroundings."""

    node_id: int
    node: RawNode
    storage: HistoryStorage
    asynchronous: bool
    append_work: list[Message] = field(default_factory=list)
    apply_work: list[Message] = field(default_factory=list)


class Interaction:
    """One scenario file under way; `run` gives what a command prints."""

    def __init__(self) -> None:
        self.members: list[Member] = []
        self.network: list[Message] = []
        self.quiet = False
        self._output: list[str] = []
        self._commands: dict[str, Callable[[Directive], None]] = {
            "add-nodes": self._add_nodes,
            "campaign": self._campaign,
            "compact": self._compact,
            "deliver-msgs": self._deliver_msgs,
            "forget-leader": self._forget_leader,
            "log-level": self._log_level,
            "process-append-thread": lambda d: self._for_each(d, "processing append thread", self._append),
            "process-apply-thread": lambda d: self._for_each(d, "processing apply thread", self._apply),
            "process-ready": lambda d: self._for_each(d, "handling Ready", self._ready),
            "propose": self._propose,
            "propose-conf-change": self._propose_conf_change,
            "raft-log": self._raft_log,
            "raft-state": self._raft_state,
            "report-unreachable": self._report_unreachable,
            "send-snapshot": self._send_snapshot,
            "set-randomized-election-timeout": self._set_election_timeout,
            "stabilize": self._stabilize,
            "status": self._status,
            "tick-election": lambda d: self._tick(d, ELECTION_TICKS),
            "tick-heartbeat": lambda d: self._tick(d, HEARTBEAT_TICKS),
            "transfer-leadership": self._transfer_leadership,
        }

    def run(self, directive: Directive) -> str:
        """Carry out one command."""
        self._output = []
        quiet = self.quiet or QUIET_LEVEL in directive.values("log-level")
        try:
            self._commands[directive.command](directive)
        except ProposalDroppedError:
            self._print("raft proposal dropped")
        return "\n".join(self._output) if self._output and not quiet else "ok"

    # -- commands ----------------------------------------------------------------------------------

    def _add_nodes(self, directive: Directive) -> None:
        index = int(directive.value("index", "0"))
        config_state = ConfState(
            voters=tuple(map(int, directive.values("voters"))),
            learners=tuple(map(int, directive.values("learners"))),
        )
        inflight = int(directive.value("inflight", str(UNLIMITED)))
        committed_bytes = int(directive.value("max-committed-size-per-ready", str(UNLIMITED)))
        asynchronous = _is_true(directive, "async-storage-writes")
        for _ in range(int(directive.words()[0])):
            storage = HistoryStorage()
            if index:
                snapshot = Snapshot(index, 1, config_state, directive.value("content", "").encode())
                storage.apply_snapshot(snapshot)
                storage.history.append(snapshot)
            config = RaftConfig(
                node_id=len(self.members) + 1,
                draw=lambda _: 0,
                election_ticks=ELECTION_TICKS,
                heartbeat_ticks=HEARTBEAT_TICKS,
                applied=index,
                asynchronous=asynchronous,
                message_bytes_max=UNLIMITED,
                apply_bytes_max=committed_bytes,
                inflight_messages_max=inflight,
                pre_vote=_is_true(directive, "prevote"),
                check_quorum=_is_true(directive, "checkquorum"),
                check_conf_changes=not _is_true(directive, "disable-conf-change-validation"),
                learn_commit_from_votes=False,
                step_down_on_removal=_is_true(directive, "step-down-on-removal"),
                leases_elsewhere=directive.value("read-only", "safe") == "lease-based",
            )
            member = Member(config.node_id, RawNode(config, storage), storage, asynchronous)
            self.members.append(member)

    def _campaign(self, directive: Directive) -> None:
        self._first(directive).node.campaign()

    def _compact(self, directive: Directive) -> None:
        self._first(directive).storage.compact(int(directive.words()[1]))

    def _deliver_msgs(self, directive: Directive) -> None:
        for argument in directive.arguments:
            if argument.key == "drop":
                for node_id in argument.values:
                    self._deliver(int(node_id), drop=True)
            elif not argument.values:
                self._deliver(int(argument.key), drop=False)

    def _forget_leader(self, directive: Directive) -> None:
        self._first(directive).node.forget_leader()

    def _log_level(self, directive: Directive) -> None:
        self.quiet = directive.words()[0] == QUIET_LEVEL

    def _propose(self, directive: Directive) -> None:
        self._first(directive).node.propose(directive.words()[1].encode())

    def _propose_conf_change(self, directive: Directive) -> None:
        changes = parse_changes(directive.input)
        request: ConfChange | ConfChangeV2
        if _is_true(directive, "v1"):
            (single,) = changes
            request = ConfChange(single.type, single.node_id)
        else:
            request = ConfChangeV2(changes, _TRANSITIONS[directive.value("transition", "auto")])
        self._first(directive).node.propose_conf_change(request)

    def _raft_log(self, directive: Directive) -> None:
        storage = self._first(directive).storage
        first, last = storage.first_index(), storage.last_index()
        if first > last:
            self._print(f"log is empty: first index={first}, last index={last}")
            return
        for entry in storage.entries(first, last + 1, UNLIMITED):
            self._print(describe_entry(entry))

    def _raft_state(self, _: Directive) -> None:
        for member in self.members:
            status = member.node.status()
            voters = (*status.config.voters, *status.config.voters_outgoing)
            votes = "Voter" if member.node_id in voters else "Non-Voter"
            self._print(
                f"{member.node_id}: {describe_role(status.soft_state.role)} ({votes})"
                f" Term:{status.hard_state.term} Lead:{status.soft_state.leader}"
            )

    def _report_unreachable(self, directive: Directive) -> None:
        self._first(directive).node.report_unreachable(int(directive.words()[1]))

    def _send_snapshot(self, directive: Directive) -> None:
        member = self._first(directive)
        term = member.node.status().hard_state.term
        message = Message(
            MessageType.SNAPSHOT,
            int(directive.words()[1]),
            member.node_id,
            term,
            snapshot=member.storage.snapshot(),
        )
        self.network.append(message)
        self._print(describe_message(message))

    def _set_election_timeout(self, directive: Directive) -> None:
        timeout_ticks = int(directive.value("timeout", "0"))
        self._first(directive).node.raft.election_timeout_ticks = timeout_ticks

    def _status(self, directive: Directive) -> None:
        for peer_id, progress in self._first(directive).node.status().progress.items():
            self._print(f"{peer_id}: {describe_progress(progress)}")

    def _tick(self, directive: Directive, ticks: int) -> None:
        for _ in range(ticks):
            self._first(directive).node.tick()

    def _transfer_leadership(self, directive: Directive) -> None:
        leader = self.members[int(directive.value("from", "0")) - 1]
        leader.node.transfer_leader(int(directive.value("to", "0")))

    def _stabilize(self, directive: Directive) -> None:
        chosen = [self.members[int(word) - 1] for word in directive.words()] or self.members
        busy = True
        while busy:
            busy = False
            for member in chosen:
                if member.node.has_ready():
                    busy = True
                    self._titled(member, "handling Ready", self._ready)
            for member in chosen:
                if any(message.to == member.node_id for message in self.network):
                    busy = True
                    self._titled(member, "receiving messages", self._receive)
            for member in chosen:
                if member.append_work:
                    busy = True
                    self._titled(member, "processing append thread", self._append_all)
            for member in chosen:
                if member.apply_work:
                    busy = True
                    self._titled(member, "processing apply thread", self._apply_all)

    # -- the surroundings of a core ----------------------------------------------------------------

    def _ready(self, member: Member) -> None:
        ready = member.node.ready()
        self._print(describe_ready(ready))
        if not member.asynchronous:
            _write(member.storage, ready.hard_state, ready.entries, ready.snapshot)
            _apply_entries(member, ready.committed_entries)
        for message in ready.messages:
            if message.to == APPEND_QUEUE:
                member.append_work.append(message)
            elif message.to == APPLY_QUEUE:
                member.apply_work.append(message)
            else:
                self.network.append(message)
        if not member.asynchronous:
            member.node.advance()

    def _receive(self, member: Member) -> None:
        self._deliver(member.node_id, drop=False)

    def _deliver(self, node_id: int, *, drop: bool) -> None:
        messages = [message for message in self.network if message.to == node_id]
        self.network = [message for message in self.network if message.to != node_id]
        for message in messages:
            self._print(("dropped: " if drop else "") + describe_message(message))
            if drop:
                continue
            try:
                self.members[node_id - 1].node.step(message)
            except UnknownPeerError:
                self._print("raft: cannot step as peer not found")

    def _append(self, member: Member) -> None:
        message = member.append_work.pop(0)
        hard_state = HardState(message.term, message.vote, message.commit)
        self._work(message)
        _write(
            member.storage,
            None if hard_state == EMPTY_HARD_STATE else hard_state,
            message.entries,
            message.snapshot,
        )

    def _apply(self, member: Member) -> None:
        message = member.apply_work.pop(0)
        self._work(message)
        _apply_entries(member, message.entries)

    def _append_all(self, member: Member) -> None:
        while member.append_work:
            self._append(member)

    def _apply_all(self, member: Member) -> None:
        while member.apply_work:
            self._apply(member)

    def _work(self, message: Message) -> None:
        self._print("Processing:")
        self._print(describe_message(replace(message, responses=())))
        self._print("Responses:")
        for response in message.responses:
            self._print(describe_message(response))
        self.network.extend(message.responses)

    # -- printing ----------------------------------------------------------------------------------

    def _print(self, text: str) -> None:
        self._output.append(text)

    def _for_each(self, directive: Directive, title: str, act: Callable[[Member], None]) -> None:
        chosen = [self.members[int(word) - 1] for word in directive.words()]
        if len(chosen) == 1:
            act(chosen[0])
            return
        for member in chosen:
            self._titled(member, title, act)

    def _titled(self, member: Member, title: str, act: Callable[[Member], None]) -> None:
        outer, self._output = self._output, []
        act(member)
        outer.append(f"> {member.node_id} {title}")
        outer.extend(indent(text) for text in self._output)
        self._output = outer

    def _first(self, directive: Directive) -> Member:
        return self.members[int(directive.words()[0]) - 1]


def _is_true(directive: Directive, key: str) -> bool:
    return directive.value(key, "false") == "true"


def _write(
    storage: HistoryStorage,
    hard_state: HardState | None,
    entries: tuple[Entry, ...],
    snapshot: Snapshot | None,
) -> None:
    if snapshot is not None:
        storage.apply_snapshot(snapshot)
        storage.history.append(snapshot)
    storage.append(entries)
    if hard_state is not None:
        storage.set_hard_state(hard_state)


def _apply_entries(member: Member, entries: Sequence[Entry]) -> None:
    history = member.storage.history
    for entry in entries:
        last = history[-1] if history else Snapshot()
        conf_state, data = last.conf_state, last.data + entry.data
        try:
            change = decode_conf_change(entry)
        except ConfChangeError:
            pass
        else:
            conf_state, data = member.node.apply_conf_change(change), last.data + change.context
        history.append(Snapshot(entry.index, entry.term, conf_state, data))
