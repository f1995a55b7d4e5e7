"""The commands of upload sessions: one version from many writers."""

from mcr.bases import BaseVersion
from mcr.model import ChunkId, Parameters
from mcr.values import dataclass
from mcr_node.core.state.envelope import Envelope


@dataclass(frozen=True, slots=True, kw_only=True)
class BeginSession(Envelope):
    """Open a session under a name that no open one of the model has.

    Attributes:
        session: its name; whoever knows it may put parts.
        branch, expected_head, parent, description, parameters, base: of the version to be, as for a commit.
        lifetime_ms: after that long in log time without a new part it expires.
    """

    model: str
    session: str
    branch: str
    expected_head: int | None
    parent: int | None
    description: str
    parameters: Parameters
    lifetime_ms: int
    base: BaseVersion | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PutPart(Envelope):
    """Add what one writer made: a file, or a folder with all below it.

    Attributes:
        name: path of the file, or of the folder, in the version.
        is_folder: the entries of the manifest lie below `name`; otherwise its only entry is `name`.
        manifest: root of a manifest with the full paths, whose chunks are all durable; the proposer vouches
            for it.
        gc_round, layout_epoch: in which it was found that they are held, as of a commit.
    """

    model: str
    session: str
    name: str
    is_folder: bool
    manifest: ChunkId
    bytes_total: int
    file_count: int
    chunk_count: int
    gc_round: int
    layout_epoch: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SealSession(Envelope):
    """Make the one version of a session.

    Attributes:
        generation: how many parts the session had when the manifest was built of them; it must still be so.
        manifest: root of the manifest over all parts; the proposer vouches that it holds them all, durable.
        gc_round, layout_epoch: see PutPart.
    """

    model: str
    session: str
    generation: int
    manifest: ChunkId
    bytes_total: int
    file_count: int
    chunk_count: int
    gc_round: int
    layout_epoch: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AbortSession(Envelope):
    """End a session without a version."""

    model: str
    session: str
    reason: str


SessionCommand = BeginSession | PutPart | SealSession | AbortSession
