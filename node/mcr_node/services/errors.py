"""Errors of `mcr.errors` as gRPC status and detail: the whole table of it. The way back is in the client."""

import grpc

from mcr import errors
from mcr.errors import McrError
from mcr.v1 import errors_pb2 as pb

METADATA_KEY = "mcr-error-bin"
# gRPC refuses metadata of 8 KiB and more by default; base64 takes a third, other entries need a little too.
DETAIL_BYTES_MAX = 4096
TEXT_CHARACTERS_MAX = 512

# The nearest base of an error decides. gRPC clients without our detail act on the status alone, so it says
# what they can do: UNAVAILABLE = repeat as it is, ABORTED = look again and decide anew.
_STATUS: dict[type[McrError], grpc.StatusCode] = {
    errors.UsageError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.HistoryGoneError: grpc.StatusCode.OUT_OF_RANGE,
    errors.ConflictError: grpc.StatusCode.ABORTED,
    errors.AlreadyExistsError: grpc.StatusCode.ALREADY_EXISTS,
    errors.DurabilityError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.UnavailableError: grpc.StatusCode.UNAVAILABLE,
    errors.NoQuorumError: grpc.StatusCode.UNAVAILABLE,
    errors.NotAllowedError: grpc.StatusCode.PERMISSION_DENIED,
    errors.CorruptError: grpc.StatusCode.DATA_LOSS,
    errors.LastCopyError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.QuotaExceededError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.OutOfSpaceError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.NodeBusyError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineError: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.FailedError: grpc.StatusCode.INTERNAL,
    # What the client meets with its own files and installation; a node that says so speaks of its own.
    McrError: grpc.StatusCode.FAILED_PRECONDITION,
}


def status_of(error: McrError) -> grpc.StatusCode:
    """Return the gRPC status of an error."""
    return next(_STATUS[base] for base in type(error).__mro__ if base in _STATUS)


def detail_of(error: McrError) -> bytes:
    """Return the encoded ErrorDetail, small enough for metadata whatever the fields hold."""
    limit = TEXT_CHARACTERS_MAX
    while True:
        detail = _detail(error, limit)
        if len(detail) <= DETAIL_BYTES_MAX or not limit:
            return detail
        limit //= 2


def _detail(error: McrError, characters_max: int) -> bytes:
    detail = pb.ErrorDetail(code=error.code, message=_cut(error.message, characters_max))
    detail.hint = _cut(error.hint, characters_max)
    for name, value in error.fields().items():
        if isinstance(value, int):
            detail.fields.add(name=name, number=value)
        else:
            detail.fields.add(name=name, text=_cut(value, characters_max))
    return detail.SerializeToString()


def _cut(text: str, characters_max: int) -> str:
    # Paths may hold bytes that are no UTF-8, as lone surrogates; protobuf texts may not.
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= characters_max else text[:characters_max] + "…"
