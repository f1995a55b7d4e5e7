"""What merges are refused with; part of the tree of `mcr.errors`, which is where to import them from."""

from mcr._mcr_error import ConflictError, CorruptError, NotFoundError
from mcr.values import dataclass


@dataclass(eq=False)
class MergeNotFoundError(NotFoundError):
    """No such merge waits for decisions, or a version is not a merge."""

    model: str
    merge: str
    reason: str
    code = "merge_not_found"
    template = "{model}, merge {merge}: {reason}"
    hint_template = "list those that wait with: mcr conflicts {model}"


@dataclass(eq=False)
class ConflictsLeftError(ConflictError):
    """A merge has conflicts that nobody decided; nothing was published."""

    model: str
    merge: int
    conflicts: int
    code = "conflicts_left"
    template = "conflicts left in merge {merge} of {model}: {conflicts}; nothing was published"
    hint_template = (
        "see them with: mcr conflicts {model} {merge}; decide with: --resolve NAME=ours, or a FILE"
    )


@dataclass(eq=False)
class ReplayDiffersError(CorruptError):
    """A merge that was computed again gave something else than what it had given."""

    reference: str
    kept: str
    found: str
    code = "replay_differs"
    template = "{reference} is not what its merge gives: it has {kept}, computed again {found}"
    hint_template = (
        "its inputs or its document were changed, or a release computes differently; compare with diff"
    )
