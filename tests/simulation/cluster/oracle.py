"""What must hold after every step, whatever failed: the laws of Raft, of the state, and of its callers.

The oracle sees all nodes at once, and applies each committed entry itself, once, to a state of its own. What
that state says is what every node and every caller must see. Its parts:

- `raft_laws`: the eight invariants of etcd's TLA+ model, LogInv, MoreThanOneLeader, ElectionSafety,
  LogMatching, QuorumLog, MoreUpToDateCorrect, LeaderCompleteness, and CommittedIsDurable.
- `history`: linearizability of what callers see, and exactly-once.
- here: votes are cast once and are durable, commits never go back, one outcome, digest, and membership for
  each entry on all nodes.

All of it is kept up by what a step changed; nothing scans a log or a state. `test_oracle.py` shows that each
can fail.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from mcr.model import RefKind
from mcr_node.core.members import Membership
from mcr_node.core.raft.messages import ConfState, Entry, EntryType, Message, MessageType, is_conf_change
from mcr_node.core.raft.raft import Role
from mcr_node.core.replica import Append, Effect, Send
from mcr_node.core.state import codec, keys
from mcr_node.core.state.digest import DIGEST_START
from mcr_node.core.state.keys import RefName
from mcr_node.core.state.outcomes import Accepted, Outcome, VersionResult
from mcr_node.core.state.records import ModelRow, RefRow
from mcr_node.core.state.view import View
from mcr_node.runtime.applying import Applier
from tests.simulation.cluster.disk import Changes, LogContent, StateDisk
from tests.simulation.cluster.history import History, Place, Seen
from tests.simulation.cluster.laws import law
from tests.simulation.cluster.node import Host, Process
from tests.simulation.cluster.raft_laws import RaftLaws

MODELS = ("team/one", "team/two")
CHANNEL = "production"
# Reading a row takes longer than all else that is checked at a step.
ROWS_REMEMBERED_MAX = 4096


def seen_by_a_reader(view: View) -> Seen:
    """Return what a read sees of each model: its versions, and where its channel is, with its generation."""
    rows = []
    for name in MODELS:
        model = view.get(keys.model(name))
        ref = view.get(keys.ref(RefName(name, RefKind.CHANNEL, CHANNEL)))
        rows.append((0 if model is None else _versions(model), *((0, 0) if ref is None else _place(ref))))
    return tuple(rows)


@lru_cache(maxsize=ROWS_REMEMBERED_MAX)
def _versions(row: bytes) -> int:
    return ModelRow.unpack(row).version_count


@lru_cache(maxsize=ROWS_REMEMBERED_MAX)
def _place(row: bytes) -> tuple[int, int]:
    ref = RefRow.unpack(row)
    return ref.number, ref.generation


@dataclass(slots=True)
class Decided:
    """One committed entry, and what the oracle's own state made of it."""

    entry: Entry
    before: bytes
    digest: bytes
    outcome: Outcome | None
    changes: Changes


@dataclass(slots=True)
class _Known:
    """What a step of a node is compared with."""

    process: Process
    commit: int = 0
    last: tuple[int, int] = (0, 0)
    leads: int = 0


@dataclass(slots=True)
class Oracle:
    """See the module; `hosts` is filled in as nodes are made."""

    hosts: dict[int, Host] = field(default_factory=dict)
    laws: RaftLaws = field(default_factory=RaftLaws)
    history: History = field(default_factory=History)
    # By index, from 1; the entries that some node knows to be committed, and those of them applied here.
    committed: list[Entry] = field(default_factory=list)
    decided: list[Decided] = field(default_factory=list)

    _votes: dict[tuple[int, int], int] = field(default_factory=dict)
    _known: dict[int, _Known] = field(default_factory=dict)
    _state: StateDisk = field(default_factory=StateDisk)
    _confs: dict[int, ConfState] = field(default_factory=dict)
    _applier: Applier | None = None

    def begin_after(self, membership: Membership) -> None:
        """Begin as the nodes do that start with a snapshot of an empty state."""
        self._state = StateDisk(membership)
        self.laws.begin_with(1)
        self.committed.append(Entry(1, 1))
        self.decided.append(Decided(Entry(1, 1), DIGEST_START, self._state.state_digest(), None, ()))
        self.history.places.append(Place(None, seen_by_a_reader(self._state.view())))

    @property
    def answered_index(self) -> int:
        """How far anybody was answered."""
        return self.history.answered_index

    # ---- what nodes do ----

    def added(self, host: Host) -> None:
        self.laws.add(host.node_id, host.log.durable.holds, host.at_start.conf, self._terms(host.log.now))

    def started(self, host: Host) -> None:
        self.laws.crashed(host.node_id, self._terms(host.log.now))

    def crashed(self, host: Host) -> None:
        self.laws.crashed(host.node_id, self._terms(host.log.durable))

    def effects_taken(self, process: Process, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Append(message):
                    if message.snapshot is not None:
                        self.laws.restored(process.node_id, message.snapshot.index, message.snapshot.term)
                    if message.entries:
                        replica = process.replica
                        leads = replica.term if replica.is_leader else 0
                        self.laws.appended(process.node_id, message.entries, leads=leads)
                case Send(message):
                    if message.type is MessageType.VOTE_RESP and not message.reject:
                        self._voted(process.node_id, message)
                case _:
                    continue

    def synced(self, process: Process, append: Append) -> None:
        snapshot = append.message.snapshot
        self.laws.synced(process.node_id)
        if snapshot is not None:
            self.laws.applied(process.node_id, snapshot.index, process.replica.membership.conf)
        for message in append.message.responses:
            if message.type is MessageType.VOTE_RESP and message.to == process.node_id and not message.reject:
                self._voted(process.node_id, message)

    def stepped(self, process: Process) -> None:
        replica, node_id = process.replica, process.node_id
        raft = replica._node.raft
        known = self._known.get(node_id)
        if known is None or known.process is not process:
            known = self._known[node_id] = _Known(process)
        leads = raft.term if raft.role is Role.LEADER else 0
        if leads != known.leads:
            known.leads = leads
            if leads:
                self.laws.leads(node_id, leads)
            else:
                self.laws.follows(node_id)
        reads = replica._reads_confirmed
        if reads and reads[0][0] <= replica.applied:
            law(False, f"node {node_id} keeps a read that it could answer")
        log = raft.log
        if (log.last_index, log.last_term) != known.last:
            known.last = (log.last_index, log.last_term)
            terms = self.laws.mirrors[node_id].terms
            law((len(terms), (terms or [0])[-1]) == known.last, f"the mirror of node {node_id} is true")
        commit = log.committed
        if commit != known.commit:
            law(
                commit > known.commit,
                f"CommittedIsDurable: node {node_id} goes back from {known.commit} to {commit}",
            )
            known.commit = commit
            self.laws.commits(node_id, commit, term=raft.term, conf=raft.tracker.config)
            while len(self.committed) < commit:
                index = len(self.committed) + 1
                (entry,) = log.slice(index, index + 1, 0)
                self.committed.append(entry)
                self._decide(entry)

    def applied(self, process: Process, entries: Sequence[Entry], outcomes: Sequence[Outcome | None]) -> None:
        node_id = process.node_id
        for entry, outcome in zip(entries, outcomes, strict=True):
            law(entry.index <= len(self.decided), f"entry {entry.index} is applied, not committed")
            decided = self.decided[entry.index - 1]
            law(decided.entry == entry, f"state machine safety: node {node_id} at {entry.index}")
            law(decided.outcome == outcome, f"node {node_id}: another outcome at {entry.index}")
        state = process.host.state
        law(state.applied() == entries[-1].index, "all of them are in the state")
        conf = process.replica.membership.conf
        law(conf == process.replica._node.raft.tracker.config, f"node {node_id}: two memberships")
        changes = [entry.index for entry in entries if is_conf_change(entry)]
        if changes:
            known = self._confs.setdefault(changes[-1], conf)
            law(known == conf, f"members after {changes[-1]}: {known}, but {conf} on {node_id}")
        self.laws.applied(node_id, entries[-1].index, conf)
        self._state_agrees(process.host)

    def made_of(self, entry: Entry, digest: bytes) -> Decided | None:
        """Return what came of an entry here, if it was applied to a state of the same digest."""
        if entry.index > len(self.decided):
            return None
        decided = self.decided[entry.index - 1]
        return decided if decided.before == digest and decided.entry == entry else None

    def _state_agrees(self, host: Host) -> None:
        index = host.state.applied()
        if index:
            law(index <= len(self.decided), f"{index} is in a state, not committed")
            digest = self.decided[index - 1].digest
            law(host.state.state_digest() == digest, f"node {host.node_id}: digest at {index}")
            seen = seen_by_a_reader(host.state.view())
            law(seen == self.history.places[index - 1].seen, f"node {host.node_id}: rows at {index}")

    def _terms(self, content: LogContent) -> list[int]:
        """Return the terms of a log from its beginning; what it forgot is committed."""
        terms = self.laws.committed[: content.floor]
        law(len(terms) == content.floor, "a log forgets only what is committed")
        law(not terms or terms[-1] == content.floor_term, "LogInv: a log begins after what is committed")
        return terms + [entry.term for entry in content.entries]

    # ---- what callers see ----

    def request_answered(self, request_id: bytes, outcome: Outcome, begun_after: int) -> None:
        """A write was answered that began when everything up to `begun_after` was known to somebody."""
        self.history.write_answered(request_id, outcome, begun_after)

    def read_answered(self, host: Host, begun_after: int) -> None:
        """A read was answered from the view of a node."""
        self.history.read_answered(host.state.applied(), seen_by_a_reader(host.state.view()), begun_after)

    # ---- votes ----

    def _voted(self, voter: int, message: Message) -> None:
        chosen = self._votes.setdefault((message.term, voter), message.to)
        hard = self.hosts[voter].log.durable.hard
        law(
            hard.term > message.term or (hard.term, hard.vote) == (message.term, message.to),
            f"node {voter} votes in term {message.term}, but {hard} is durable",
        )
        law(chosen == message.to, f"node {voter} votes for {chosen} and {message.to} in term {message.term}")

    # ---- the state ----

    def _decide(self, entry: Entry) -> None:
        if self._applier is None:
            self._applier = Applier(self._state)
        before = self._applier.digest
        outcome: Outcome | None = None
        if entry.type is EntryType.NORMAL:
            (outcome,) = self._applier.apply([entry])
        else:
            self._applier.apply_change(entry, None)
            self.laws.changes_at(entry.index)
        changes = self._state.last_changes
        self._state.sync()
        seen = seen_by_a_reader(self._state.view())
        if isinstance(outcome, Accepted):
            self._took_effect(entry, outcome, seen)
        self.decided.append(Decided(entry, before, self._applier.digest, outcome, changes))
        self.history.places.append(Place(outcome, seen))

    def _took_effect(self, entry: Entry, outcome: Accepted, seen: Seen) -> None:
        request_id = codec.decode(entry.data).request_id
        is_repeated = outcome.already_applied
        self.history.took_effect(request_id, entry.index, is_repeated=is_repeated, remembered=outcome.index)
        if isinstance(outcome.result, VersionResult) and not is_repeated:
            places = self.history.places
            before = sum(versions for versions, _, _ in places[-1].seen) if places else 0
            after = sum(versions for versions, _, _ in seen)
            law(after == before + 1, f"exactly once: {request_id!r} made {after - before} versions")

    @property
    def rows(self) -> tuple[tuple[bytes, bytes], ...]:
        """All rows of the oracle's state, as of everything committed."""
        return self._state.rows()
