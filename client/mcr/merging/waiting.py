"""What a merge did, and merges that wait for decisions, as callers see them."""

from collections.abc import Sequence

from mcr.merging.choices import Conflict
from mcr.model import Version
from mcr.v1 import merges_pb2 as pb
from mcr.values import dataclass


@dataclass(frozen=True, slots=True)
class MergeOutcome:
    """What a merge did.

    Attributes:
        version: the new version; the head of the branch where there was nothing to merge.
        made: whether it is new.
        decided: conflicts that rules or choices decided.
        bytes_sent, bytes_stored, chunks_new: as of a commit.
    """

    version: Version
    made: bool
    decided: int = 0
    bytes_sent: int = 0
    bytes_stored: int = 0
    chunks_new: int = 0


@dataclass(frozen=True, slots=True)
class OpenConflict:
    """A conflict of a merge that waits.

    Attributes:
        choice: "" while nobody decided; decider, at_ms: who did and when.
    """

    conflict: Conflict
    choice: str
    decider: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class WaitingMerge:
    """A merge that waits for decisions.

    Attributes:
        merge: its number.
        ours, theirs, base: numbers of the versions; base 0 = they have nothing in common.
        conflicts: by name; None where they were not read.
    """

    merge: int
    branch: str
    ours: int
    theirs: int
    base: int
    conflict_count: int
    open_count: int
    creator: str
    at_ms: int
    conflicts: tuple[OpenConflict, ...] | None = None


def waiting_from_wire(merge: pb.Merge, conflicts: Sequence[OpenConflict] | None = None) -> WaitingMerge:
    """Read a merge that waits; conflicts None = they were not read."""
    return WaitingMerge(
        merge=merge.merge,
        branch=merge.branch,
        ours=merge.ours,
        theirs=merge.theirs,
        base=merge.base,
        conflict_count=merge.conflict_count,
        open_count=merge.open_count,
        creator=merge.creator,
        at_ms=merge.at_ms,
        conflicts=None if conflicts is None else tuple(conflicts),
    )
