"""Errors of `mcr.errors` as gRPC status: the whole table of it. The way back is in the client."""

import grpc

from mcr import errors
from mcr.errors import McrError

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
