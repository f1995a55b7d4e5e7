"""Apply one command to the view: the only place where replicated state changes.

Laws:
    Total: every command gives an outcome; a bad one is rejected. Only damaged state raises, since going on
    would
        spread it.
    Deterministic: the outcome and the changes follow from the view, the index and the command alone.
    A rejection changes nothing, not even the log time. A retry of an accepted request changes nothing either.
    Bounded: point reads and bounded scans, so the cost does not grow with the number of versions or moves.
"""

from typing import assert_never

from mcr.errors import CorruptError, McrError, StoreFormatError
from mcr.model import LogIndex
from mcr_node.core.state import (
    channels,
    checks,
    keys,
    many_reports,
    merges,
    policies,
    receipts,
    refs,
    reporting,
    requests,
    retention,
    sessions,
    signatures,
    space_apply,
    trash_apply,
    versions,
    watching,
)
from mcr_node.core.state.commands import (
    Acknowledge,
    ApproveMove,
    Change,
    CheckDigest,
    Command,
    CommitVersion,
    CreateBranch,
    CreateTag,
    DeleteBranch,
    DeletePolicy,
    FreezeChannel,
    MoveChannel,
    ProtectChannel,
    ReportMany,
    ReportMetrics,
    RetentionCommand,
    RollbackBranch,
    RollbackChannel,
    SetPolicy,
    Settle,
    SignVersion,
    SpaceCommand,
    TrashCommand,
)
from mcr_node.core.state.merge_commands import CommitMerge, DropMerge, OpenMerge, ResolveConflicts
from mcr_node.core.state.outcomes import Accepted as Accepted
from mcr_node.core.state.outcomes import DigestResult, Result
from mcr_node.core.state.outcomes import Outcome as Outcome
from mcr_node.core.state.outcomes import Rejected as Rejected
from mcr_node.core.state.records import StateRow, read
from mcr_node.core.state.session_commands import AbortSession, BeginSession, PutPart, SealSession
from mcr_node.core.state.step import Step
from mcr_node.core.state.view import Overlay, View

Changes = list[tuple[bytes, bytes | None]]


def apply(view: View, index: LogIndex, command: Command) -> tuple[Outcome, Changes]:
    """Decide a command, and return what it changes in the view; the view itself stays.

    Args:
        view: state after the entries before.
        index: log index of the command, greater than that of any command before.
        command: any command, good or bad.

    Returns:
        The outcome, and (key, new value or None for a removal) in key order.

    Raises:
        CorruptStoreError, StoreFormatError: a row of the view cannot be read; the node must stop.
    """
    overlay = Overlay(view)
    try:
        accepted = _accept(overlay, index, command)
    except (CorruptError, StoreFormatError):
        raise
    except McrError as error:
        return Rejected(index, error.code, error.fields()), []
    return accepted, overlay.changes()


def _accept(overlay: Overlay, index: LogIndex, command: Command) -> Accepted:
    checks.check(command)
    if isinstance(command, CheckDigest):
        # It speaks about the state and is no part of it, so it is not remembered either.
        return Accepted(index, DigestResult())
    if isinstance(command, ReportMany):
        return Accepted(index, many_reports.report_many(overlay, index, command))
    content = requests.fingerprint(command)
    before = requests.recall(overlay, command.request_id, content)
    if before is not None:
        return before
    state = read(overlay, keys.STATE, StateRow) or StateRow()
    # Clocks of different leaders differ; log time follows the greatest, so that "what was it at time T" has
    # one answer and history is in order.
    step = Step(overlay, index, max(command.at_ms, state.last_at_ms), command.principal)
    result = _carry_out(step, command)
    requests.remember(step, command.request_id, content, result, state=state)
    return Accepted(index, result)


def _carry_out(step: Step, command: Change) -> Result:  # noqa: C901 (one case a command)
    match command:
        case CommitVersion():
            return reporting.commit(step, command)
        case RollbackBranch():
            return versions.roll_back_branch(step, command)
        case CreateBranch() | CreateTag():
            return refs.create(step, command)
        case DeleteBranch():
            return refs.delete_branch(step, command)
        case MoveChannel():
            return channels.set_channel(step, command)
        case RollbackChannel():
            return channels.roll_back_channel(step, command)
        case ProtectChannel():
            return channels.protect_channel(step, command)
        case ReportMetrics():
            return reporting.report(step, command)
        case Acknowledge():
            return receipts.acknowledge(step, command)
        case SpaceCommand():
            return space_apply.carry_out(step, command)
        case TrashCommand():
            return trash_apply.carry_out(step, command)
        case RetentionCommand():
            return retention.carry_out(step, command)
        case CommitMerge() | OpenMerge() | ResolveConflicts() | DropMerge():
            return merges.carry_out(step, command)
        case BeginSession() | PutPart() | SealSession() | AbortSession():
            return sessions.carry_out(step, command)
        case SignVersion():
            return signatures.sign(step, command)
        case SetPolicy():
            return policies.set_policy(step, command)
        case DeletePolicy():
            return policies.delete_policy(step, command)
        case FreezeChannel():
            return channels.freeze_channel(step, command)
        case ApproveMove():
            return channels.approve(step, command)
        case Settle():
            return watching.settle(step, command)
        case other:
            assert_never(other)
