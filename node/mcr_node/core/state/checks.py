"""Checks of a command's content that need no state: names, limits, finite numbers.

Every check raises the error that the caller should see. What passes can be stored: it has a canonical form
and stays within the limits that keep one command within one log entry.
"""

import math
from collections.abc import Mapping, Sequence
from typing import assert_never

from mcr import canonical
from mcr.canonical import DEPTH_MAX, CanonicalError
from mcr.errors import InvalidArgumentError, InvalidMetricError, InvalidParameterError
from mcr.model import (
    DESCRIPTION_CHARACTERS_MAX,
    DIGEST_BYTES,
    METRICS_MAX,
    PARAMETERS_BYTES_MAX,
    REQUEST_ID_BYTES_MAX,
    Parameters,
    ParameterValue,
)
from mcr.policy_rules import ALL, AUTOMATIC
from mcr.references import check_model, check_name
from mcr_node.core.state import (
    merge_checks,
    policies,
    protection,
    receipts,
    retention,
    session_checks,
    signatures,
    space_apply,
    trash_checks,
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
    Envelope,
    FreezeChannel,
    MoveChannel,
    NumberTarget,
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
from mcr_node.core.state.merge_commands import CommitMerge, DropMerge, OpenMerge, ResolveConflicts
from mcr_node.core.state.session_commands import (
    AbortSession,
    BeginSession,
    PutPart,
    SealSession,
    SessionCommand,
)
from mcr_node.core.state.texts import (
    AT_MS_MAX,
    REASON_CHARACTERS_MAX,
    check_base,
    check_number,
    check_principal,
    check_text,
    metric_name_fault,
    shown,
)

# Of one command: as many as the client library sends with one call. They take ten milliseconds to apply.
REPORTS_MAX = 256


def check(command: Command) -> None:
    """Check what every command carries, then its own content.

    Raises:
        InvalidArgumentError, InvalidNameError, InvalidParameterError, InvalidMetricError: says what and why.
    """
    _check_envelope(command)
    if isinstance(command, CheckDigest):
        _check_digest(command)
        return
    if isinstance(command, ReportMany):
        _check_reports(command)
        return
    if isinstance(command, TrashCommand):
        trash_checks.check(command)
        return
    if isinstance(command, SpaceCommand):
        space_apply.check(command)
        return
    if isinstance(command, RetentionCommand):
        retention.check(command)
        return
    check_model(command.model)
    _check_content(command)


def _check_digest(command: CheckDigest) -> None:
    check_number("index", command.index, 1)
    if len(command.digest) != DIGEST_BYTES:
        raise InvalidArgumentError("digest", f"it has {len(command.digest)} bytes, not {DIGEST_BYTES}")


def _check_content(command: Change) -> None:  # noqa: C901 (one case a command)
    match command:
        case CommitVersion():
            _check_commit(command)
        case RollbackBranch():
            check_name("branch", command.branch)
            _check_target(command.target)
            check_text("reason", command.reason, REASON_CHARACTERS_MAX)
            check_text("description", command.description, DESCRIPTION_CHARACTERS_MAX)
        case CreateBranch():
            check_name("branch", command.name)
            check_number("number", command.number, 1)
        case DeleteBranch():
            check_name("branch", command.name)
            check_text("reason", command.reason, REASON_CHARACTERS_MAX)
        case CreateTag():
            check_name("tag", command.name)
            check_number("number", command.number, 1)
        case MoveChannel():
            check_name("channel", command.channel)
            check_number("number", command.number, 1)
            if command.expected_generation is not None:
                check_number("expected_generation", command.expected_generation, 0)
            check_text("reason", command.reason, REASON_CHARACTERS_MAX)
            _check_available(command.available)
        case RollbackChannel():
            check_name("channel", command.channel)
            _check_target(command.target)
            check_text("reason", command.reason, REASON_CHARACTERS_MAX)
        case ProtectChannel():
            check_name("channel", command.channel)
            protection.check_rules(command.protection)
        case ReportMetrics():
            _check_report(command)
        case TrashCommand() | SpaceCommand() | RetentionCommand():
            raise AssertionError("checked apart")
        case Acknowledge():
            receipts.check(command)
        case CommitMerge() | OpenMerge() | ResolveConflicts() | DropMerge():
            merge_checks.check(command, _check_parameters)
        case BeginSession() | PutPart() | SealSession() | AbortSession():
            _check_session(command)
        case SignVersion():
            signatures.check(command)
        case SetPolicy() | DeletePolicy():
            policies.check(command)
        case FreezeChannel() | ApproveMove() | Settle():
            _check_steering(command)
        case other:
            assert_never(other)


def _check_session(command: SessionCommand) -> None:
    session_checks.check(command)
    if isinstance(command, BeginSession):
        _check_parameters(command.parameters)


def _check_envelope(command: Envelope) -> None:
    if not 1 <= len(command.request_id) <= REQUEST_ID_BYTES_MAX:
        reason = f"it has {len(command.request_id)} bytes, not 1 to {REQUEST_ID_BYTES_MAX}"
        raise InvalidArgumentError("request_id", reason)
    check_principal("principal", command.principal)
    check_number("at_ms", command.at_ms, 0, AT_MS_MAX)


def _check_commit(command: CommitVersion) -> None:
    check_name("branch", command.branch)
    if command.expected_head is not None:
        check_number("expected_head", command.expected_head, 0)
    if command.parent is not None:
        check_number("parent", command.parent, 1)
    check_text("description", command.description, DESCRIPTION_CHARACTERS_MAX)
    _check_parameters(command.parameters)
    if len(command.manifest) != DIGEST_BYTES:
        raise InvalidArgumentError("manifest", f"it has {len(command.manifest)} bytes, not {DIGEST_BYTES}")
    check_number("bytes_total", command.bytes_total, 0)
    check_number("file_count", command.file_count, 0)
    check_number("chunk_count", command.chunk_count, 0)
    if command.layout_epoch is not None:
        check_number("layout_epoch", command.layout_epoch, 0)
    if command.gc_round is not None:
        check_number("gc_round", command.gc_round, 0)
    if command.base is not None:
        check_base(command.base)
    trash_checks.check_lease(command.lease, 0)
    _check_metrics(command.metrics, allow_non_finite=command.allow_non_finite)


def _check_report(command: ReportMetrics) -> None:
    check_number("number", command.number, 1)
    if command.channel:
        check_name("channel", command.channel)
    if not command.values:
        raise InvalidArgumentError("values", "a report needs at least one metric")
    check_number("generation", command.generation, 0)
    if command.generation and not command.channel:
        raise InvalidArgumentError("generation", "it needs a channel")
    # Whether NaN is taken depends on what policies watch for (`reporting`).
    _check_metrics(command.values, allow_non_finite=True)


def _check_reports(command: ReportMany) -> None:
    check_number("reports", len(command.reports), 1, REPORTS_MAX)
    for report in command.reports:
        if report.principal != command.principal or report.at_ms != command.at_ms:
            raise InvalidArgumentError("reports", "one is of another principal or time than the command")
        check(report)


def _check_steering(command: FreezeChannel | ApproveMove | Settle) -> None:
    match command:
        case FreezeChannel():
            check_name("channel", command.channel)
            check_text("reason", command.reason, REASON_CHARACTERS_MAX)
            if command.level not in ("", AUTOMATIC, ALL):
                raise InvalidArgumentError("level", f"it is not {AUTOMATIC} or {ALL}, or empty")
        case ApproveMove():
            check_name("channel", command.channel)
            check_number("request", command.request, 1)
            _check_available(command.available)
        case Settle():
            check_name("policy", command.policy)
            check_number("generation", command.generation, 1)


def _check_available(sites: Sequence[str]) -> None:
    if len(sites) > protection.RULE_ITEMS_MAX:
        reason = f"{len(sites)} sites, at most {protection.RULE_ITEMS_MAX}"
        raise InvalidArgumentError("available", reason)
    for site in sites:
        check_text("available", site, protection.SITE_CHARACTERS_MAX)


def _check_target(target: Target) -> None:
    if isinstance(target, NumberTarget):
        check_number("target", target.number, 1)


def _check_parameters(parameters: Parameters) -> None:
    if not parameters:
        return
    for key, value in parameters.items():
        _check_parameter(key, value, DEPTH_MAX - 1)
    try:
        length_bytes = len(canonical.encode(parameters))
    except CanonicalError as error:
        raise InvalidParameterError("", str(error)) from error
    if length_bytes > PARAMETERS_BYTES_MAX:
        reason = f"all parameters together take {length_bytes} bytes, at most {PARAMETERS_BYTES_MAX}"
        raise InvalidParameterError("", reason)


def _check_parameter(path: str, value: ParameterValue, depth: int) -> None:
    """Check one node of the tree, named by its keys and places: `optimizer.betas.0`."""
    if depth < 0:
        raise InvalidParameterError(shown(path), f"nested deeper than {DEPTH_MAX}")
    match value:
        case float() if not math.isfinite(value):
            raise InvalidParameterError(shown(path), f"{value} is not a finite number")
        case None | bool() | int() | float():
            _check_encodable(path, value)
        case str():
            _check_encodable(path, value)
        case Mapping():
            for key, item in value.items():
                _check_parameter(f"{path}.{key}", item, depth - 1)
        case Sequence() if not isinstance(value, bytes | bytearray | memoryview):
            for place, item in enumerate(value):
                _check_parameter(f"{path}.{place}", item, depth - 1)
        case _:
            raise InvalidParameterError(shown(path), f"a {type(value).__name__} cannot be stored")


def _check_encodable(path: str, value: ParameterValue) -> None:
    try:
        canonical.encode(value)
    except CanonicalError as error:
        raise InvalidParameterError(shown(path), str(error)) from error


def _check_metrics(values: Mapping[str, float], *, allow_non_finite: bool) -> None:
    if len(values) > METRICS_MAX:
        raise InvalidArgumentError("metrics", f"{len(values)} in one call, at most {METRICS_MAX}")
    for name in sorted(values):
        fault = metric_name_fault(name)
        if fault:
            raise InvalidMetricError(shown(name), repr(values[name]), fault)
        if isinstance(values[name], int) and not _is_finite(values[name]):
            raise InvalidMetricError(name, shown(str(values[name])), "it is too large for a double")
        if not _is_finite(values[name]) and not allow_non_finite:
            raise InvalidMetricError(name, repr(values[name]), "it is not a finite number")


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        # An int, which typing lets pass for a float, beyond the largest float.
        return False
