"""The rows of deletions, pins and garbage collection. See `records` for their form."""

from mcr.values import dataclass
from mcr_node.core.state.records import Row


@dataclass(frozen=True, slots=True)
class TrashRow(Row):
    """A version, or all versions of a model up to one, is deleted.

    Attributes:
        actor, reason, at_ms, index: the deletion.
        until_ms: it can be restored before this log time.
        is_purged: it was given up since, for good.
        purged_round: of garbage collection, in which that was.
        head: where the default branch was; 0 for single versions.
    """

    actor: str
    reason: str
    at_ms: int
    index: int
    until_ms: int
    is_purged: bool = False
    purged_round: int = 0
    head: int = 0


@dataclass(frozen=True, slots=True)
class TrashAgeRow(Row):
    """Something in the trash; the key says what and until when."""


@dataclass(frozen=True, slots=True)
class PinRow(Row):
    """A version is not to be deleted."""

    actor: str
    reason: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class CollectingRow(Row):
    """How far garbage collection is.

    Attributes:
        round: how many marks there were.
        index, marked_at_ms: of the last one; 0 = there was none.
        lease_count: how many LeaseRows there are.
    """

    round: int = 0
    index: int = 0
    marked_at_ms: int = 0
    lease_count: int = 0


@dataclass(frozen=True, slots=True)
class LeaseRow(Row):
    """An upload is under way.

    Attributes:
        round: of garbage collection, in which the lease was taken.
        since_ms: when that was.
        until_ms: log time at which it lapses.
    """

    principal: str
    round: int
    since_ms: int
    until_ms: int
