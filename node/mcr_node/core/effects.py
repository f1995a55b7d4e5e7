"""What the replica asks of its surroundings: to be carried out in the order in which it comes."""

from mcr.values import dataclass
from mcr_node.core.raft.messages import Entry, Message
from mcr_node.core.state.outcomes import Outcome


@dataclass(frozen=True, slots=True)
class Append:
    """Write what a STORAGE_APPEND holds, in the order of their coming, sync, then report `on_appended`."""

    message: Message


@dataclass(frozen=True, slots=True)
class Apply:
    """Apply these committed entries, in order, then report `on_applied` with one outcome for each."""

    message: Message

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The entries, by index."""
        return self.message.entries


@dataclass(frozen=True, slots=True)
class Send:
    """Hand a message to the transport; it may be lost."""

    message: Message


@dataclass(frozen=True, slots=True)
class Forward:
    """Hand commands to the leader of `term`; may be lost, and is void in any other term."""

    to: int
    term: int
    commands: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """A proposal is decided and applied here."""

    ticket: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class AnswerRead:
    """A read may be served from the view of this node, which has applied `index` or more."""

    ticket: int
    index: int


Effect = Append | Apply | Send | Forward | Answer | AnswerRead
