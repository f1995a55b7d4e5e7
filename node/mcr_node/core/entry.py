"""What a log holds: entries, and the few numbers a voter must never forget.

Apart from the machines, so that Raft and the state can both speak of entries without knowing each other.
"""

from typing import Final

from mcr.model import LogIndex
from mcr.values import dataclass

LOG_ENTRY_BYTES_MAX: Final = 2 * 1024 * 1024

# Kinds of entries. Numbers are on disk and on the wire, so they never change their meaning.
KIND_NORMAL: Final = 0
KIND_CONF_CHANGE: Final = 1
KIND_CONF_CHANGE_V2: Final = 2
KIND_MAX: Final = KIND_CONF_CHANGE_V2
_START: Final = LogIndex(0)


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One entry of the replicated log.

    Attributes:
        index: from 1, without gaps.
        term: of the leader that made it, from 1.
        data: an encoded command (`core.state.codec`) or a change of the membership, up to
            LOG_ENTRY_BYTES_MAX; empty in the entry with which a leader begins its term.
        kind: KIND_NORMAL, KIND_CONF_CHANGE or KIND_CONF_CHANGE_V2.
    """

    index: LogIndex
    term: int
    data: bytes
    kind: int = KIND_NORMAL


@dataclass(frozen=True, slots=True)
class HardState:
    """What a voter promised; it must not forget it, or it votes twice in a term (Raft §5.2, Figure 2).

    Attributes:
        term: greatest term it has seen; 0 at the start.
        vote: id of the node it voted for in that term; 0 for none.
        commit: index of the last entry that it knows to be committed. Only a hint: one that is too low is
            learnt again from the leader.
    """

    term: int = 0
    vote: int = 0
    commit: LogIndex = _START

    def may_follow(self, earlier: "HardState") -> bool:
        """Return whether a voter may go from `earlier` to this: terms never go back, a vote is cast once."""
        if self.term == earlier.term:
            return earlier.vote in (0, self.vote)
        return self.term > earlier.term
