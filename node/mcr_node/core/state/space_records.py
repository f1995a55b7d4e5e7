"""Rows of quotas and of the fence; a part of `records`."""

from mcr.values import dataclass
from mcr_node.core.state.records import Row


@dataclass(frozen=True, slots=True)
class QuotaRow(Row):
    """A quota, and what is used of it.

    Attributes:
        bytes_used: of versions that count; while it is counted for the first time less, but never more.
        bytes_counted: by the count that is under way.
        cursor: key of the last version that the count has passed; empty before the first.
    """

    bytes_max: int
    bytes_used: int
    bytes_counted: int
    cursor: bytes
    is_counting: bool
    set_by: str
    set_at_ms: int


@dataclass(frozen=True, slots=True)
class FenceRow(Row):
    """The epoch of the first members among whom a commit may have been sealed."""

    epoch: int
