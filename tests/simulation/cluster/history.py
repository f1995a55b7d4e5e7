"""What callers saw, checked for linearizability as it comes.

Every answer names its place in the log, so no search for an order is needed: the log is the order. A history
is linearizable when (1) each answer agrees with what the log itself gives at its place, and (2) no operation
has a place before one that was answered when it began. (1) finds lost writes, doubled ones, and wrong values;
(2) finds stale reads, and reads and writes that go back in time. Operations without an answer are free: a
write of unknown outcome is in the log or is not.
"""

from dataclasses import dataclass, field

from mcr_node.core.state.outcomes import Accepted, Outcome
from tests.simulation.cluster.laws import law

# Of each model: its versions, and where its channel is, with its generation.
Seen = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Place:
    """What the log gives at one index: the outcome of its command, and what a reader sees after it."""

    outcome: Outcome | None
    seen: Seen


@dataclass(slots=True)
class History:
    """All answers so far; `places` by index, from 1, grows as entries are committed."""

    places: list[Place] = field(default_factory=list)
    # Index of the latest answer to anybody: whatever begins from now on must come at or after it.
    answered_index: int = 0
    # Where each request took effect.
    requests: dict[bytes, int] = field(default_factory=dict)

    def took_effect(self, request_id: bytes, index: int, *, is_repeated: bool, remembered: int) -> None:
        """The command of an entry was accepted; `is_repeated` if the state says that it had been before."""
        known = self.requests.get(request_id)
        if is_repeated:
            law(known == remembered, f"exactly once: {request_id!r} at {remembered}, remembered as {known}")
            return
        law(known is None, f"exactly once: {request_id!r} took effect at {known} and at {index}")
        self.requests[request_id] = index

    def write_answered(self, request_id: bytes, outcome: Outcome, begun_after: int) -> None:
        """A write was answered that began when everything up to `begun_after` had been answered."""
        index = outcome.index
        law(index <= len(self.places), f"lost write: {request_id!r} at {index}, the log ends before")
        decided = self.places[index - 1].outcome
        law(decided is not None, f"lost write: {request_id!r} at {index}, which holds no command")
        if isinstance(outcome, Accepted):
            law(isinstance(decided, Accepted), f"lost write: {request_id!r} was refused at {index}")
            assert isinstance(decided, Accepted)
            law(outcome.result == decided.result, f"wrong answer: the result of {request_id!r} at {index}")
            at = self.requests.get(request_id)
            law(at == index, f"lost write: {request_id!r} took effect at {at}, not at {index}")
        else:
            law(outcome == decided, f"wrong answer: the refusal of {request_id!r} at {index}")
        law(index > begun_after, f"back in time: {request_id!r} at {index}, begun after {begun_after}")
        self.answered_index = max(self.answered_index, index)

    def read_answered(self, index: int, seen: Seen, begun_after: int) -> None:
        """A read was answered with what is `seen` after the entry at `index`."""
        law(index >= begun_after, f"stale read: at {index}, begun after {begun_after}")
        law(index <= len(self.places), f"wrong read: at {index}, the log ends before")
        if index:
            law(seen == self.places[index - 1].seen, f"wrong read: {seen} is not the state at {index}")
        self.answered_index = max(self.answered_index, index)
