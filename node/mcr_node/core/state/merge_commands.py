"""The commands about merges: versions of two parents, and merges that wait for decisions."""

from collections.abc import Sequence

from mcr.model import ChunkId, Parameters
from mcr.values import dataclass
from mcr_node.core.state.envelope import Envelope


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitMerge(Envelope):
    """Make a version of two parents, the head of a branch and another one, and move the branch to it.

    Attributes:
        ours: number that the branch must be at, from 1; the first parent.
        theirs: the second parent.
        merge: the waiting merge that this ends, from 1; 0 = there was nothing that had to wait.
        document: how it was computed (`mcr.merging.document`), 1 to MERGE_DOCUMENT_BYTES_MAX bytes.
        manifest, bytes_total, file_count, chunk_count, gc_round, layout_epoch: as of CommitVersion.
    """

    model: str
    branch: str
    ours: int
    theirs: int
    merge: int
    document: bytes
    description: str
    parameters: Parameters
    manifest: ChunkId
    bytes_total: int
    file_count: int
    chunk_count: int
    gc_round: int | None = None
    layout_epoch: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenMerge(Envelope):
    """Keep a merge that has conflicts, until they are decided.

    Attributes:
        branch: that it is into; ours: its head, from 1; theirs: what is merged; base: 0 = there is none.
        document: what was asked for, as far as it was decided; canonical bytes that clients understand.
        conflicts: 1 to MERGE_CONFLICTS_MAX, by name; each a name and canonical bytes for those who decide.
    """

    model: str
    branch: str
    ours: int
    theirs: int
    base: int
    document: bytes
    conflicts: Sequence[tuple[str, bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolveConflicts(Envelope):
    """Decide conflicts of a waiting merge; a later decision takes the place of an earlier one.

    Attributes:
        merge: from 1.
        choices: 1 to MERGE_CONFLICTS_MAX of name of a conflict and choice, as clients understand it.
    """

    model: str
    merge: int
    choices: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DropMerge(Envelope):
    """Forget a waiting merge, with what was decided."""

    model: str
    merge: int


MergeCommand = CommitMerge | OpenMerge | ResolveConflicts | DropMerge
