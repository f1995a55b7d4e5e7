"""mcr.v1 messages to model values and back: the only file that knows both."""

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from google.protobuf.message import DecodeError

from mcr import canonical
from mcr.bases import BaseVersion
from mcr.canonical import CanonicalError
from mcr.errors import FailedError, FieldValue, InvalidParameterError, McrError, from_fields
from mcr.model import (
    ClusterAlarm,
    ClusterMember,
    ClusterStatus,
    Event,
    LogIndex,
    MetricReport,
    ModelSummary,
    Parameters,
    ParameterValue,
    Ref,
    RefKind,
    RefMove,
    Version,
    VersionId,
    WorkerStatus,
)
from mcr.record import Record, decode_record, encode_record, version_id
from mcr.signatures import Signature
from mcr.v1 import admin_pb2 as admin
from mcr.v1 import errors_pb2
from mcr.v1 import versions_pb2 as pb

_KIND_TO_WIRE = {
    RefKind.BRANCH: pb.REF_KIND_BRANCH,
    RefKind.TAG: pb.REF_KIND_TAG,
    RefKind.CHANNEL: pb.REF_KIND_CHANNEL,
}
_KIND_FROM_WIRE = {wire: kind for kind, wire in _KIND_TO_WIRE.items()}


def kind_to_wire(kind: RefKind) -> "pb.RefKind.ValueType":
    """Return the wire value of a ref kind."""
    return _KIND_TO_WIRE[kind]


def kind_from_wire(kind: "pb.RefKind.ValueType") -> RefKind | None:
    """Return the ref kind of a wire value; None when it is unset or unknown."""
    return _KIND_FROM_WIRE.get(kind)


def mapping_to_wire(parameters: Parameters) -> bytes:
    """Return canonical bytes of a parameter tree.

    Raises:
        InvalidParameterError: a value has no canonical form; names the first top-level key that has none.
    """
    try:
        return canonical.encode(dict(parameters))
    except CanonicalError as error:
        raise InvalidParameterError(_first_bad_key(parameters), str(error)) from error


def _first_bad_key(parameters: Parameters) -> str:
    for key, value in parameters.items():
        try:
            canonical.encode({key: value})
        except CanonicalError:
            return str(key).encode("utf-8", "backslashreplace").decode()
    return ""


def mapping_from_wire(data: bytes) -> dict[str, ParameterValue]:
    """Read a parameter tree; empty bytes are an empty tree.

    Raises:
        InvalidParameterError: not the canonical bytes of a mapping.
    """
    if not data:
        return {}
    try:
        value = canonical.decode(data)
    except CanonicalError as error:
        raise InvalidParameterError("", str(error)) from error
    if not isinstance(value, dict):
        raise InvalidParameterError("", "the parameters are not a mapping")
    return cast("dict[str, ParameterValue]", value)


def metrics_to_wire(values: Mapping[str, float]) -> list[pb.Metric]:
    """Return metrics by name."""
    return [pb.Metric(name=name, value=values[name]) for name in sorted(values)]


def base_to_wire(base: BaseVersion) -> pb.BaseVersion:
    """Return what a version was derived from as a message."""
    return pb.BaseVersion(model=base.model, number=base.number, version_id=bytes.fromhex(base.id))


def base_from_wire(base: pb.BaseVersion) -> BaseVersion:
    """Read what a version was derived from."""
    return BaseVersion(base.model, base.number, base.version_id.hex())


def signature_from_wire(version: Version, signature: pb.Signature) -> Signature:
    """Read a signature of a version; whether it verifies is another matter."""
    return Signature(
        model=version.model,
        number=version.number,
        version_id=version.id,
        public_key=signature.public_key.hex(),
        signature=signature.signature,
        principal=signature.principal,
        at_ms=signature.at_ms,
        log_index=signature.log_index,
    )


def version_to_wire(version: Version) -> pb.Version:
    """Return a version as a message; its canonical record is built again, byte for byte."""
    record = Record(
        model=version.model,
        number=version.number,
        created_at_ms=version.created_at_ms,
        creator=version.creator,
        description=version.description,
        parameters=version.parameters,
        branch=version.branch,
        kind=version.kind,
        parents=version.parents,
        parent_ids=tuple(VersionId(bytes.fromhex(parent)) for parent in version.parent_ids),
        target_number=version.target_number,
        manifest=version.manifest,
        bytes_total=version.bytes_total,
        file_count=version.file_count,
        chunk_count=version.chunk_count,
        merge_document=version.merge_document,
        base=version.base,
    )
    record_bytes = encode_record(record)
    assert version_id(record_bytes).hex() == version.id, "a version's record does not give its id"
    return pb.Version(
        record=record_bytes,
        refs=version.refs or (),
        metrics=metrics_to_wire(version.metrics or {}),
        deleted_at_ms=version.deleted_at_ms,
        is_purged=version.is_purged,
    )


def version_of(
    record_bytes: bytes,
    *,
    metrics: Mapping[str, float] | None = None,
    refs: tuple[str, ...] | None = None,
) -> Version:
    """Build a version from its canonical record and what stands beside it."""
    record: Record = decode_record(record_bytes)
    return Version(
        model=record.model,
        number=record.number,
        id=version_id(record_bytes).hex(),
        created_at_ms=record.created_at_ms,
        creator=record.creator,
        description=record.description,
        parameters=record.parameters,
        branch=record.branch,
        kind=record.kind,
        parents=record.parents,
        parent_ids=tuple(parent.hex() for parent in record.parent_ids),
        target_number=record.target_number,
        manifest=record.manifest,
        bytes_total=record.bytes_total,
        file_count=record.file_count,
        chunk_count=record.chunk_count,
        merge_document=record.merge_document,
        base=record.base,
        metrics=metrics,
        refs=refs,
    )


def version_from_wire(version: pb.Version, *, with_metrics: bool) -> Version:
    """Read a version; lists do not carry metrics."""
    metrics = {metric.name: metric.value for metric in version.metrics} if with_metrics else None
    found = version_of(version.record, metrics=metrics, refs=tuple(version.refs))
    if not version.deleted_at_ms:
        return found
    return replace(found, deleted_at_ms=version.deleted_at_ms, is_purged=version.is_purged)


def ref_to_wire(ref: Ref) -> pb.Ref:
    """Return a ref as a message."""
    return pb.Ref(
        kind=kind_to_wire(ref.kind),
        name=ref.name,
        number=ref.number,
        version_id=bytes.fromhex(ref.version_id),
        generation=ref.generation,
        actor=ref.actor,
        reason=ref.reason,
        moved_at_ms=ref.moved_at_ms,
        protection=mapping_to_wire(ref.protection) if ref.protection else b"",
        frozen=mapping_to_wire(ref.frozen) if ref.frozen else b"",
        pending=mapping_to_wire(ref.pending) if ref.pending else b"",
    )


def ref_from_wire(model: str, ref: pb.Ref) -> Ref:
    """Read a ref of `model`."""
    kind = kind_from_wire(ref.kind)
    assert kind is not None, "a node sent a ref without a kind"
    return Ref(
        model=model,
        kind=kind,
        name=ref.name,
        number=ref.number,
        version_id=ref.version_id.hex(),
        generation=ref.generation,
        actor=ref.actor,
        reason=ref.reason,
        moved_at_ms=ref.moved_at_ms,
        protection=mapping_from_wire(ref.protection),
        frozen=mapping_from_wire(ref.frozen) or None,
        pending=mapping_from_wire(ref.pending) or None,
    )


def move_to_wire(move: RefMove) -> pb.RefMove:
    """Return a move as a message."""
    return pb.RefMove(
        generation=move.generation,
        number=move.number,
        version_id=bytes.fromhex(move.version_id),
        verb=move.verb,
        actor=move.actor,
        reason=move.reason,
        at_ms=move.at_ms,
        log_index=move.log_index,
        evidence=mapping_to_wire(move.evidence) if move.evidence else b"",
    )


def move_from_wire(move: pb.RefMove) -> RefMove:
    """Read a move."""
    return RefMove(
        generation=move.generation,
        number=move.number,
        version_id=move.version_id.hex(),
        verb=move.verb,
        actor=move.actor,
        reason=move.reason,
        at_ms=move.at_ms,
        log_index=LogIndex(move.log_index),
        evidence=mapping_from_wire(move.evidence) or None,
    )


def report_to_wire(report: MetricReport) -> pb.MetricReport:
    """Return a report as a message."""
    return pb.MetricReport(
        number=report.number,
        metrics=metrics_to_wire(report.values),
        channel=report.channel,
        principal=report.principal,
        at_ms=report.at_ms,
    )


def report_from_wire(report: pb.MetricReport) -> MetricReport:
    """Read a report."""
    return MetricReport(
        number=report.number,
        values={metric.name: metric.value for metric in report.metrics},
        channel=report.channel,
        principal=report.principal,
        at_ms=report.at_ms,
    )


def summary_to_wire(summary: ModelSummary) -> pb.ModelSummary:
    """Return a summary as a message."""
    return pb.ModelSummary(
        name=summary.name,
        version_count=summary.version_count,
        created_at_ms=summary.created_at_ms,
        updated_at_ms=summary.updated_at_ms,
    )


def summary_from_wire(summary: pb.ModelSummary) -> ModelSummary:
    """Read a summary."""
    return ModelSummary(
        name=summary.name,
        version_count=summary.version_count,
        created_at_ms=summary.created_at_ms,
        updated_at_ms=summary.updated_at_ms,
    )


def event_from_wire(event: pb.Event) -> Event:
    """Read an event."""
    kind = kind_from_wire(event.kind)
    assert kind is not None, "a node sent an event without a kind"
    version = version_of(event.record) if event.record else None
    return Event(event.model, kind, event.name, move_from_wire(event.move), version)


_ROLES = {admin.MEMBER_ROLE_VOTER: "voter", admin.MEMBER_ROLE_LEARNER: "learner"}


def cluster_from_wire(status: admin.GetClusterStatusResponse) -> ClusterStatus:
    """Read the status of a cluster."""
    members = tuple(
        ClusterMember(
            name=member.name,
            address=member.address,
            site=member.site,
            role=_ROLES.get(member.role, "unknown"),
            healthy=member.healthy,
            applied_index=member.applied_index,
            bytes_used=member.bytes_used,
            bytes_free=member.bytes_free,
            leaving=member.leaving,
        )
        for member in status.members
    )
    return ClusterStatus(
        leader=status.leader,
        term=status.term,
        applied_index=status.applied_index,
        members=members,
        chunks_under_replicated=status.chunks_under_replicated,
        alarms=tuple(ClusterAlarm(alarm.code, alarm.member, alarm.message) for alarm in status.alarms),
    )


def error_from_wire(data: bytes) -> McrError:
    """Build the error that a node described; whatever it sent, an error comes of it."""
    try:
        detail = errors_pb2.ErrorDetail.FromString(data)
    except DecodeError:
        return FailedError("the node refused", "its reason cannot be read")
    values: dict[str, FieldValue] = {
        field.name: field.number if field.WhichOneof("value") == "number" else field.text
        for field in detail.fields
    }
    try:
        error = from_fields(detail.code, values)
    except TypeError:
        # A release that describes this error by other fields.
        return FailedError(detail.code, detail.message)
    if isinstance(error, FailedError) and error.code != detail.code:
        # An error of a newer release: its own words say more than its fields.
        return FailedError(
            detail.code, f"{detail.message} ({detail.hint})" if detail.hint else detail.message
        )
    return error


_WORKER_STATES = {
    admin.WORKER_STATE_IDLE: "idle",
    admin.WORKER_STATE_RUNNING: "running",
    admin.WORKER_STATE_PAUSED: "paused",
}


def worker_from_wire(worker: admin.Worker) -> WorkerStatus:
    """Read how one kind of background work does."""
    return WorkerStatus(
        member=worker.member,
        name=worker.name,
        state=_WORKER_STATES.get(worker.state, "unknown"),
        doing=worker.doing,
        done=worker.done,
        total=worker.total,
        runs=worker.runs,
        started_ms=worker.started_ms,
        ended_ms=worker.ended_ms,
        error=worker.error,
        counts={count.name: count.value for count in worker.counts},
        findings=tuple(worker.findings),
    )
