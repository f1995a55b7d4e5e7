"""What a command is carried out with: the overlay it changes, and facts that are the same on every node."""

from mcr.model import LogIndex
from mcr.values import dataclass
from mcr_node.core.state.view import Overlay


@dataclass(frozen=True, slots=True)
class Step:
    """One command at its place in the log.

    Attributes:
        overlay: reads see the changes made so far; dropped as a whole when the command is rejected.
        at_ms: log time of the command, never less than that of an earlier one.
        principal: who asked.
    """

    overlay: Overlay
    index: LogIndex
    at_ms: int
    principal: str
