"""Commands to the bytes of a log entry and back: the only file that knows both.

Reading is strict. A command that this release does not know entirely must not be applied in part, or nodes of
two releases would hold different states; whoever meets one stops and is upgraded.
"""

from collections.abc import Iterable, Mapping
from typing import assert_never

from google.protobuf.message import DecodeError

from mcr import canonical
from mcr.canonical import CanonicalError
from mcr.errors import CorruptStoreError, StoreFormatError
from mcr.model import ChunkId, LogIndex, ParameterValue, RequestId
from mcr_node.core.state import (
    checks,
    merge_codec,
    retention_codec,
    session_codec,
    signatures,
    space_apply,
    trash_codec,
    watching_codec,
)
from mcr_node.core.state.base_codec import base_from_wire, base_to_wire
from mcr_node.core.state.commands import (
    Acknowledge,
    ApproveMove,
    CheckDigest,
    Command,
    CommitVersion,
    CreateBranch,
    CreateTag,
    DeleteBranch,
    DeletePolicy,
    FreezeChannel,
    LastGoodTarget,
    MoveChannel,
    NumberTarget,
    PreviousTarget,
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
    Target,
    TrashCommand,
)
from mcr_node.core.state.merge_commands import (
    CommitMerge,
    DropMerge,
    MergeCommand,
    OpenMerge,
    ResolveConflicts,
)
from mcr_node.core.state.session_commands import (
    AbortSession,
    BeginSession,
    PutPart,
    SealSession,
    SessionCommand,
)
from mcr_node.format.v1 import command_pb2 as pb

COMMAND_FORMAT = 1
# The place named in errors.
PLACE = "log"
_NO_PARAMETERS = canonical.encode({})


def encode(command: Command) -> bytes:
    """Return the bytes of a command, up to 2 MiB.

    Its content is checked first, so that what every node would reject does not cost an entry of the log.

    Raises:
        InvalidArgumentError, InvalidNameError, InvalidParameterError, InvalidMetricError: as `checks.check`.
    """
    checks.check(command)
    message = pb.Command(
        format=COMMAND_FORMAT,
        request_id=command.request_id,
        principal=command.principal,
        at_ms=command.at_ms,
    )
    match command:
        case CommitVersion():
            message.commit_version.CopyFrom(_commit_to_wire(command))
        case RollbackBranch(model=model, branch=branch, target=target, reason=reason):
            message.rollback_branch.CopyFrom(
                pb.RollbackBranch(
                    model=model,
                    branch=branch,
                    target=_target_to_wire(target),
                    reason=reason,
                    description=command.description,
                )
            )
        case CreateBranch(model=model, name=name, number=number):
            message.create_branch.CopyFrom(pb.CreateBranch(model=model, name=name, number=number))
        case DeleteBranch(model=model, name=name, reason=reason):
            message.delete_branch.CopyFrom(pb.DeleteBranch(model=model, name=name, reason=reason))
        case CreateTag(model=model, name=name, number=number):
            message.create_tag.CopyFrom(pb.CreateTag(model=model, name=name, number=number))
        case MoveChannel(model=model, channel=channel, number=number, reason=reason):
            move = pb.MoveChannel(model=model, channel=channel, number=number, reason=reason)
            if command.expected_generation is not None:
                move.expected_generation = command.expected_generation
            move.available.extend(command.available)
            message.move_channel.CopyFrom(move)
        case RollbackChannel(model=model, channel=channel, target=target, reason=reason):
            message.rollback_channel.CopyFrom(
                pb.RollbackChannel(
                    model=model, channel=channel, target=_target_to_wire(target), reason=reason
                )
            )
        case ProtectChannel(model=model, channel=channel, protection=protection):
            message.protect_channel.CopyFrom(
                pb.ProtectChannel(model=model, channel=channel, protection=canonical.encode(protection))
            )
        case ReportMetrics():
            _report_to_wire(command, message.report_metrics)
        case ReportMany(reports=reports):
            for report in reports:
                one = message.report_many.reports.add(request_id=report.request_id)
                _report_to_wire(report, one.report)
        case CheckDigest(index=index, digest=digest):
            message.check_digest.CopyFrom(pb.CheckDigest(index=index, digest=digest))
        case other:
            _area_to_wire(other, message)
    return message.SerializeToString()


def _area_to_wire(
    command: watching_codec.Watching
    | TrashCommand
    | SpaceCommand
    | SessionCommand
    | RetentionCommand
    | MergeCommand
    | SignVersion,
    message: pb.Command,
) -> None:
    """Set the content of a command whose area has a codec of its own."""
    match command:
        case Acknowledge() | SetPolicy() | DeletePolicy() | FreezeChannel() | ApproveMove() | Settle():
            watching_codec.put(message, command)
        case SpaceCommand():
            space_apply.to_wire(command, message)
        case TrashCommand():
            trash_codec.to_wire(command, message)
        case CommitMerge() | OpenMerge() | ResolveConflicts() | DropMerge():
            merge_codec.to_wire(command, message)
        case BeginSession() | PutPart() | SealSession() | AbortSession():
            session_codec.to_wire(command, message)
        case RetentionCommand():
            retention_codec.to_wire(command, message)
        case SignVersion():
            signatures.to_wire(command, message)
        case other:
            assert_never(other)


def _commit_to_wire(command: CommitVersion) -> pb.CommitVersion:
    message = pb.CommitVersion(
        model=command.model,
        branch=command.branch,
        description=command.description,
        parameters=canonical.encode(command.parameters),
        manifest=command.manifest,
        bytes_total=command.bytes_total,
        file_count=command.file_count,
        chunk_count=command.chunk_count,
        metrics=_metrics_to_wire(command.metrics),
        allow_non_finite=command.allow_non_finite,
        lease=command.lease,
    )
    if command.layout_epoch is not None:
        message.layout_epoch = command.layout_epoch
    if command.gc_round is not None:
        message.gc_round = command.gc_round
    if command.expected_head is not None:
        message.expected_head = command.expected_head
    if command.parent is not None:
        message.parent = command.parent
    if command.base is not None:
        message.base.CopyFrom(base_to_wire(command.base))
    return message


def _report_to_wire(command: ReportMetrics, message: pb.ReportMetrics) -> None:
    message.model = command.model
    message.number = command.number
    message.channel = command.channel
    message.allow_non_finite = command.allow_non_finite
    message.generation = command.generation
    values = command.values
    for name in sorted(values):
        message.metrics.add(name=name, value=values[name])


def _target_to_wire(target: Target) -> pb.Target:
    match target:
        case PreviousTarget():
            return pb.Target(previous=True)
        case LastGoodTarget():
            return pb.Target(last_good=True)
        case NumberTarget(number):
            return pb.Target(number=number)


def _metrics_to_wire(values: Mapping[str, float]) -> list[pb.Metric]:
    return [pb.Metric(name=name, value=values[name]) for name in sorted(values)]


def decode(data: bytes) -> Command:
    """Read a command.

    Raises:
        StoreFormatError: a newer release wrote it; this one must stop.
        CorruptStoreError: it is no command.
    """
    message = pb.Command()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise CorruptStoreError(PLACE, f"an entry is no command: {error}") from error
    _check_known(message)
    request_id, principal, at_ms = RequestId(message.request_id), message.principal, message.at_ms
    match message.WhichOneof("content"):
        case "commit_version":
            return _commit_from_wire(message)
        case "rollback_branch":
            back = message.rollback_branch
            return RollbackBranch(
                request_id=request_id,
                principal=principal,
                at_ms=at_ms,
                model=back.model,
                branch=back.branch,
                target=_target_from_wire(back.target),
                reason=back.reason,
                description=back.description,
            )
        case "create_branch" | "delete_branch" | "create_tag":
            return _naming_from_wire(message)
        case "move_channel" | "rollback_channel" | "protect_channel":
            return _channel_from_wire(message)
        case "report_metrics":
            return _report_from_wire(message, request_id, message.report_metrics)
        case "report_many":
            return ReportMany(
                request_id=request_id,
                principal=principal,
                at_ms=at_ms,
                reports=tuple(
                    _report_from_wire(message, RequestId(one.request_id), one.report)
                    for one in message.report_many.reports
                ),
            )
        case "check_digest":
            found = message.check_digest
            return CheckDigest(
                request_id=request_id,
                principal=principal,
                at_ms=at_ms,
                index=LogIndex(found.index),
                digest=found.digest,
            )
        case _:
            return _area_from_wire(message)


def _area_from_wire(message: pb.Command) -> Command:
    """Read a command whose area has a codec of its own."""
    match message.WhichOneof("content"):
        case "commit_merge" | "open_merge" | "resolve_conflicts" | "drop_merge":
            return merge_codec.from_wire(message, _mapping_from_wire)
        case "begin_session" | "put_part" | "seal_session" | "abort_session":
            return session_codec.from_wire(message, _mapping_from_wire)
        case "acknowledge" | "set_policy" | "delete_policy" | "freeze_channel" | "approve_move" | "settle":
            return watching_codec.get(message)
        case "sign_version":
            return signatures.from_wire(message)
        case content if content in space_apply.CONTENTS:
            return space_apply.from_wire(message)
        case content if trash_codec.knows(content):
            return trash_codec.from_wire(message)
        case content if content in retention_codec.NAMES:
            return retention_codec.from_wire(message)
        case _:
            raise CorruptStoreError(PLACE, "a command has no content")


def _check_known(message: pb.Command) -> None:
    if message.format > COMMAND_FORMAT:
        raise StoreFormatError(PLACE, message.format, COMMAND_FORMAT)
    if message.format < 1:
        raise CorruptStoreError(PLACE, "an entry is no command: it has no format")
    length_bytes = message.ByteSize()
    # Also reaches the messages inside. What vanishes here is what a newer release added.
    message.DiscardUnknownFields()
    if message.ByteSize() != length_bytes:
        raise StoreFormatError(PLACE, COMMAND_FORMAT + 1, COMMAND_FORMAT)


def _commit_from_wire(message: pb.Command) -> CommitVersion:
    commit = message.commit_version
    return CommitVersion(
        request_id=RequestId(message.request_id),
        principal=message.principal,
        at_ms=message.at_ms,
        model=commit.model,
        branch=commit.branch,
        expected_head=commit.expected_head if commit.HasField("expected_head") else None,
        parent=commit.parent if commit.HasField("parent") else None,
        description=commit.description,
        parameters=_mapping_from_wire(commit.parameters),
        manifest=ChunkId(commit.manifest),
        bytes_total=commit.bytes_total,
        file_count=commit.file_count,
        chunk_count=commit.chunk_count,
        metrics=_metrics_from_wire(commit.metrics),
        allow_non_finite=commit.allow_non_finite,
        layout_epoch=commit.layout_epoch if commit.HasField("layout_epoch") else None,
        gc_round=commit.gc_round if commit.HasField("gc_round") else None,
        lease=commit.lease,
        base=base_from_wire(commit.base) if commit.HasField("base") else None,
    )


def _report_from_wire(message: pb.Command, request_id: RequestId, report: pb.ReportMetrics) -> ReportMetrics:
    return ReportMetrics(
        request_id=request_id,
        principal=message.principal,
        at_ms=message.at_ms,
        model=report.model,
        number=report.number,
        values=_metrics_from_wire(report.metrics),
        channel=report.channel,
        allow_non_finite=report.allow_non_finite,
        generation=report.generation,
    )


def _naming_from_wire(message: pb.Command) -> CreateBranch | DeleteBranch | CreateTag:
    request_id, principal, at_ms = RequestId(message.request_id), message.principal, message.at_ms
    if message.HasField("delete_branch"):
        deletion = message.delete_branch
        return DeleteBranch(
            request_id=request_id,
            principal=principal,
            at_ms=at_ms,
            model=deletion.model,
            name=deletion.name,
            reason=deletion.reason,
        )
    is_branch = message.HasField("create_branch")
    creation = message.create_branch if is_branch else message.create_tag
    kind = CreateBranch if is_branch else CreateTag
    return kind(
        request_id=request_id,
        principal=principal,
        at_ms=at_ms,
        model=creation.model,
        name=creation.name,
        number=creation.number,
    )


def _channel_from_wire(message: pb.Command) -> MoveChannel | RollbackChannel | ProtectChannel:
    request_id, principal, at_ms = RequestId(message.request_id), message.principal, message.at_ms
    if message.HasField("move_channel"):
        move = message.move_channel
        return MoveChannel(
            request_id=request_id,
            principal=principal,
            at_ms=at_ms,
            model=move.model,
            channel=move.channel,
            number=move.number,
            expected_generation=move.expected_generation if move.HasField("expected_generation") else None,
            reason=move.reason,
            available=tuple(move.available),
        )
    if message.HasField("rollback_channel"):
        back = message.rollback_channel
        return RollbackChannel(
            request_id=request_id,
            principal=principal,
            at_ms=at_ms,
            model=back.model,
            channel=back.channel,
            target=_target_from_wire(back.target),
            reason=back.reason,
        )
    protect = message.protect_channel
    return ProtectChannel(
        request_id=request_id,
        principal=principal,
        at_ms=at_ms,
        model=protect.model,
        channel=protect.channel,
        protection=_mapping_from_wire(protect.protection),
    )


def _target_from_wire(target: pb.Target) -> Target:
    match target.WhichOneof("target"):
        case "previous":
            return PreviousTarget()
        case "last_good":
            return LastGoodTarget()
        case "number":
            return NumberTarget(target.number)
        case _:
            raise CorruptStoreError(PLACE, "a rollback has no target")


def _metrics_from_wire(metrics: Iterable[pb.Metric]) -> dict[str, float]:
    values: dict[str, float] = {}
    for metric in metrics:
        if metric.name in values:
            raise CorruptStoreError(PLACE, f"a command has metric {metric.name!r} twice")
        values[metric.name] = metric.value
    return values


def _mapping_from_wire(data: bytes) -> dict[str, ParameterValue]:
    if data == _NO_PARAMETERS:
        return {}
    try:
        value = canonical.decode(data)
    except CanonicalError as error:
        raise CorruptStoreError(PLACE, f"a mapping in a command: {error}") from error
    if not isinstance(value, dict):
        raise CorruptStoreError(PLACE, "what should be a mapping in a command is not")
    return value
