"""Commands about what may go: deletions, the trash, pins, and the rounds of garbage collection."""

from mcr.model import RefKind
from mcr.values import dataclass
from mcr_node.core.state.envelope import Envelope


@dataclass(frozen=True, slots=True, kw_only=True)
class TrashCommand(Envelope):
    """Base of the commands of this module."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteVersions(TrashCommand):
    """Put versions of a model into the trash: all of those named, or none.

    Attributes:
        numbers: 1 to DELETIONS_MAX, ascending. Those in the trash already stay as they are there.
        keep_ms: for how long they can be restored, in log time.
        skip_in_use: leave out those that something needs, rather than refuse all; for rules, which find out
            what is needed some time before.
    """

    model: str
    numbers: tuple[int, ...]
    reason: str
    keep_ms: int
    skip_in_use: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteName(TrashCommand):
    """Delete a branch, tag or channel; its history stays, and the version it named."""

    model: str
    kind: RefKind
    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteModel(TrashCommand):
    """Put all versions of a model into the trash, and with them the default branch, its last name."""

    model: str
    reason: str
    keep_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreVersions(TrashCommand):
    """Take versions out of the trash.

    Attributes:
        numbers: ascending; empty = all that went with the model when it was deleted last.
    """

    model: str
    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmptyTrash(TrashCommand):
    """Give up what is in the trash before its time.

    Attributes:
        model: empty = of all models, DELETIONS_MAX of those that would go first.
        numbers: ascending; empty = all that went with the model when it was deleted last.
    """

    model: str
    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PinVersion(TrashCommand):
    """Keep a version from being deleted."""

    model: str
    number: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpinVersion(TrashCommand):
    """Take a pin away."""

    model: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkGarbage(TrashCommand):
    """Begin a round of garbage collection; see `core.state.collecting`.

    Attributes:
        after_round: the round that ends with it.
        interval_ms: log time that must have passed since the mark before.
    """

    after_round: int
    interval_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldUpload(TrashCommand):
    """Take or renew the lease of an upload.

    Attributes:
        lease: 1 to LEASE_BYTES_MAX bytes, chosen by the uploader.
        hold_ms: until when from now, in log time.
    """

    lease: bytes
    hold_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseUpload(TrashCommand):
    """Give the lease of an upload back."""

    lease: bytes
