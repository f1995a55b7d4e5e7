"""What must hold after every step, whatever failed: the laws of Raft, of the state, and of its callers.

The oracle sees all nodes at once, and applies each committed entry itself, once, to a state of its own. What
that state says is what every node and every caller must see.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from mcr.model import RefKind
from mcr_node.core.members import Membership
from mcr_node.core.raft.messages import ConfState, Entry, EntryType, Message, MessageType, is_conf_change
from mcr_node.core.raft.quorum import joint_index
from mcr_node.core.replica import Append, Effect, Send
from mcr_node.core.state import codec, keys
from mcr_node.core.state.keys import RefName
from mcr_node.core.state.outcomes import Accepted, Outcome, VersionResult
from mcr_node.core.state.records import ModelRow, RefRow
from mcr_node.core.state.view import View
from mcr_node.runtime.applying import Applier
from tests.simulation.cluster.disk import StateDisk
from tests.simulation.cluster.node import Host, Process

MODELS = ("team/one", "team/two")
CHANNEL = "production"
# Reading a row takes longer than all else that is checked at a step.
ROWS_REMEMBERED_MAX = 4096


class LawBroken(AssertionError):  # noqa: N818 - it names what happened
    """A law does not hold; the text says which."""


def law(holds: bool, text: str) -> None:
    if not holds:
        raise LawBroken(text)


def seen_by_a_reader(view: View) -> tuple[tuple[int, int, int], ...]:
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
    digest: bytes = b""
    outcome: Outcome | None = None
    seen: tuple[tuple[int, int, int], ...] = ()


@dataclass(slots=True)
class Oracle:
    """See the module; `hosts` is filled in as nodes are made."""

    hosts: dict[int, Host] = field(default_factory=dict)
    # By index, from 1; the entries that some node knows to be committed, and those of them applied here.
    committed: list[Entry] = field(default_factory=list)
    # Term of the node that committed it first: leaders of later terms must hold it.
    committed_in: list[int] = field(default_factory=list)
    decided: list[Decided] = field(default_factory=list)
    # Index that every answer from now on must have reached, see `Floor` in the text of `clients`.
    answered_index: int = 0

    _leaders: dict[int, int] = field(default_factory=dict)
    _votes: dict[tuple[int, int], int] = field(default_factory=dict)
    _places: dict[tuple[int, int], tuple[int, Entry]] = field(default_factory=dict)
    _commits: dict[int, tuple[Process, int]] = field(default_factory=dict)
    _terms: dict[int, int] = field(default_factory=dict)
    _state: StateDisk = field(default_factory=StateDisk)
    _confs: dict[int, ConfState] = field(default_factory=dict)
    _requests: dict[bytes, int] = field(default_factory=dict)
    _applier: Applier | None = None

    def begin_after(self, membership: Membership) -> None:
        """Begin as the nodes do that start with a snapshot of an empty state."""
        self._state = StateDisk(membership)
        self.committed.append(Entry(1, 1))
        self.committed_in.append(1)
        self.decided.append(
            Decided(Entry(1, 1), self._state.state_digest(), None, seen_by_a_reader(self._state.view()))
        )

    # ---- what nodes do ----

    def effects_taken(self, process: Process, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Append(message):
                    self._log_matching(process, message)
                case Send(message):
                    if message.type is MessageType.VOTE_RESP and not message.reject:
                        self._voted(process.node_id, message)
                case _:
                    continue

    def synced(self, process: Process, append: Append) -> None:
        for message in append.message.responses:
            if message.type is MessageType.VOTE_RESP and message.to == process.node_id and not message.reject:
                self._voted(process.node_id, message)

    def stepped(self, process: Process) -> None:
        replica = process.replica
        node_id = process.node_id
        if replica.is_leader:
            first = self._leaders.setdefault(replica.term, node_id)
            law(first == node_id, f"election safety: {first} and {node_id} lead term {replica.term}")
            if first == node_id and self._terms.get(node_id) != replica.term:
                self._terms[node_id] = replica.term
                self._leader_complete(process)
        reads = replica._reads_confirmed
        law(not reads or reads[0][0] > replica.applied, f"node {node_id} keeps a read that it could answer")
        known, commit = self._commits.get(node_id, (process, 0))
        if known is not process:
            commit = 0
        if replica.commit != commit:
            law(
                replica.commit > commit, f"node {node_id}: commit goes back from {commit} to {replica.commit}"
            )
            self._commits[node_id] = (process, replica.commit)
            self._commit_agrees(process, max(commit, replica._node.raft.log.first_index() - 1))

    def applied(self, process: Process, entries: Sequence[Entry], outcomes: Sequence[Outcome | None]) -> None:
        for entry, outcome in zip(entries, outcomes, strict=True):
            law(entry.index <= len(self.committed), f"entry {entry.index} is applied, not committed")
            decided = self._decide(entry.index)
            law(decided.entry == entry, f"state machine safety: node {process.node_id} at {entry.index}")
            law(decided.outcome == outcome, f"node {process.node_id}: another outcome at {entry.index}")
        state = process.host.state
        law(state.applied() == entries[-1].index, "all of them are in the state")
        conf = process.replica.membership.conf
        law(conf == process.replica._node.raft.tracker.config, f"node {process.node_id}: two memberships")
        changes = [entry.index for entry in entries if is_conf_change(entry)]
        if changes:
            known = self._confs.setdefault(changes[-1], conf)
            law(known == conf, f"members after {changes[-1]}: {known}, but {conf} on {process.node_id}")
        self._state_agrees(process.host)

    def _state_agrees(self, host: Host) -> None:
        index = host.state.applied()
        if index:
            decided = self._decide(index)
            law(host.state.state_digest() == decided.digest, f"node {host.node_id}: digest at {index}")
            law(seen_by_a_reader(host.state.view()) == decided.seen, f"node {host.node_id}: rows at {index}")

    # ---- what callers see ----

    def request_answered(self, request_id: bytes, outcome: Outcome, begun_after: int) -> None:
        """A write was answered that began when everything up to `begun_after` was known to somebody."""
        law(outcome.index <= len(self.committed), "only what is committed is answered")
        decided = self._decide(outcome.index)
        law(decided.outcome is not None, f"an outcome for the empty entry {outcome.index}")
        assert decided.outcome is not None
        if isinstance(outcome, Accepted):
            law(isinstance(decided.outcome, Accepted), f"accepted at {outcome.index}, where it was refused")
            assert isinstance(decided.outcome, Accepted)
            law(outcome.result == decided.outcome.result, f"result of {request_id!r} at {outcome.index}")
            law(self._requests.get(request_id) == outcome.index, f"{request_id!r} took effect elsewhere")
        else:
            law(outcome == decided.outcome, f"refusal of {request_id!r} at {outcome.index}")
        law(outcome.index > begun_after, f"{request_id!r} at {outcome.index} precedes {begun_after}")
        self.answered_index = max(self.answered_index, outcome.index)

    def read_answered(self, host: Host, begun_after: int) -> None:
        """A read was answered from the view of a node."""
        index = host.state.applied()
        law(index >= begun_after, f"stale read at {index}: {begun_after} was known before it began")
        self._state_agrees(host)
        self.answered_index = max(self.answered_index, index)

    # ---- laws of Raft ----

    def _voted(self, voter: int, message: Message) -> None:
        chosen = self._votes.setdefault((message.term, voter), message.to)
        hard = self.hosts[voter].log.durable.hard
        law(
            hard.term > message.term or (hard.term, hard.vote) == (message.term, message.to),
            f"node {voter} votes in term {message.term}, but {hard} is durable",
        )
        law(chosen == message.to, f"node {voter} votes for {chosen} and {message.to} in term {message.term}")

    def _log_matching(self, process: Process, message: Message) -> None:
        if not message.entries:
            return
        log = process.replica._node.raft.log
        before = log.term(message.entries[0].index - 1)
        for entry in message.entries:
            if before is not None:
                known = self._places.setdefault((entry.index, entry.term), (before, entry))
                law(known == (before, entry), f"log matching at {entry.term}/{entry.index}")
            before = entry.term

    def _leader_complete(self, process: Process) -> None:
        log = process.replica._node.raft.log
        for index in range(max(log.first_index(), len(self.committed) - 200, 1), len(self.committed) + 1):
            law(
                self.committed_in[index - 1] >= process.replica.term
                or log.term(index) == self.committed[index - 1].term,
                f"leader completeness: {process.node_id} in term {process.replica.term} lacks {index}",
            )

    def _commit_agrees(self, process: Process, known: int) -> None:
        log = process.replica._node.raft.log
        commit = process.replica.commit
        law(
            not process.replica.is_leader
            or commit <= len(self.committed)
            or log.term(commit) == process.replica.term,
            f"{log.term(commit)}/{commit} is committed by counting in term {process.replica.term}",
        )
        for index in range(known + 1, commit + 1):
            if index <= len(self.committed):
                law(log.term(index) == self.committed[index - 1].term, f"two entries committed at {index}")
                continue
            law(index == len(self.committed) + 1, f"{index} is committed before {len(self.committed) + 1}")
            (entry,) = log.slice(index, index + 1, 0)
            self._is_on_a_quorum(process, entry)
            self.committed.append(entry)
            self.committed_in.append(process.replica.term)

    def _is_on_a_quorum(self, process: Process, entry: Entry) -> None:
        if not process.replica.is_leader:
            # Its leader died with the news; it was checked when that leader heard of it.
            return
        config = process.replica._node.raft.tracker.config
        reached = {
            node_id: 1
            for node_id in (*config.voters, *config.voters_outgoing)
            if self.hosts[node_id].log.durable.holds(entry.index, entry.term)
        }
        law(
            joint_index(config.voters, config.voters_outgoing, reached) == 1,
            f"{entry.term}/{entry.index} is committed, but durable only on {sorted(reached)} of {config}",
        )

    # ---- the state ----

    def _decide(self, index: int) -> Decided:
        law(index <= len(self.committed), f"{index} is not committed")
        if self._applier is None:
            self._applier = Applier(self._state)
        while len(self.decided) < index:
            entry = self.committed[len(self.decided)]
            outcome: Outcome | None = None
            if entry.type is EntryType.NORMAL:
                (outcome,) = self._applier.apply([entry])
            else:
                self._applier.apply_change(entry, None)
            if isinstance(outcome, Accepted):
                self._exactly_once(entry, outcome)
            self._state.sync()
            seen = seen_by_a_reader(self._state.view())
            self.decided.append(Decided(entry, self._applier.digest, outcome, seen))
        return self.decided[index - 1]

    def _exactly_once(self, entry: Entry, outcome: Accepted) -> None:
        request_id = codec.decode(entry.data).request_id
        if outcome.already_applied:
            law(self._requests.get(request_id) == outcome.index, f"{request_id!r} is remembered wrongly")
            return
        law(request_id not in self._requests, f"{request_id!r} took effect twice")
        self._requests[request_id] = entry.index
        if isinstance(outcome.result, VersionResult):
            before = sum(versions for versions, _, _ in self.decided[-1].seen) if self.decided else 0
            after = sum(versions for versions, _, _ in seen_by_a_reader(self._state.view()))
            law(after == before + 1, f"{request_id!r} made {after - before} versions")

    @property
    def rows_decided(self) -> tuple[tuple[bytes, bytes], ...]:
        """All rows of the oracle's state, as of everything committed."""
        self._decide(len(self.committed))
        return self._state.rows()
