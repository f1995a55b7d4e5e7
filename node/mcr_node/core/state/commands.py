"""Everything that can change the replicated state: one frozen dataclass for each command, and their union.

Commands are data. Whoever proposes one puts the time and the authenticated principal into it, so that `apply`
gives the same result on every node, today and in a replay.
"""

from collections.abc import Mapping

from mcr.bases import BaseVersion
from mcr.model import ChunkId, LogIndex, Parameters, ParameterValue
from mcr.values import dataclass
from mcr_node.core.state.envelope import Envelope as Envelope
from mcr_node.core.state.merge_commands import MergeCommand
from mcr_node.core.state.retention_commands import RetentionCommand as RetentionCommand
from mcr_node.core.state.session_commands import SessionCommand
from mcr_node.core.state.signature_commands import SignVersion as SignVersion
from mcr_node.core.state.space_commands import SpaceCommand as SpaceCommand
from mcr_node.core.state.trash_commands import TrashCommand as TrashCommand


@dataclass(frozen=True, slots=True)
class PreviousTarget:
    """What was in force before the present version."""


@dataclass(frozen=True, slots=True)
class LastGoodTarget:
    """The nearest earlier version that no rollback has left since it was last chosen by name."""


@dataclass(frozen=True, slots=True)
class NumberTarget:
    """A version chosen by its number."""

    number: int


Target = PreviousTarget | LastGoodTarget | NumberTarget


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitVersion(Envelope):
    """Make the next version of a model and move a branch to it; the first one makes the model.

    Attributes:
        branch: made when it does not exist.
        expected_head: number the branch must be at; 0 = it must not exist; None = wherever it is.
        parent: number of the parent; None = head of the branch, or of `main` when the branch is new.
        metrics: reported together with the version.
        manifest: root of a manifest whose chunks are all durable; the proposer vouches for it.
        layout_epoch: of the members among whom they were found (`core.state.fence`); None = by a release that
            names none.
        gc_round: round of garbage collection (`core.state.collecting`) in which it was found that they are
            held; in a later round it has to be found anew. None = by a release that collected nothing.
        lease: of the upload that ends with this commit; empty = it had none.
        base: what it was derived from, of any model; refused unless there is a version with that id.
    """

    model: str
    branch: str
    expected_head: int | None
    parent: int | None
    description: str
    parameters: Parameters
    manifest: ChunkId
    bytes_total: int
    file_count: int
    chunk_count: int
    metrics: Mapping[str, float]
    allow_non_finite: bool = False
    gc_round: int | None = None
    layout_epoch: int | None = None
    lease: bytes = b""
    base: BaseVersion | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RollbackBranch(Envelope):
    """Make a version with the content of an earlier one, and move a branch to it.

    Attributes:
        description: of the new version; "" = one is made from the target and the reason.
    """

    model: str
    branch: str
    target: Target
    reason: str
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateBranch(Envelope):
    """Make a branch that points at an existing version."""

    model: str
    name: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteBranch(Envelope):
    """Delete a branch; its versions and its history stay."""

    model: str
    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateTag(Envelope):
    """Name a version for ever."""

    model: str
    name: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveChannel(Envelope):
    """Point a channel at a version; made when it is new.

    Attributes:
        expected_generation: generation the channel must be at; 0 = it must not exist; None = any.
        available: sites that have all bytes of the version, in order; the proposer vouches for it.
    """

    model: str
    channel: str
    number: int
    expected_generation: int | None
    reason: str
    available: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RollbackChannel(Envelope):
    """Move a channel back, and keep the reason."""

    model: str
    channel: str
    target: Target
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtectChannel(Envelope):
    """Replace the rules that moves of a channel must meet.

    Attributes:
        protection: see `core.state.protection`; empty = none.
    """

    model: str
    channel: str
    protection: Mapping[str, ParameterValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportMetrics(Envelope):
    """Record metrics for a version.

    Attributes:
        values: 1 to METRICS_MAX.
        channel: the channel that the report speaks for, or "".
        allow_non_finite: accept NaN and infinities even where no policy watches for them.
        generation: at which the channel was when this was measured; 0 = not said.
    """

    model: str
    number: int
    values: Mapping[str, float]
    channel: str
    allow_non_finite: bool
    generation: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportMany(Envelope):
    """Record several reports of metrics as one entry of the log; each is accepted or rejected by itself.

    Every report has a request id of its own, under which it is remembered; that of the envelope is not. A
    report on which a policy decides something is the last one that counts: those behind it are left for
    another entry (`reporting`).

    Attributes:
        reports: in their order; each of this principal and time.
    """

    reports: tuple[ReportMetrics, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledge(Envelope):
    """Note what a consumer has loaded, or failed to load; see `core.state.receipts`.

    Attributes:
        number: the version.
        channel: that told the consumer to load it, or "".
        generation: at which the channel was there; 0 = the latest such.
        consumer: name of the process, or of the job whose `rank` it is.
        state: `loaded`, `failed` or `gone`.
    """

    model: str
    number: int
    channel: str
    generation: int
    consumer: str
    rank: int
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetPolicy(Envelope):
    """Set a rollback policy, or replace it.

    Attributes:
        rules: see `mcr.policy_rules`.
    """

    model: str
    name: str
    rules: Mapping[str, ParameterValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletePolicy(Envelope):
    """Delete a rollback policy."""

    model: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FreezeChannel(Envelope):
    """Freeze a channel, or unfreeze it.

    Attributes:
        level: `automatic` = no policy moves it; `all` = and nobody moves it forward; "" = unfreeze it.
    """

    model: str
    channel: str
    level: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ApproveMove(Envelope):
    """Let a move of a channel happen that somebody else asked for, or drop it.

    Attributes:
        request: log index of what was asked; a later request is another one.
        available: as of MoveChannel.
        withdraw: drop it.
    """

    model: str
    channel: str
    request: int
    available: tuple[str, ...] = ()
    withdraw: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Settle(Envelope):
    """Decide what a policy has to decide that no report will: it was put off, or reports are missing.

    Attributes:
        generation: of its ref, for which that is so; checked again.
    """

    model: str
    policy: str
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckDigest(Envelope):
    """Let every node compare its state with that of most voters; changes nothing.

    What comes of the comparison is each node's own affair (`core.state.digest`): an outcome that depended on
    it would be another on the node that is wrong.

    Attributes:
        index: the digest is that after this entry; before that of this command.
        digest: running digest of the state there, 32 bytes.
    """

    index: LogIndex
    digest: bytes


Change = (
    CommitVersion
    | RollbackBranch
    | CreateBranch
    | DeleteBranch
    | CreateTag
    | MoveChannel
    | RollbackChannel
    | ProtectChannel
    | ReportMetrics
    | Acknowledge
    | TrashCommand
    | SpaceCommand
    | RetentionCommand
    | SessionCommand
    | MergeCommand
    | SignVersion
    | SetPolicy
    | DeletePolicy
    | FreezeChannel
    | ApproveMove
    | Settle
)
Command = Change | ReportMany | CheckDigest
