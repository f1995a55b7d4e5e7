"""What a runner is told about itself: who it is, and how its time passes."""

from collections.abc import Callable

from mcr.values import dataclass
from mcr_node.core.members import Membership
from mcr_node.core.state.digest import DIGEST_ENTRIES


@dataclass(frozen=True, slots=True)
class Timing:
    """Rhythm of the log; all nodes of a cluster should have the same.

    Attributes:
        tick_ms: between two heartbeats.
        election_ticks: a node that hears no leader for this long, and up to twice as long, asks for votes.
        digest_entries: nodes compare their states about every so many entries.
    """

    tick_ms: int = 100
    election_ticks: int = 10
    digest_entries: int = DIGEST_ENTRIES


@dataclass(frozen=True, slots=True)
class Self:
    """Who this node is to the others.

    Attributes:
        node_id: see `core.members.Member`.
        at_start: members of a cluster that begins with this node; empty for a node that joins one.
        draw: `draw(n)` gives a whole number from 0 to n - 1.
    """

    node_id: int
    at_start: Membership
    draw: Callable[[int], int]
