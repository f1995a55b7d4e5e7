"""The laws of Raft over all logs at once, as in etcd's TLA+ model (`etcdraft.tla`), kept up step by step.

The model states its eight invariants over whole logs. Here a mirror of each log holds the terms of its
entries and how far it agrees with what is committed (`match`), so each step checks only what it changed:

MoreThanOneLeader    a term has one leader, for ever, not only at one moment.
ElectionSafety       nobody holds an entry of a term that the term's leader did not write.
LogMatching          an index and a term name one entry and, before it, one term; hence one log up to there.
LogInv               what one node knows to be committed begins with, or continues, what another does.
QuorumLog            of every quorum, by anybody's configuration, one node holds all that this one knows to be
                     committed; up to the next change that it has not applied, for after that others count.
MoreUpToDateCorrect  a log that wins the comparison of votes holds all that the other knows to be committed.
LeaderCompleteness   a leader holds all that was committed in earlier terms. (The model asks it of all entries
                     *written* in earlier terms; one that leads no more without knowing may lack them.)
CommittedIsDurable   what is committed is durable on a quorum of its leader's configuration, no crash takes it
                     back, and nothing is applied that is not durable. (The model asks for the leader's own
                     disk; thesis §10.2.1 lets others' disks be first.)

A mirror of a running node is its log as its core sees it, durable or not; of a dead one, its disk.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mcr_node.core.raft.messages import ConfState, Entry
from tests.simulation.cluster.laws import law

# Whether a disk holds the entry of an (index, term), or the state that it led to.
Holds = Callable[[int, int], bool]


@dataclass(slots=True)
class Mirror:
    """What is known of one node's log."""

    holds: Holds
    # Of the entry at each index, from 1; also of those that a snapshot stands for.
    terms: list[int] = field(default_factory=list)
    # How far it agrees with what is committed: as its core sees it, and on its disk.
    match: int = 0
    durable: int = 0
    # What it knows to be committed. It may learn that with entries that its own disk does not hold yet: a
    # crash takes both.
    commit: int = 0
    # The term that it leads; 0 if it does not.
    leads: int = 0
    conf: ConfState = field(default_factory=ConfState)
    applied: int = 0

    def wins_against(self, other: "Mirror") -> bool:
        """Say whether `other` would vote for it (thesis §3.6.1)."""
        ours, theirs = (self.terms or [0])[-1], (other.terms or [0])[-1]
        return ours > theirs or (ours == theirs and len(self.terms) >= len(other.terms))


class RaftLaws:
    """See the module; indexes and terms start at 1."""

    def __init__(self) -> None:
        self.mirrors: dict[int, Mirror] = {}
        # By index - 1: terms of committed entries, and in which term each was committed.
        self.committed: list[int] = []
        self.committed_in: list[int] = []
        self._changes: list[int] = []
        self._leaders: dict[int, int] = {}
        self._ends: dict[int, int] = {}
        self._places: dict[tuple[int, int], tuple[int, Entry]] = {}

    def add(self, node_id: int, holds: Holds, conf: ConfState, terms: Sequence[int] = ()) -> None:
        """A node is there, with what its disk holds."""
        mirror = self.mirrors[node_id] = Mirror(holds, list(terms), conf=conf)
        self._extend(mirror)
        mirror.durable = mirror.commit = mirror.applied = mirror.match

    def begin_with(self, term: int) -> None:
        """Everybody that is added from now on starts from a snapshot of one entry."""
        self.committed, self.committed_in = [term], [term]

    # ---- logs ----

    def appended(self, node_id: int, entries: Sequence[Entry], *, leads: int) -> None:
        """A node put entries into its log; `leads` is the term it leads, 0 if it does not."""
        mirror = self.mirrors[node_id]
        first = entries[0].index
        law(first <= len(mirror.terms) + 1, f"LogMatching: a gap before {first} on {node_id}")
        before = mirror.terms[first - 2] if first > 1 else 0
        for entry in entries:
            term = entry.term
            known = self._places.setdefault((entry.index, term), (before, entry))
            law(known == (before, entry), f"LogMatching: two logs at {term}/{entry.index}")
            before = term
            if term == leads:
                self._ends[term] = max(self._ends.get(term, 0), entry.index)
            else:
                law(
                    entry.index <= self._ends.get(term, 0),
                    f"ElectionSafety: {term}/{entry.index} on {node_id} is not its leader's",
                )
        is_shorter = first <= len(mirror.terms)
        if is_shorter:
            del mirror.terms[first - 1 :]
        mirror.terms.extend(entry.term for entry in entries)
        self._moved(node_id, mirror, min(mirror.match, first - 1))

    def restored(self, node_id: int, index: int, term: int) -> None:
        """A node put a snapshot in the place of its log."""
        law(
            index <= len(self.committed) and self.committed[index - 1] == term,
            f"LogInv: the snapshot {term}/{index} on {node_id} is not of what is committed",
        )
        mirror = self.mirrors[node_id]
        mirror.terms = self.committed[:index]
        self._moved(node_id, mirror, index)

    def synced(self, node_id: int) -> None:
        """A disk holds more than before."""
        mirror = self.mirrors[node_id]
        law(
            not mirror.durable or mirror.holds(mirror.durable, self.committed[mirror.durable - 1]),
            f"CommittedIsDurable: {mirror.durable} was durable on {node_id}, and is overwritten",
        )
        self._extend_durable(mirror)

    def crashed(self, node_id: int, terms: Sequence[int]) -> None:
        """A node lost power; `terms` is what its disk holds."""
        mirror = self.mirrors[node_id]
        mirror.terms = list(terms)
        mirror.leads = 0
        mirror.match = 0
        self._extend(mirror)
        law(
            mirror.match >= mirror.durable,
            f"CommittedIsDurable: {mirror.durable} was durable on {node_id}, {mirror.match} is left",
        )
        mirror.commit = min(mirror.commit, mirror.match)
        self._look_at(node_id, mirror)
        self._quorums_hold()

    # ---- roles ----

    def leads(self, node_id: int, term: int) -> None:
        """A node became leader of a term."""
        first = self._leaders.setdefault(term, node_id)
        law(first == node_id, f"MoreThanOneLeader: {first} and {node_id} lead term {term}")
        mirror = self.mirrors[node_id]
        mirror.leads = term
        # Terms in which entries were committed never go back, see `commits`.
        for index in range(len(self.committed), mirror.match, -1):
            law(
                self.committed_in[index - 1] >= term,
                f"LeaderCompleteness: {node_id} leads term {term} without {index}",
            )

    def follows(self, node_id: int) -> None:
        """A node leads no more."""
        self.mirrors[node_id].leads = 0

    # ---- commits ----

    def commits(self, node_id: int, commit: int, *, term: int, conf: ConfState) -> None:
        """A node, in its present term and configuration, learned through which index all is committed."""
        mirror = self.mirrors[node_id]
        law(commit <= len(mirror.terms), f"LogInv: {node_id} commits {commit} beyond its log")
        law(
            mirror.match >= min(commit, len(self.committed)),
            f"LogInv: {node_id} and others differ in what is committed at {mirror.match + 1}",
        )
        if commit > len(self.committed):
            law(
                not mirror.leads or mirror.terms[commit - 1] == term,
                f"LeaderCompleteness: {commit} of term {mirror.terms[commit - 1]} is committed by counting in"
                f" term {term} (Raft §5.4.2)",
            )
            if mirror.leads:
                holders = [
                    voter
                    for voter in (*conf.voters, *conf.voters_outgoing)
                    if voter in self.mirrors and self.mirrors[voter].holds(commit, mirror.terms[commit - 1])
                ]
                law(
                    _is_quorum(conf, holders),
                    f"CommittedIsDurable: {commit} is committed, but durable only on {holders} of {conf}",
                )
            self.committed_in += [term] * (commit - len(self.committed))
            self.committed += mirror.terms[len(self.committed) : commit]
            for other_id, other in self.mirrors.items():
                self._extend(other)
                self._extend_durable(other)
                law(
                    other.leads <= term or other.match >= commit,
                    f"LeaderCompleteness: {other_id} leads term {other.leads} without {commit}",
                )
        mirror.commit = max(mirror.commit, commit)
        self._look_at(node_id, mirror)
        self._quorum_holds(node_id, mirror)

    def changes_at(self, index: int) -> None:
        """The committed entry at an index changes the membership; in order."""
        self._changes.append(index)

    def applied(self, node_id: int, index: int, conf: ConfState) -> None:
        """A node applied what is committed through an index; its configuration is now `conf`."""
        mirror = self.mirrors[node_id]
        self._extend_durable(mirror)
        law(index <= mirror.durable, f"CommittedIsDurable: {node_id} applied {index}, not durable there")
        is_changed = conf != mirror.conf
        mirror.applied, mirror.conf = index, conf
        if is_changed:
            self._quorum_holds(node_id, mirror)

    # ---- inside ----

    def _extend(self, mirror: Mirror) -> None:
        terms, committed = mirror.terms, self.committed
        end = min(len(terms), len(committed))
        match = mirror.match
        while match < end and terms[match] == committed[match]:
            match += 1
        mirror.match = match

    def _extend_durable(self, mirror: Mirror) -> None:
        committed = self.committed
        while mirror.durable < len(committed) and mirror.holds(mirror.durable + 1, committed[mirror.durable]):
            mirror.durable += 1

    def _moved(self, node_id: int, mirror: Mirror, match: int) -> None:
        had = mirror.match
        mirror.match = match
        self._extend(mirror)
        self._look_at(node_id, mirror)
        if mirror.match < had:
            self._quorums_hold()

    def _look_at(self, node_id: int, mirror: Mirror) -> None:
        for other_id, other in self.mirrors.items():
            if mirror.match < other.commit and mirror.wins_against(other):
                law(False, f"MoreUpToDateCorrect: {node_id} lacks what {other_id} knows to be committed")
            if other.match < mirror.commit and other.wins_against(mirror):
                law(False, f"MoreUpToDateCorrect: {other_id} lacks what {node_id} knows to be committed")

    def _quorums_hold(self) -> None:
        for node_id, mirror in self.mirrors.items():
            self._quorum_holds(node_id, mirror)

    def _quorum_holds(self, node_id: int, mirror: Mirror) -> None:
        known = mirror.commit
        for index in reversed(self._changes):
            if index <= mirror.applied:
                break
            known = min(known, index)
        conf = mirror.conf
        lacking = [
            voter
            for voter in (*conf.voters, *conf.voters_outgoing)
            if voter not in self.mirrors or self.mirrors[voter].match < known
        ]
        if lacking and conf.voters:
            law(
                not _is_quorum(conf, lacking),
                f"QuorumLog: {lacking} are a quorum of {conf} without {known}, which {node_id} commits",
            )


def _is_quorum(conf: ConfState, node_ids: Sequence[int]) -> bool:
    """Say whether these are a majority of both halves; own code, for it is what the core is held against."""
    return all(
        2 * sum(voter in node_ids for voter in half) > len(half)
        for half in (conf.voters, conf.voters_outgoing)
        if half
    )
