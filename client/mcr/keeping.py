"""The nouns of what stays and what goes: the trash, and pins. Pure values."""

from mcr.values import dataclass


@dataclass(frozen=True, slots=True)
class Deleted:
    """What a deletion put into the trash.

    Attributes:
        numbers: of the versions; those that were there before are left out.
        until_ms: it can be restored before this log time, milliseconds since 1970 UTC.
    """

    numbers: tuple[int, ...]
    until_ms: int


@dataclass(frozen=True, slots=True)
class TrashItem:
    """Something in the trash: a version, or all that there was of a model.

    Attributes:
        number: of the version; of the last one of a model.
        actor, reason, deleted_at_ms: the deletion; log time, milliseconds since 1970 UTC.
        until_ms: it can be restored before this log time.
        bytes_total: sum of the sizes of the version's files; 0 for a whole model.
    """

    model: str
    number: int
    whole_model: bool
    actor: str
    reason: str
    deleted_at_ms: int
    until_ms: int
    bytes_total: int


@dataclass(frozen=True, slots=True)
class NodeCollection:
    """What garbage collection would take on one node, as it stands on disk.

    Attributes:
        chunks, bytes_total: that would go.
        chunks_deleted, bytes_deleted: of them, those that deleted versions had; the others never became part
            of a version.
        chunks_waiting, bytes_waiting: that no version needs, but that were brought or counted on lately.
        bytes_dead: of chunk files, that are dead already and come back when the files are rewritten.
        versions: deleted versions whose bytes would go, as `model@v3`; at most 100.
    """

    member: str
    chunks: int
    bytes_total: int
    chunks_deleted: int
    bytes_deleted: int
    chunks_waiting: int
    bytes_waiting: int
    bytes_dead: int
    versions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CollectionPlan:
    """What garbage collection would take, node by node; `silent` are members that did not answer."""

    nodes: tuple[NodeCollection, ...]
    silent: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pin:
    """Why a version is not to be deleted."""

    number: int
    actor: str
    reason: str
    at_ms: int
